"""From a fitted network to a bundle: round, calibrate, export, check, score, write. The folder appears once complete.

weights rounded to half (if the recipe stores them so) -> temperature on validation -> graph -> golden captures:
torch and ONNX Runtime must agree -> validation and test scored through the graph -> case thresholds on validation
-> robustness audit, reference statistics, figures, report -> what engines must reproduce (trainer/proof.py), the half
graph first -> bundle.json, last -> renamed into place
"""

import copy
import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from contract.bundle import (
    EXPECTED,
    GOLDEN,
    HALF_MODEL,
    MODEL,
    Bundle,
    Calibration,
    GoldenCapture,
    GoldenSet,
    Manifest,
    file_digest,
    write_manifest,
)
from contract.bundle_warnings import bundle_warnings
from contract.errors import ExportError
from contract.files import whole_folder
from contract.imaging import decode
from contract.novelty import FILE, open_reference
from trainer import assess, figures, marking, metrics, pictures, reference, report, shortcuts, splits
from trainer.cache import DecodedCaptures
from trainer.config import Config, to_toml
from trainer.data import LabelledData
from trainer.devices import device_name
from trainer.fit import Fitted
from trainer.fold import folded
from trainer.graph import GraphRunner, export_graph, graph_outputs, set_temperature
from trainer.labelled import SPLITS
from trainer.model import Exportable, HalfBackbone, multiply_adds, parameter_count, round_to_half
from trainer.progress import bar
from trainer.proof import HIDDEN_CAPTURES, half_failures, spread, write_expectations
from trainer.splits import Split
from trainer.thresholds import fit_case_policy
from trainer.traits import Traits

WEIGHTS = "model.safetensors"
SPLIT_FILE = "split.csv"
TOLERANCE = 1e-4
"""Largest difference in probability between torch and the exported graph on the golden captures."""
UNCALIBRATED = 1.6180339
"""The temperature of a graph before its own is fitted: a number that no network has among its constants, because the
exporter shares one constant between all places that need the same number, and leaves out a division by 1."""
LIBRARIES = ("torch", "timm", "lightning", "onnx", "onnxscript", "onnxruntime", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True)
class Trained:
    """Everything that the bundle is made from.

    `identity` names its configuration, data and split; `adapted` says in sentences what was done differently from the
    recipe; `initial_weights` says where those come from (trainer/weights.py).
    """

    config: Config
    data: LabelledData
    decoded: DecodedCaptures
    traits: Traits
    split: Split
    fitted: Fitted
    identity: str
    adapted: list[str]
    initial_weights: dict[str, str]

    def rows(self, split: str) -> NDArray[np.int64]:
        return self.split.rows(split)

    def patients(self, rows: NDArray[np.int64]) -> list[str]:
        return [self.data.captures[i].patient for i in rows]


def export_bundle(trained: Trained, out: Path, *, force: bool = False) -> Bundle:
    """Write the bundle to `out`. An existing one is replaced only with `force`, and only by a complete one.

    Raises ExportError if torch and the exported graph disagree on the golden captures by more than 1e-4.
    """
    with whole_folder(out, replace=force) as folder:
        _write_files(trained, folder)
    return Bundle.open(out)


def _write_files(trained: Trained, folder: Path) -> None:
    config = trained.config
    half = config.export.precision == "half"
    network = folded(trained.fitted.network, config.image.size)
    if half:
        round_to_half(network)
    exportable = Exportable(network, UNCALIBRATED, config.export.test_time_flips).eval()
    export_graph(exportable, config.image.size, folder / MODEL, half=half)
    calibrate(trained, exportable, folder / MODEL)
    runner = GraphRunner(folder / MODEL, graph_outputs(exportable))
    copy_golden(trained, exportable, runner, folder)
    if config.export.weights:
        state = {name: value.contiguous() for name, value in trained.fitted.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (folder / SPLIT_FILE).write_text(splits.to_csv(trained.data, trained.split, named=False), encoding="utf-8")
    manifest, drawn = _measured(trained, exportable, runner, folder)
    report.write_figures(folder, drawn)
    report.render(
        "report.html", folder / "report.html", drawn, in_bundle=True, m=manifest, warnings=bundle_warnings(manifest)
    )
    write_expectations(folder, manifest, trained.decoded.pixels[spread_rows(trained, "validation", HIDDEN_CAPTURES)])
    if config.export.half_graph:
        write_half_graph(exportable, manifest, folder)
    write_manifest(folder, manifest)


def calibrate(trained: Trained, exportable: Exportable, file: Path) -> None:
    """Give `exportable` and its graph in `file` the temperature that fits the validation captures.

    The graph scores them, which takes a third of torch's time on a CPU. The logarithms of its probabilities times its
    temperature differ from the logits only by a term that softmax ignores.
    """
    rows = trained.rows("validation")
    runner = GraphRunner(file, graph_outputs(exportable))
    with bar("calibrating", len(rows)) as progress:
        probabilities = assess.predict(runner, trained.decoded.pixels, rows, progress.advance).probabilities
    logits = np.log(np.maximum(probabilities, 1e-30)) * float(exportable.temperature)
    temperature = metrics.fit_temperature(logits, trained.data.targets()[rows])
    exportable.temperature.fill_(temperature)
    set_temperature(file, temperature)


def spread_rows(trained: Trained, split: str, count: int) -> list[int]:
    """Captures of a split, from each label in turn, and within a label from as many patients as there are."""
    rows = trained.rows(split)
    labels = [trained.data.captures[i].label for i in rows]
    groups = trained.patients(rows) if trained.data.patients_known else trained.split.groups[rows].tolist()
    return spread(rows, labels, groups, count, trained.config.training.seed)


def copy_golden(trained: Trained, exportable: Exportable, runner: GraphRunner, folder: Path) -> None:
    """Copy golden captures from the test split. Raises ExportError if torch and the graph answer differently."""
    (folder / GOLDEN).mkdir()
    golden, captures = [], []
    for number, row in enumerate(spread_rows(trained, "test", trained.config.export.golden)):
        source = trained.data.root / trained.data.captures[row].path
        content = source.read_bytes()
        pixels = decode(content, trained.config.image).pixels
        name = f"{number:03d}{source.suffix.lower()}"
        (folder / GOLDEN / name).write_bytes(content)
        golden.append(GoldenCapture(file=name, probabilities=runner.probabilities(pixels[None])[0].tolist()))
        captures.append(pixels)
    check_agreement(exportable, runner, np.stack(captures))
    (folder / EXPECTED).write_text(GoldenSet(captures=golden).model_dump_json(indent=1) + "\n", encoding="utf-8")


def write_half_graph(exportable: Exportable, manifest: Manifest, folder: Path) -> None:
    """Write model.half.onnx: the backbone's arithmetic in half precision, for engines that take types from the graph.

    Raises ExportError if it does not decide on the golden and hidden captures as the float32 graph does. The most
    likely reason is a value that half precision cannot hold.
    """
    halved = copy.deepcopy(exportable)
    halved.network.backbone = HalfBackbone(halved.network.backbone)
    export_graph(halved, manifest.image.size, folder / HALF_MODEL, half=False)
    if failed := half_failures(folder, folder / HALF_MODEL, manifest):
        raise ExportError(
            f"in half precision the network does not decide as in float32: {'; '.join(failed)}; set "
            "export.half_graph = false and continue from the checkpoint: TensorRT then runs the bundle in float32"
        )


def check_agreement(exportable: Exportable, runner: GraphRunner, captures: NDArray[np.uint8]) -> None:
    """Raise ExportError if torch and the graph differ in any probability by more than 1e-4, or one is not a number."""
    with torch.inference_mode():
        expected = exportable(torch.from_numpy(captures))[0].numpy()
    difference = float(np.abs(expected - runner.probabilities(captures)).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"torch and the exported graph differ by {difference:.2g} in probability on the golden captures, more than "
            f"{TOLERANCE:g}; no bundle was written. The checkpoint is kept: try another version of onnx or torch"
        )


def _measured(
    trained: Trained, exportable: Exportable, runner: GraphRunner, folder: Path
) -> tuple[Manifest, dict[str, bytes]]:
    """Score validation and test with the graph, fit the case rule, audit, take references: manifest and figures."""
    config, targets, pixels = trained.config, trained.data.targets(), trained.decoded.pixels
    captures, temperature = trained.data.captures, float(exportable.temperature)

    def scored(split: str) -> assess.Scored:
        rows, groups = trained.rows(split), trained.split.groups
        return assess.score(runner, trained.data, config.data.benign_label, pixels, rows, groups, f"scoring {split}")

    validation, test = scored("validation"), scored("test")
    train = reference.some_of(trained.rows("train"))
    with bar("reference statistics", len(train)) as progress:
        embedded = assess.predict(runner, pixels, train, progress.advance).embedding
    taken = reference.take_reference(
        folder,
        exportable.widths(),
        pixels,
        train,
        embedded,
        targets[train],
        validation.found.embedding,
        1 - validation.found.probabilities[:, validation.of.benign],
    )
    known = open_reference((folder / FILE).read_bytes(), taken["novelty"]["blocks"])
    validation, test = (marking.marked(split, known, taken["quality"]) for split in (validation, test))
    policy, basis = fit_case_policy(validation.cases, config.case, validation.unit)
    measured = {
        name: assess.metrics(split, temperature, policy, [captures[i].site for i in split.rows])
        for name, split in (("validation", validation), ("test", test))
    }
    measured["test"]["shortcuts"] = shortcuts.on_split(trained.traits, targets, trained.rows("train"), test.rows)
    measured["test"]["robustness"] = assess.robustness(runner, test, config.export.audit_captures)
    manifest = Manifest(
        name=config.name,
        notice=config.notice,
        labels=config.data.labels,
        benign_label=config.data.benign_label,
        image=config.image,
        outputs=runner.names,
        calibration=Calibration(temperature=temperature),
        case_policy=policy,
        reference=taken,
        metrics=measured,
        provenance=_provenance(trained, basis),
        files={MODEL: file_digest(folder / MODEL)},  # write_manifest lists them all
    )
    drawn = assess.draw(test, measured["test"], temperature, policy)
    return manifest, drawn | _training_figures(trained)


def _training_figures(trained: Trained) -> dict[str, bytes]:
    config, pixels, targets = trained.config, trained.decoded.pixels, trained.data.targets()
    labels, train, fitted = config.data.labels, trained.rows("train"), trained.fitted
    counts = {name: np.bincount(targets[trained.rows(name)], minlength=len(labels)).tolist() for name in SPLITS}
    drawn = {
        "classes": figures.class_distribution(labels, counts),
        "samples": pictures.samples(pixels, train, targets, labels),
        "augmented": pictures.augmented(pixels, train, targets, labels, config.augment),
        "curves": figures.curves(fitted.history, fitted.best_epoch),
    }
    if any(fitted.finders):
        drawn["finder"] = figures.finder(fitted.finders)
    return drawn


def _provenance(trained: Trained, basis: dict[str, Any]) -> dict[str, Any]:
    split, fitted = trained.split, trained.fitted
    counts = {
        name: {
            "captures": len(rows := trained.rows(name)),
            "patients": len(set(trained.patients(rows))) if trained.data.patients_known else None,
        }
        for name in SPLITS
    }
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": trained.identity,
        "data_digest": trained.data.digest,
        "data": counts,
        "patients_known": trained.data.patients_known,
        "unreadable": len(trained.decoded.unreadable),
        "split": {
            "kind": split.kind,
            "rule": split.rule,
            "leaks": split.leaks,
            "left_out": int((split.names == splits.LEFT_OUT).sum()),
        },
        "case_thresholds": basis,
        "seed": trained.config.training.seed,
        "config": trained.config.model_dump(mode="json"),
        "adapted": trained.adapted,
        "initial_weights": trained.initial_weights,
        "parameters": parameter_count(fitted.network),
        "multiply_adds": multiply_adds(fitted.network, trained.config.image.size)
        * trained.config.export.test_time_flips,
        "best_epoch": fitted.best_epoch,
        "history": [{name: _finite(value) for name, value in row.items()} for row in fitted.history],
        "finders": fitted.finders,
        "seconds": fitted.seconds,
        "device": device_name(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
    }


def _version(distribution: str) -> str:
    """The installed version, without the local part that names the build of a machine."""
    try:
        return importlib.metadata.version(distribution).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _finite(value: Any) -> Any:
    """The value, or None for an infinite number or NaN, which JSON cannot hold."""
    return value if not isinstance(value, float) or np.isfinite(value) else None
