"""One training run from DATA to BUNDLE: read, split, decode, fit, export. The order of events, and nothing else."""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from contract.bundle import Bundle
from contract.errors import UsageError
from contract.imaging import ImageSpec
from trainer import cache as captures_cache
from trainer import estimate, splits, traits, weights
from trainer.batches import TrainingSet
from trainer.cache import DecodedCaptures
from trainer.config import Config
from trainer.data import SPLITS, LabelledData, read_data
from trainer.devices import Devices
from trainer.export import Trained, export_bundle
from trainer.fit import fit
from trainer.model import build_network
from trainer.progress import bar, say
from trainer.splits import Fold, Split
from trainer.traits import Traits, traits_of


@dataclass(frozen=True)
class Work:
    """Where a run keeps its things, and how it works; what comes out does not depend on it."""

    cache: Path
    resume: bool = True
    force: bool = False
    devices: Devices = field(default_factory=Devices)


@dataclass(frozen=True)
class Prepared:
    """The data, decoded at the recipe's size, and what can be told of its captures without knowing a cell."""

    data: LabelledData
    decoded: DecodedCaptures
    traits: Traits


def prepare(root: Path, config: Config, cache: Path) -> Prepared:
    """See that the network can be had, then read and decode DATA. Raises SettingsError, Unavailable, DataError."""
    if config.model.initial_weights == "imagenet":
        say(f"looking for ImageNet weights of {config.model.architecture}")
    build_network(config.model, len(config.data.labels))
    data = read_data(root, config.data)
    for warning in data.warnings:
        say(f"warning: {warning}")
    decoded = decode_all(data, config.image, cache)
    seen = decoded if config.image == traits.SPEC else decode_all(data, traits.SPEC, cache)
    with bar("looking for likenesses", len(data.captures)) as progress:
        return Prepared(data, decoded, traits_of(seen.pixels, advance=progress.advance))


def decode_all(data: LabelledData, image: ImageSpec, cache: Path) -> DecodedCaptures:
    """The decoded captures, with a bar while they are decoded and a line for each that cannot be."""
    with bar("decoding", len(data.captures)) as progress:
        decoded = captures_cache.decoded(data, image, cache, progress.advance)
    for index, why in sorted(decoded.unreadable.items()):
        say(f"warning: left out {data.captures[index].path} ({why})")
    return decoded


def split_of(prepared: Prepared, config: Config, *, fold: Fold | None = None, given: Path | None = None) -> Split:
    """The split, said on stderr; in red where it leaks."""
    split = splits.assign(
        prepared.data, prepared.traits, list(prepared.decoded.unreadable), config.data, config.training.seed,
        fold=fold, given=given,
    )  # fmt: skip
    say(f"split: {split.rule}")
    say(_counts(prepared.data, split))
    if split.kind == "random" or split.leaks:
        Console(stderr=True).print(
            f"This split leaks: {split.leaks} of {len(split.rows('test'))} test captures have a near-duplicate in "
            "training. The figures will be too high.",
            style="bold red",
        )
    return split


def plan(
    prepared: Prepared, split: Split, folder: Path, config: Config, *, minutes: float | None, work: Work, runs: int = 1
) -> estimate.Plan:
    """Say how long `runs` such trainings will take, and fit them into `minutes`, if given. Raises UsageError."""
    return estimate.plan(
        config,
        training_set(prepared, split, config.resolved()),
        len(split.rows("test")),
        folder,
        minutes=minutes,
        runs=runs,
        resume=work.resume,
        devices=work.devices,
    )


def training_set(prepared: Prepared, split: Split, config: Config) -> TrainingSet:
    """The captures that train and validate."""
    return TrainingSet(
        pixels=prepared.decoded.pixels,
        targets=prepared.data.targets(),
        train=split.rows("train"),
        validation=split.rows("validation"),
        identity=identity(config, prepared.data, split.names),
    )


def train(
    prepared: Prepared,
    split: Split,
    out: Path,
    config: Config,
    *,
    checkpoint: Path,
    work: Work,
    notes: Sequence[str] = (),
) -> Bundle | None:
    """Train and write the bundle to `out`, whole or not at all, and the split with its names to `out`.split.csv.

    `notes` say what of the recipe was changed for this training; they go into the provenance. None where other
    processes trained too and this one is not their leader. Raises UsageError when `out` is taken and `force` is not
    given, DataError, SettingsError, TrainingStopped, DeviceMemoryFull, ExportError.
    """
    refuse_taken(out, work)
    resolved = config.resolved()
    adapted = list(notes)
    if resolved != config:
        adapted.append(
            "Without initial weights there is nothing to protect: all phases train all layers at the same rate, with "
            "the epochs and rates that the recipe has for training from scratch, if any."
        )
        say(f"note: {adapted[-1]}")
    initial_weights = weights.origin(config.model)
    captures = training_set(prepared, split, resolved)
    fitted = fit(resolved, captures, checkpoint, resume=work.resume, devices=work.devices)
    if not fitted.leader:
        return None
    trained = Trained(
        resolved, prepared.data, prepared.decoded, prepared.traits, split, fitted, captures.identity, adapted,
        initial_weights,
    )  # fmt: skip
    bundle = export_bundle(trained, out, force=work.force)
    named = splits.to_csv(prepared.data, split, named=True)
    out.with_name(f"{out.name}.split.csv").write_text(named, encoding="utf-8")
    return bundle


def cross_validate(
    prepared: Prepared, out: Path, config: Config, folds: int, *, work: Work, minutes: float | None = None
) -> list[Bundle]:
    """Train once for each of `folds` folds, all in `minutes`, if given; the bundles lie in `out`/fold-1 and so on.

    Finished ones are kept.
    """
    bundles = []
    notes: list[str] = []
    for number in range(1, folds + 1):
        folder = out / f"fold-{number}"
        split = split_of(prepared, config, fold=Fold(number, folds))
        if number == 1:
            planned = plan(prepared, split, out, config, minutes=minutes, work=work, runs=folds)
            config, notes = planned.config, planned.notes
        say(f"fold {number} of {folds}")
        bundle = train_or_keep(prepared, split, folder, config, work=work, notes=notes)
        if bundle is not None:
            bundles.append(bundle)
    return bundles


def train_or_keep(
    prepared: Prepared, split: Split, folder: Path, config: Config, *, work: Work, notes: Sequence[str] = ()
) -> Bundle | None:
    """The bundle in `folder` if it is of this very run, else a newly trained one. Raises what `train` does."""
    if folder.is_dir() and not work.force:
        finished = Bundle.open(folder)
        made, resolved = finished.manifest.provenance, config.resolved()
        of_this_run = made.get("identity") == identity(resolved, prepared.data, split.names)
        if not of_this_run or made["config"] != resolved.model_dump(mode="json"):
            raise UsageError(
                f"{folder} is of another recipe, data or split; name another folder with --out, or give --force to "
                "replace it"
            )
        say(f"{folder} is finished; kept")
        return finished
    checkpoint = folder.with_name(f"{folder.name}.checkpoint")
    bundle = train(prepared, split, folder, config, checkpoint=checkpoint, work=work, notes=notes)
    if bundle is not None:
        remove_checkpoint(checkpoint)
    return bundle


def refuse_taken(out: Path, work: Work) -> None:
    """Before any work: an existing bundle is replaced only with --force. Raises UsageError."""
    if out.exists() and not work.force:
        raise UsageError(f"{out} exists; name another folder with --out, or give --force to replace it")


def remove_checkpoint(folder: Path) -> None:
    """Take away the checkpoint folder that was made for a run, once its bundle is written."""
    shutil.rmtree(folder, ignore_errors=True)


def identity(config: Config, data: LabelledData, split: NDArray[np.str_]) -> str:
    """What a checkpoint belongs to; name, notice, case and export may change without making it another run."""
    settings = config.model_dump(mode="json", include={"model", "image", "data", "training", "augment"})
    parts = [settings, data.digest, split.tolist()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _counts(data: LabelledData, split: Split) -> str:
    parts = []
    for name in (*SPLITS, splits.LEFT_OUT):
        rows = split.rows(name)
        patients = len({data.captures[i].patient for i in rows})
        if len(rows) or name in SPLITS:
            parts.append(f"{name} {len(rows)} captures" + (f" of {patients} patients" if data.patients_known else ""))
    return "; ".join(parts)


def print_classes(bundle: Bundle) -> None:
    """The per-class table of the test split, and what shortcuts reach beside its accuracy, on stderr."""
    test = bundle.manifest.metrics["test"]
    beside = ", ".join(f"{name} {value:.1%}" for name, value in test["shortcuts"].items())
    table = Table(
        title=f"{bundle.manifest.name}: {test['captures']} test captures, accuracy {test['accuracy']:.4f}",
        caption=f"without looking at a cell: {beside}" if beside else None,
    )
    for column in ("label", "precision", "recall", "F1", "specificity", "AUC", "support"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, row in test["per_class"].items():
        figures = [row[name] for name in ("precision", "recall", "f1", "specificity", "auc")]
        table.add_row(label, *("-" if v is None else f"{v:.4f}" for v in figures), str(row["support"]))
    console = Console(file=sys.stderr)
    console.print(table)
    for sentence in test["robustness"]["findings"]:
        console.print(sentence)
