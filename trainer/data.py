"""Labelled captures: a folder per class, or a labels.csv. Any fault in them is reported here, before other work starts.

Raises DataError, whose message names the thing at fault and the next step.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import DataError
from contract.names import the_one_meant
from contract.printable import printable
from trainer.class_folders import read_class_folders
from trainer.config import DataTable
from trainer.labelled import LABELS_FILE, SPLITS, Found, LabelledCapture, with_one_spelling
from trainer.labels_file import read_labels_file

MAX_UNREADABLE = 0.01
"""With a larger share of unreadable images, training is refused: the whole copy is at fault, not single files."""


@dataclass(frozen=True)
class LabelledData:
    """The captures in the order of their paths.

    `sha256` is each file's digest; `digest` covers paths, labels, patients, given splits and bytes.
    """

    root: Path
    labels: tuple[str, ...]
    captures: tuple[LabelledCapture, ...]
    patients_known: bool
    sha256: tuple[str, ...]
    digest: str
    warnings: tuple[str, ...] = field(default=())

    def targets(self) -> NDArray[np.int64]:
        """Index of each capture's label, [N]."""
        return np.asarray([self.labels.index(capture.label) for capture in self.captures], dtype=np.int64)


def read_data(root: Path, table: DataTable, *, for_training: bool = True) -> LabelledData:
    """Read DATA: labels.csv if it has one, else a folder per class, perhaps under Original/. Raises DataError.

    Data that is not for training may hold few captures of a label, or none.
    """
    found = find_captures(root, table.labels)
    _check_labels(root, found.captures, table.labels)
    _check_patients(root, found.captures)
    warnings = list(found.warnings)
    if for_training:
        check_counts(found.captures, table, found.patients_known)
        if not found.patients_known:
            warnings.append(
                "patients are unknown: captures of one person may lie on both sides of a split, and figures may come "
                "out too high; name patients in a labels.csv, or hold out whole looks with --split-rule appearance"
            )
    sha256, digest = data_digests(root, found.captures)
    return LabelledData(
        root, tuple(table.labels), found.captures, found.patients_known, sha256, digest, tuple(warnings)
    )


def find_captures(root: Path, labels: Sequence[str] = ()) -> Found:
    """The captures under `root`, sorted by path, with every label in one spelling: that of `labels` if they are given.

    Raises DataError if there is neither a labels.csv nor a folder per class, and for any fault in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder that holds {LABELS_FILE} or one folder per class")
    has_table = os.path.lexists(root / LABELS_FILE)
    found = read_labels_file(root) if has_table else read_class_folders(root, labels)
    return with_one_spelling(found, labels)


def _check_labels(root: Path, captures: Sequence[LabelledCapture], labels: Sequence[str]) -> None:
    for capture in captures:
        if capture.label not in labels:
            where = root if capture.line is None else f"{root / LABELS_FILE}, line {capture.line}"
            raise DataError(
                f"{where}: {printable(capture.path)} has the label {capture.label!r}, which is not in the set; the "
                f"labels are {', '.join(labels)} (data.labels, or --labels){_one_level_down(root, capture, labels)}"
            )


def _one_level_down(root: Path, capture: LabelledCapture, labels: Sequence[str]) -> str:
    """The end of a sentence that names the folder whose folders are the classes, if the capture lies in one."""
    folders = capture.path.split("/")[:-1] if capture.line is None else []
    depth = next((depth for depth, folder in enumerate(folders) if the_one_meant(folder, labels)), 0)
    return f". Is {printable(str(root.joinpath(*folders[:depth])))} the folder to name?" if depth else ""


def _check_patients(root: Path, captures: Sequence[LabelledCapture]) -> None:
    first: dict[str, LabelledCapture] = {}
    for capture in captures:
        earlier = first.setdefault(capture.patient, capture)
        for kind in ("label", "split"):
            values = sorted({str(getattr(one, kind)) for one in (earlier, capture)})
            if len(values) > 1:
                lines = " and ".join(map(str, sorted([earlier.line or 0, capture.line or 0])))
                raise DataError(
                    f"{root / LABELS_FILE}, lines {lines}: patient {printable(capture.patient)} has two {kind}s: "
                    f"{' and '.join(values)}; correct one of them"
                )


def check_counts(captures: Sequence[LabelledCapture], table: DataTable, patients_known: bool) -> None:
    """Every label needs `min_images` images and, if patients are known, three patients. Raises DataError."""
    images = Counter(capture.label for capture in captures)
    patients = Counter(label for label, _ in {(capture.label, capture.patient) for capture in captures})
    for label in table.labels:
        if images[label] < table.min_images:
            raise DataError(
                f"class {label} has {images[label]} images, at least {table.min_images} are needed; add captures, "
                "or lower data.min_images"
            )
        if patients_known and patients[label] < len(SPLITS):
            raise DataError(
                f"class {label} has {patients[label]} patients; at least {len(SPLITS)} are needed, one each for "
                f"{', '.join(SPLITS)}"
            )


def data_digests(root: Path, captures: Sequence[LabelledCapture]) -> tuple[tuple[str, ...], str]:
    """sha256 of each file, and one digest over paths, labels, patients, given splits and bytes."""

    def file_sha256(capture: LabelledCapture) -> str:
        with (root / capture.path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        sha256 = tuple(pool.map(file_sha256, captures))
    total = hashlib.sha256()
    for capture, digest in zip(captures, sha256, strict=True):
        line = "\0".join([capture.path, capture.label, capture.patient, capture.split or "", digest])
        total.update(line.encode(errors="surrogateescape") + b"\n")
    return sha256, total.hexdigest()
