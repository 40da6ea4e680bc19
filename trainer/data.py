"""Labelled captures: a folder per class, or a labels.csv. Everything wrong with them is said here, before any work.

Raises DataError, whose message names the thing at fault and the next step.
"""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import DataError
from contract.imaging import SUFFIXES
from trainer.config import DataTable

LABELS_FILE = "labels.csv"
SPLITS = ("train", "validation", "test")
MAX_UNREADABLE = 0.01
"""Share of unreadable images above which training is refused: something is wrong with the copy, not with a file."""


@dataclass(frozen=True)
class LabelledCapture:
    """One file: `path` relative to the data's root, posix; `patient` is the path where patients are unknown."""

    path: str
    label: str
    patient: str
    split: str | None = None


@dataclass(frozen=True)
class LabelledData:
    """The captures in the order of their paths. `digest` covers paths, labels, patients, given splits and bytes."""

    root: Path
    labels: tuple[str, ...]
    captures: tuple[LabelledCapture, ...]
    patients_known: bool
    digest: str
    warnings: tuple[str, ...] = field(default=())

    def targets(self) -> NDArray[np.int64]:
        """Index of each capture's label, [N]."""
        return np.asarray([self.labels.index(one.label) for one in self.captures], dtype=np.int64)


def read_data(root: Path, table: DataTable) -> LabelledData:
    """Read DATA: labels.csv if it has one, else a folder per class, perhaps under Original/. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder that holds {LABELS_FILE} or one folder per class")
    if (root / LABELS_FILE).is_file():
        captures, patients_known = _from_csv(root, table.labels)
    else:
        captures, patients_known = _from_folders(root, table.labels), False
    captures.sort(key=lambda one: one.path)
    _check_files(root, captures)
    _check_patients(captures)
    check_counts(captures, table, patients_known)
    warnings = () if patients_known else (
        "patients are unknown: every capture counts as a patient of its own, so captures of one person may lie on "
        "both sides of the split and figures may come out too high; name patients in a labels.csv",
    )  # fmt: skip
    digest = _digest(root, captures)
    return LabelledData(root, tuple(table.labels), tuple(captures), patients_known, digest, warnings)


def _from_folders(root: Path, labels: Sequence[str]) -> list[LabelledCapture]:
    base = root / "Original" if (root / "Original").is_dir() else root
    folders = sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    unknown = [folder.name for folder in folders if folder.name not in labels]
    if not folders or unknown:
        what = f"folder {unknown[0]!r} is no label" if unknown else f"neither {LABELS_FILE} nor a folder per class"
        raise DataError(f"{base}: {what}; the recipe's labels are {', '.join(labels)} (data.labels)")
    files = [
        (folder.name, file.relative_to(root).as_posix())
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    return [LabelledCapture(path, label, patient=path) for label, path in files]


def _from_csv(root: Path, labels: Sequence[str]) -> tuple[list[LabelledCapture], bool]:
    table = root / LABELS_FILE
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as UTF-8 CSV ({error}); save it again") from None
    if missing := {"path", "label"} - columns:
        raise DataError(f"{table}: column {' and '.join(sorted(missing))} is missing; it needs path and label")
    patients_known = "patient" in columns
    captures = []
    for number, row in enumerate(rows, start=2):
        if row["label"] not in labels:
            raise DataError(
                f"{table}, line {number}: unknown label {row['label']!r}; the recipe's labels are "
                f"{', '.join(labels)} (data.labels)"
            )
        if patients_known and not row["patient"]:
            raise DataError(f"{table}, line {number}: no patient; fill the column in every line or drop it")
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            raise DataError(f"{table}, line {number}: unknown split {split!r}; use {', '.join(SPLITS)}")
        patient = row["patient"] if patients_known else row["path"]
        captures.append(LabelledCapture(row["path"], row["label"], patient, split))
    given = sum(one.split is not None for one in captures)
    if 0 < given < len(captures):
        raise DataError(f"{table}: only {given} of {len(captures)} lines name a split; name it in all or in none")
    return captures, patients_known


def _check_files(root: Path, captures: Sequence[LabelledCapture]) -> None:
    twice = [path for path, count in Counter(one.path for one in captures).items() if count > 1]
    if twice:
        raise DataError(f"{root / LABELS_FILE}: {twice[0]} is listed {len(twice) + 1} times; list each file once")
    missing = [one.path for one in captures if not (root / one.path).is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} listed file{'s are' if len(missing) > 1 else ' is'} missing, the first is "
            f"{missing[0]}; copy the captures again or take the lines out of {LABELS_FILE}"
        )


def _check_patients(captures: Sequence[LabelledCapture]) -> None:
    for what, values in (("labels", _by_patient(captures, "label")), ("splits", _by_patient(captures, "split"))):
        for patient, seen in values.items():
            if len(seen) > 1:
                raise DataError(
                    f"patient {patient} has two {what}: {' and '.join(sorted(map(str, seen)))}; correct {LABELS_FILE}"
                )


def _by_patient(captures: Iterable[LabelledCapture], attribute: str) -> dict[str, set[str]]:
    seen: dict[str, set[str]] = defaultdict(set)
    for one in captures:
        seen[one.patient].add(getattr(one, attribute))
    return seen


def check_counts(captures: Sequence[LabelledCapture], table: DataTable, patients_known: bool) -> None:
    """Every label needs `min_images` images and, where patients are known, three patients. Raises DataError."""
    images = Counter(one.label for one in captures)
    patients = Counter(label for label, _ in {(one.label, one.patient) for one in captures})
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


def _digest(root: Path, captures: Sequence[LabelledCapture]) -> str:
    def line(one: LabelledCapture) -> bytes:
        with (root / one.path).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        return "\0".join([one.path, one.label, one.patient, one.split or "", content]).encode(errors="surrogateescape")

    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for one in pool.map(line, captures):
            total.update(one + b"\n")
    return total.hexdigest()
