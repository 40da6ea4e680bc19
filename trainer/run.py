"""One training run from DATA to BUNDLE: read, split, decode, fit, export. This module only sets the order of steps."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from contract.bundle import Bundle
from contract.errors import UsageError
from contract.files import check_writable, write_whole
from contract.imaging import ImageSpec
from contract.terminal import plain, terminal
from trainer import cache as captures_cache
from trainer import estimate, splits, traits, weights
from trainer.batches import TrainingSet
from trainer.cache import DecodedCaptures
from trainer.config import Config, DataTable
from trainer.data import LabelledData, read_data
from trainer.devices import Devices
from trainer.export import Trained, export_bundle
from trainer.fit import fit
from trainer.labelled import SPLITS
from trainer.model import build_network
from trainer.progress import bar, say
from trainer.splits import Fold, Split
from trainer.traits import Traits, traits_of


@dataclass(frozen=True)
class Work:
    """Where a run keeps its files, and how it works; the result does not depend on it."""

    cache: Path
    resume: bool = True
    force: bool = False
    devices: Devices = field(default_factory=Devices)


@dataclass(frozen=True)
class Prepared:
    """The data, decoded at the recipe's size, and the traits of its captures that show without looking at a cell."""

    data: LabelledData
    decoded: DecodedCaptures
    traits: Traits


def prepare(root: Path, config: Config, cache: Path, *, given_split: Path | None = None) -> Prepared:
    """Read DATA, check that it has the given split and that the network can be built, and decode.

    Raises DataError, SettingsError, Unavailable.
    """
    data = read_labelled(root, config.data)
    if given_split is not None:
        splits.given_names(given_split, data)
    if config.model.initial_weights == "imagenet":
        say(f"looking for ImageNet weights of {config.model.architecture}")
    build_network(config.model, len(config.data.labels))
    decoded = decode_all(data, config.image, cache)
    for_traits = decoded if config.image == traits.SPEC else decode_all(data, traits.SPEC, cache)
    with bar("looking for near-duplicates", len(data.captures)) as progress:
        return Prepared(data, decoded, traits_of(for_traits.pixels, advance=progress.advance))


def read_labelled(root: Path, table: DataTable, *, for_training: bool = True) -> LabelledData:
    """Read DATA as `read_data` does, and print its warnings on stderr. Raises DataError."""
    data = read_data(root, table, for_training=for_training)
    for warning in data.warnings:
        say(f"warning: {warning}")
    return data


def decode_all(data: LabelledData, image: ImageSpec, cache: Path) -> DecodedCaptures:
    """The decoded captures; shows a bar meanwhile, and a line for each capture that cannot be decoded."""
    with bar("decoding", len(data.captures)) as progress:
        decoded = captures_cache.decoded(data, image, cache, progress.advance)
    for index, reason in sorted(decoded.unreadable.items()):
        say(f"warning: left out {data.captures[index].path} ({reason})")
    return decoded


def split_of(prepared: Prepared, config: Config, *, fold: Fold | None = None, given: Path | None = None) -> Split:
    """Split the data and print the split on stderr, with a red warning where it leaks."""
    split = splits.assign(
        prepared.data, prepared.traits, list(prepared.decoded.unreadable), config.data, config.training.seed,
        fold=fold, given=given,
    )  # fmt: skip
    say(f"split: {split.rule}")
    say(_counts(prepared.data, split))
    if split.kind == "random" or split.leaks:
        terminal(stderr=True).print(
            f"This split leaks: {split.leaks} of {len(split.rows('test'))} test captures have a near-duplicate in "
            "training. The figures will be too high.",
            style="bold red",
        )
    return split


def plan(
    prepared: Prepared, split: Split, folder: Path, config: Config, *, minutes: float | None, work: Work, runs: int = 1
) -> estimate.Plan:
    """Print how long `runs` such trainings will take, and fit them into `minutes`, if given. Raises UsageError."""
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
    """The training and validation captures."""
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

    `notes` say what this training changed in the recipe; they go into the provenance. Returns None where other
    processes trained too and this one is not their leader. Raises UsageError when `out` exists and `work.force` is not
    set, DataError, SettingsError, TrainingStopped, DeviceMemoryFull, ExportError.
    """
    refuse_taken(out, work)
    resolved = config.resolved()
    all_notes = list(notes)
    if resolved != config:
        all_notes.append(
            "Without initial weights there is nothing to protect: all phases train all layers at the same rate, with "
            "the epochs and rates that the recipe has for training from scratch, if any."
        )
        say(f"note: {all_notes[-1]}")
    initial_weights = weights.origin(config.model)
    captures = training_set(prepared, split, resolved)
    fitted = fit(resolved, captures, checkpoint, resume=work.resume, devices=work.devices)
    if not fitted.leader:
        return None
    trained = Trained(
        resolved, prepared.data, prepared.decoded, prepared.traits, split, fitted, captures.identity, all_notes,
        initial_weights,
    )  # fmt: skip
    bundle = export_bundle(trained, out, force=work.force)
    named = splits.to_csv(prepared.data, split, named=True)
    write_whole(out.with_name(f"{out.name}.split.csv"), named)
    return bundle


def cross_validate(
    prepared: Prepared, out: Path, config: Config, folds: int, *, work: Work, minutes: float | None = None
) -> list[Bundle]:
    """Train once for each of `folds` folds, all within `minutes`, if given, into the bundles `out`/fold-1 and so on.

    Finished bundles are kept.
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
    """The bundle in `folder` if this same run made it, otherwise a new one. Raises the same errors as `train`."""
    if folder.is_dir() and not work.force:
        finished = Bundle.open(folder)
        provenance, resolved = finished.manifest.provenance, config.resolved()
        same_run = provenance.get("identity") == identity(resolved, prepared.data, split.names)
        if not same_run or provenance["config"] != resolved.model_dump(mode="json"):
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
    """Check before any work that `out` is free, because only --force replaces an existing bundle, and can be written.

    Raises UsageError, OSError.
    """
    if out.exists() and not work.force:
        raise UsageError(f"{out} exists; name another folder with --out, or give --force to replace it")
    check_writable(out)


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint folder of a run after its bundle is written."""
    shutil.rmtree(folder, ignore_errors=True)


def identity(config: Config, data: LabelledData, split: NDArray[np.str_]) -> str:
    """Digest of the run that a checkpoint belongs to. Name, notice, case and export of the recipe do not affect it."""
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
    """Print the per-class table of the test split on stderr, with the accuracy that shortcuts reach for comparison."""
    test = bundle.manifest.metrics["test"]
    shortcuts = ", ".join(f"{name} {value:.1%}" for name, value in test["shortcuts"].items())
    table = Table(
        title=plain(f"{bundle.manifest.name}: {test['captures']} test captures, accuracy {test['accuracy']:.4f}"),
        caption=f"without looking at a cell: {shortcuts}" if shortcuts else None,
    )
    for column in ("label", "precision", "recall", "F1", "specificity", "AUC", "support"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, row in test["per_class"].items():
        figures = [row[name] for name in ("precision", "recall", "f1", "specificity", "auc")]
        table.add_row(
            plain(label), *("-" if figure is None else f"{figure:.4f}" for figure in figures), str(row["support"])
        )
    console = terminal(stderr=True)
    console.print(table)
    for sentence in test["robustness"]["findings"]:
        console.print(plain(sentence))
