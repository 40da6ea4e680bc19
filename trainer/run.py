"""One training run from DATA to BUNDLE: read, split, decode, fit, export. The order of events, and nothing else."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from contract.bundle import Bundle
from contract.errors import UsageError
from trainer import cache as captures_cache
from trainer import splits
from trainer.config import Config
from trainer.data import LabelledData, read_data
from trainer.export import Trained, export_bundle
from trainer.fit import TrainingSet, fit
from trainer.progress import bar, say


def train(
    data_root: Path, out: Path, config: Config, *, cache: Path, checkpoint: Path, resume: bool, force: bool
) -> Bundle:
    """Train on the labelled captures under `data_root` and write the bundle to `out`, whole or not at all.

    Raises UsageError when `out` is taken and `force` is not given, DataError, SettingsError, TrainingStopped,
    ExportError.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists; name another folder with --out, or give --force to replace it")
    data = read_data(data_root, config.data)
    for warning in data.warnings:
        say(f"warning: {warning}")
    with bar("decoding", len(data.captures)) as progress:
        decoded = captures_cache.decoded(data, config.image, cache, progress.advance)
    for index, why in sorted(decoded.unreadable.items()):
        say(f"warning: left out {data.captures[index].path} ({why})")
    split, rule = splits.assign(data.captures, config.data, config.training.seed)
    split[list(decoded.unreadable)] = "unreadable"
    training_set = TrainingSet(
        pixels=decoded.pixels,
        targets=data.targets(),
        train=np.flatnonzero(split == "train"),
        validation=np.flatnonzero(split == "validation"),
        identity=_identity(config, data, split.tolist()),
    )
    say(_counts(data, split))
    fitted = fit(config, training_set, checkpoint, resume=resume)
    trained = Trained(config, data, decoded, split, rule, fitted)
    bundle = export_bundle(trained, out, force=force)
    print_classes(bundle)
    return bundle


def remove_checkpoint(folder: Path) -> None:
    """Take away the checkpoint folder that `train` made of itself, once its bundle is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _identity(config: Config, data: LabelledData, split: list[str]) -> str:
    """What a checkpoint belongs to; name, notice and export may change without making it another run."""
    settings = config.model_dump(mode="json", include={"model", "image", "data", "training", "augment"})
    return hashlib.sha256(json.dumps([settings, data.digest, split], sort_keys=True).encode()).hexdigest()


def _counts(data: LabelledData, split: np.ndarray) -> str:
    parts = []
    for name in ("train", "validation", "test"):
        chosen = np.flatnonzero(split == name)
        patients = len({data.captures[i].patient for i in chosen})
        parts.append(f"{name} {len(chosen)} captures" + (f" of {patients} patients" if data.patients_known else ""))
    return "; ".join(parts)


def print_classes(bundle: Bundle) -> None:
    """The per-class table of the test split, on stderr."""
    test = bundle.manifest.metrics["test"]
    table = Table(title=f"{bundle.manifest.name}: {test['captures']} test captures, accuracy {test['accuracy']:.4f}")
    for column in ("label", "precision", "recall", "F1", "specificity", "AUC", "support"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, row in test["per_class"].items():
        figures = [row[name] for name in ("precision", "recall", "f1", "specificity", "auc")]
        table.add_row(label, *("-" if v is None else f"{v:.4f}" for v in figures), str(row["support"]))
    Console(file=sys.stderr).print(table)
