"""From a fitted network to a bundle: round, calibrate, export, check, score, write. The folder appears whole.

weights rounded to half (if the recipe stores them so) -> temperature on validation -> graph -> golden captures:
torch and ONNX Runtime must agree -> validation and test scored through the graph -> case thresholds on validation
-> files -> bundle.json, last -> renamed into place
"""

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable
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
    MODEL,
    Bundle,
    Calibration,
    GoldenCapture,
    GoldenSet,
    Manifest,
    file_digest,
    write_manifest,
)
from contract.case_policy import CasePolicy
from contract.errors import ExportError
from contract.imaging import decode
from trainer import evaluate, splits
from trainer.augment import to_unit
from trainer.cache import DecodedCaptures
from trainer.config import Config, to_toml
from trainer.data import LabelledData
from trainer.fit import Fitted
from trainer.fold import folded
from trainer.graph import BATCH, GraphRunner, export_graph
from trainer.model import Exportable, Network, parameter_count, round_to_half
from trainer.progress import bar
from trainer.report import write_report

WEIGHTS = "model.safetensors"
TOLERANCE = 1e-4
"""Largest difference in probability between torch and the exported graph on the golden captures."""
LIBRARIES = ("torch", "timm", "lightning", "onnx", "onnxscript", "onnxruntime", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True)
class Trained:
    """All that the bundle is made of. `split` [N] names each capture's split ("unreadable" is in none)."""

    config: Config
    data: LabelledData
    decoded: DecodedCaptures
    split: NDArray[np.str_]
    rule: str
    fitted: Fitted

    def rows(self, split: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.split == split)

    def patients(self, rows: NDArray[np.int64]) -> list[str]:
        return [self.data.captures[i].patient for i in rows]


def export_bundle(trained: Trained, out: Path, *, force: bool = False) -> Bundle:
    """Write the bundle to `out`; an existing one is replaced only with `force`, and only by a complete one.

    Raises ExportError if torch and the exported graph disagree on the golden captures by more than 1e-4.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_files(trained, folder)
        folder.chmod(0o755)  # mkdtemp is for the owner only; a bundle is read by the worker's user
        if out.exists():
            if not force:
                raise ExportError(f"{out} has appeared meanwhile; the new bundle was not written")
            shutil.rmtree(out)
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Bundle.open(out)


def _write_files(trained: Trained, folder: Path) -> None:
    config = trained.config
    half = config.export.precision == "half"
    network = folded(trained.fitted.network, config.image.size)
    if half:
        round_to_half(network)
    exportable = calibrated(trained, network)
    export_graph(exportable, config.image.size, folder / MODEL, half=half)
    runner = GraphRunner(folder / MODEL)
    write_golden(trained, exportable, runner, folder)
    if config.export.weights:
        state = {name: value.contiguous() for name, value in trained.fitted.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (folder / "split.csv").write_text(splits.to_csv(trained.data.captures, trained.split), encoding="utf-8")
    manifest = _manifest(trained, float(exportable.temperature), runner, file_digest(folder / MODEL))
    write_report(folder / "report.html", manifest)
    write_manifest(folder, manifest)


def calibrated(trained: Trained, network: Network) -> Exportable:
    """The exportable network with the temperature that fits the validation captures."""
    rows = trained.rows("validation")

    @torch.inference_mode()
    def logits(captures: NDArray[np.uint8]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = network(to_unit(torch.from_numpy(captures))).double().numpy()
        return found

    temperature = evaluate.fit_temperature(_batched(trained, rows, "calibrating", logits), trained.data.targets()[rows])
    return Exportable(network, temperature).eval()


def _batched(
    trained: Trained,
    rows: NDArray[np.int64],
    what: str,
    function: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    parts = []
    with bar(what, len(rows)) as progress:
        for start in range(0, len(rows), BATCH):
            chosen = rows[start : start + BATCH]
            parts.append(function(trained.decoded.pixels[chosen]))
            progress.advance(len(chosen))
    return np.concatenate(parts)


def golden_rows(trained: Trained) -> list[int]:
    """Test captures, spread over the labels in turn, and within a label over patients as far as there are any."""
    rng = np.random.default_rng(trained.config.training.seed)
    queues = []
    for label in trained.config.data.labels:
        rows = [int(i) for i in rng.permutation(trained.rows("test")) if trained.data.captures[i].label == label]
        seen: dict[str, int] = {}
        rank = {}
        for row in rows:  # the first capture of every patient comes before the second of any
            patient = trained.data.captures[row].patient
            rank[row] = seen[patient] = seen.get(patient, -1) + 1
        queues.append(sorted(rows, key=rank.__getitem__))
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return turns[: trained.config.export.golden]


def write_golden(trained: Trained, exportable: Exportable, runner: GraphRunner, folder: Path) -> None:
    """Copy the golden captures and write what the graph answers. Raises ExportError if torch answers otherwise."""
    (folder / GOLDEN).mkdir()
    golden, captures = [], []
    for number, row in enumerate(golden_rows(trained)):
        source = trained.data.root / trained.data.captures[row].path
        content = source.read_bytes()
        pixels = decode(content, trained.config.image).pixels
        name = f"{number:03d}{source.suffix.lower()}"
        (folder / GOLDEN / name).write_bytes(content)
        golden.append(GoldenCapture(file=name, probabilities=runner.probabilities(pixels[None])[0].tolist()))
        captures.append(pixels)
    check_agreement(exportable, runner, np.stack(captures))
    (folder / EXPECTED).write_text(GoldenSet(captures=golden).model_dump_json(indent=1) + "\n", encoding="utf-8")


def check_agreement(exportable: Exportable, runner: GraphRunner, captures: NDArray[np.uint8]) -> None:
    """Raise ExportError if any probability differs between torch and the graph by more than 1e-4, or is no number."""
    with torch.inference_mode():
        expected = exportable(torch.from_numpy(captures))[0].numpy()
    difference = float(np.abs(expected - runner.probabilities(captures)).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"torch and the exported graph differ by {difference:.2g} in probability on the golden captures, more than "
            f"{TOLERANCE:g}; no bundle was written. The checkpoint is kept: try another version of onnx or torch"
        )


def _manifest(trained: Trained, temperature: float, runner: GraphRunner, model_digest: str) -> Manifest:
    config = trained.config
    labels, benign_label = config.data.labels, config.data.benign_label
    benign = labels.index(benign_label)
    targets = trained.data.targets()
    metrics: dict[str, Any] = {}
    policy: CasePolicy | None = None
    basis: dict[str, Any] = {}
    for split in ("validation", "test"):
        rows = trained.rows(split)
        patients = trained.patients(rows)
        probabilities = _batched(trained, rows, f"scoring {split}", runner.probabilities)
        if policy is None:
            policy, basis = evaluate.fit_case_policy(
                targets[rows], probabilities, patients, benign, config.export.min_captures
            )
        metrics[split] = evaluate.capture_metrics(targets[rows], probabilities, labels, benign)
        if trained.data.patients_known:
            metrics[split]["per_patient"] = evaluate.patient_metrics(
                policy, labels, benign_label, targets[rows], probabilities, patients
            )
    assert policy is not None
    return Manifest(
        name=config.name,
        notice=config.notice,
        labels=labels,
        benign_label=benign_label,
        image=config.image,
        calibration=Calibration(temperature=temperature),
        case_policy=policy,
        metrics=metrics,
        provenance=_provenance(trained, basis),
        files={MODEL: model_digest},  # write_manifest lists them all
    )


def _provenance(trained: Trained, basis: dict[str, Any]) -> dict[str, Any]:
    counts = {
        split: {
            "captures": len(rows := trained.rows(split)),
            "patients": len(set(trained.patients(rows))) if trained.data.patients_known else None,
        }
        for split in ("train", "validation", "test")
    }
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_digest": trained.data.digest,
        "data": counts,
        "patients_known": trained.data.patients_known,
        "unreadable": len(trained.decoded.unreadable),
        "split_rule": trained.rule,
        "case_thresholds": {
            "rule": "halfway between the highest benign and the lowest ALL score of the validation patients; where "
            "they overlap, the best balanced accuracy, with up to 0.05 on either side indeterminate",
            "unit": "patient" if trained.data.patients_known else "capture: patients are unknown",
            **basis,
        },
        "seed": trained.config.training.seed,
        "config": trained.config.model_dump(mode="json"),
        "parameters": parameter_count(trained.fitted.network),
        "best_epoch": trained.fitted.best_epoch,
        "history": [{k: _finite(v) for k, v in row.items()} for row in trained.fitted.history],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
    }


def _version(distribution: str) -> str:
    """The version that is installed, without the local part that names a machine's build."""
    try:
        return importlib.metadata.version(distribution).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _finite(value: Any) -> Any:
    """JSON knows no infinity."""
    return value if not isinstance(value, float) or np.isfinite(value) else None
