"""Labelled captures: a folder per class, or a labels.csv. Any fault in them is reported here, before other work starts.

Raises DataError, whose message names the thing at fault and the next step.
"""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.archive import walk
from contract.errors import DataError
from trainer.config import DataTable

LABELS_FILE = "labels.csv"
SPLITS = ("train", "validation", "test")
MAX_UNREADABLE = 0.01
"""With a larger share of unreadable images, training is refused: the whole copy is at fault, not single files."""


@dataclass(frozen=True)
class LabelledCapture:
    """One file: `path` relative to the data's root, posix; `patient` is the path if patients are unknown."""

    path: str
    label: str
    patient: str
    split: str | None = None
    site: str | None = None


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
    captures, patients_known = find_captures(root)
    _check_labels(root, captures, table.labels)
    refuse_missing(root, captures)
    _check_patients(captures)
    if for_training:
        check_counts(captures, table, patients_known)
    warnings = () if patients_known else (
        "patients are unknown: captures of one person may lie on both sides of a split, and figures may come out too "
        "high; name patients in a labels.csv, or hold out whole looks with --split-rule appearance",
    )  # fmt: skip
    sha256, digest = data_digests(root, captures)
    return LabelledData(root, tuple(table.labels), tuple(captures), patients_known, sha256, digest, warnings)


def find_captures(root: Path) -> tuple[list[LabelledCapture], bool]:
    """The captures under `root`, whatever their labels, sorted by path; and whether patients are known.

    Raises DataError if there is neither a labels.csv nor a folder per class.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder that holds {LABELS_FILE} or one folder per class")
    if (root / LABELS_FILE).is_file():
        captures, patients_known = _from_csv(root)
    else:
        captures, patients_known = _from_folders(root), False
    captures.sort(key=lambda capture: capture.path)
    return captures, patients_known


def _from_folders(root: Path) -> list[LabelledCapture]:
    """Read one folder per class, below Original/ if there is one.

    The Kaggle set has Segmented/ beside it. It holds the same captures and is not read: the graph segments them itself.
    """
    base = root / "Original" if (root / "Original").is_dir() else root
    below = base.relative_to(root)
    captures = [
        ((below / os.fsdecode(capture.path)).as_posix(), os.fsdecode(capture.patient))
        for capture in walk(base, follow_links=True).captures
    ]
    if not captures:
        raise DataError(
            f"{base}: neither {LABELS_FILE} nor a folder per class with captures; name the folder above them"
        )
    return [LabelledCapture(path, label, patient=path) for path, label in captures]


def _from_csv(root: Path) -> tuple[list[LabelledCapture], bool]:
    table = root / LABELS_FILE
    rows, columns = read_csv(table, needed=("path", "label"))
    patients_known = "patient" in columns
    captures = []
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not row["label"]:
            raise DataError(f"{table}, line {number}: path or label is empty; fill it or take the line out")
        if patients_known and not row["patient"]:
            raise DataError(f"{table}, line {number}: no patient; fill the column in every line or drop it")
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            raise DataError(f"{table}, line {number}: unknown split {split!r}; use {', '.join(SPLITS)}")
        patient = row["patient"] if patients_known else row["path"]
        captures.append(LabelledCapture(row["path"], row["label"], patient, split, row.get("site") or None))
    split_count = sum(capture.split is not None for capture in captures)
    if 0 < split_count < len(captures):
        raise DataError(f"{table}: only {split_count} of {len(captures)} lines name a split; name it in all or in none")
    return captures, patients_known


def read_csv(file: Path, needed: Sequence[str]) -> tuple[list[dict[str, str]], set[str]]:
    """The rows of a CSV file, missing values as "", and its columns. Raises DataError naming a missing column."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 CSV ({error}); save it again") from None
    if missing := sorted(set(needed) - columns):
        raise DataError(f"{file}: column {' and '.join(missing)} is missing; it needs {' and '.join(needed)}")
    return rows, columns


def _check_labels(root: Path, captures: Sequence[LabelledCapture], labels: Sequence[str]) -> None:
    for capture in captures:
        if capture.label not in labels:
            raise DataError(
                f"{root}: {capture.path} has the label {capture.label!r}, which is not in the set; the labels are "
                f"{', '.join(labels)} (data.labels, or --labels)"
            )
    if not captures:
        raise DataError(f"{root}: holds no capture; name the folder that holds {LABELS_FILE} or one folder per class")


def refuse_missing(root: Path, captures: Sequence[LabelledCapture]) -> None:
    """Raise DataError unless every file is listed once and exists."""
    for path, count in Counter(capture.path for capture in captures).items():
        if count > 1:
            raise DataError(f"{root / LABELS_FILE}: {path} is listed {count} times; list each file once")
    missing = [capture.path for capture in captures if not (root / capture.path).is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} listed file{'s are' if len(missing) > 1 else ' is'} missing, the first is "
            f"{missing[0]}; copy the captures again or take the lines out of {LABELS_FILE}"
        )


def _check_patients(captures: Sequence[LabelledCapture]) -> None:
    for kind, values in (("labels", _by_patient(captures, "label")), ("splits", _by_patient(captures, "split"))):
        for patient, seen in values.items():
            if len(seen) > 1:
                raise DataError(
                    f"patient {patient} has two {kind}: {' and '.join(sorted(map(str, seen)))}; correct {LABELS_FILE}"
                )


def _by_patient(captures: Iterable[LabelledCapture], attribute: str) -> dict[str, set[str]]:
    seen: dict[str, set[str]] = defaultdict(set)
    for capture in captures:
        seen[capture.patient].add(getattr(capture, attribute))
    return seen


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
