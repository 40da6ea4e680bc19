"""Reads DATA/labels.csv: a row for each capture, with its label, and patient, split and site if they are known."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from contract.entries import is_junk
from contract.errors import DataError
from contract.names import alike
from contract.printable import printable
from contract.tables import Row, Table, read_table
from trainer.labelled import LABELS_FILE, SPLITS, Found, LabelledCapture, is_part_of_split
from trainer.listed_files import ListedFiles

NEEDED, OPTIONAL = ("path", "label"), ("patient", "split", "site")
NOBODY = frozenset(
    map(alike, ("nan", "null", "none", "n/a", "unknown", "unbekannt", "?", "-", "#n/a", "#nv", "#null!"))
)
"""What programs and people write where a patient is not known. All such captures would be one patient."""
_SHORTENED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
"""How a spreadsheet shows a long number if it does not know that it is a name: 20240131001 becomes 2,02E+10."""


def read_labels_file(root: Path) -> Found:
    """The captures that DATA/labels.csv lists. Raises DataError naming the line at fault."""
    table = read_table(root / LABELS_FILE, NEEDED, OPTIONAL)
    captures = [_capture(table, row) for row in table.rows]
    for column, kind in (("patient", "patient"), ("site", "site")):
        table.refuse_lookalikes(column, kind)
    split_count = sum(capture.split is not None for capture in captures)
    if 0 < split_count < len(captures):
        first = next(capture.line for capture in captures if capture.split is None)
        raise DataError(
            f"{table.file}: only {split_count} of {len(captures)} lines name a split, line {first} does not; name it "
            "in all or in none"
        )
    captures, repeated = _once(table, _on_disk(root, table, captures))
    captures.sort(key=lambda capture: capture.path)
    warnings = (*table.warnings, *repeated, *_split_in_paths(table, captures))
    return Found(tuple(captures), "patient" in table.columns, warnings)


def _capture(table: Table, row: Row) -> LabelledCapture:
    where, patients_known = table.at(row.line), "patient" in table.columns
    if not row["path"] or not row["label"]:
        raise DataError(f"{where}: path or label is empty; fill it or take the line out")
    if patients_known and not row["patient"]:
        raise DataError(f"{where}: no patient; fill the column in every line or drop it")
    if patients_known and (alike(row["patient"]) in NOBODY or row["patient"].startswith("#")):
        raise DataError(
            f"{where}: the patient is {row['patient']!r}, which names nobody; all such captures would be one patient. "
            "Name each one's patient, or drop the column"
        )
    if patients_known and _SHORTENED.fullmatch(row["patient"]):
        raise DataError(
            f"{where}: the patient is {row['patient']!r}, a number that a spreadsheet has shortened, so that different "
            "patients become one; give the column the format Text, enter the numbers again and export it again"
        )
    split = row["split"].casefold() or None
    if split is not None and split not in SPLITS:
        raise DataError(f"{where}: unknown split {row['split']!r}; use {', '.join(SPLITS)}")
    path = row["path"]
    return LabelledCapture(
        path, row["label"], row["patient"] if patients_known else path, split, row["site"] or None, row.line
    )


def _on_disk(root: Path, table: Table, captures: Sequence[LabelledCapture]) -> list[tuple[LabelledCapture, object]]:
    """Each capture with its path as it is on disk, and what tells its file from others. Raises DataError."""
    files, found, missing = ListedFiles(root), [], []
    patients_known = "patient" in table.columns
    for capture in captures:
        assert capture.line is not None
        file = files.find(capture.path, table.at(capture.line))
        if file is None:
            missing.append(capture)
            continue
        if junk := _junk_in(file.path):
            raise DataError(
                f"{table.at(capture.line)}: {junk!r} in the path is what an archive's walk leaves out: a hidden or "
                "waste copy that some program made. Take the line out, or rename it if it is a capture of its own"
            )
        patient = capture.patient if patients_known else file.path
        found.append((replace(capture, path=file.path, patient=patient), file.identity))
    if missing:
        first = missing[0]
        raise DataError(
            f"{table.at(first.line or 0)}: {len(missing)} listed file{'s are' if len(missing) > 1 else ' is'} missing, "
            f"the first is {printable(first.path)}{files.hint(first.path)}; copy the captures again, correct the paths "
            f"(they begin in {root}), or take the lines out"
        )
    return found


def _junk_in(path: str) -> str | None:
    """The folder or file that a walk of an archive leaves out. An absolute path may lead through hidden folders."""
    parts = path.split("/")
    below = parts[-1:] if path.startswith("/") else [part for part in parts if part != ".."]
    return next((part for part in below if is_junk(os.fsencode(part))), None)


def _split_in_paths(table: Table, captures: Sequence[LabelledCapture]) -> list[str]:
    """A warning if the folders look like a split that the table does not give."""
    parts = sorted({part for capture in captures for part in capture.path.split("/")[:-1] if is_part_of_split(part)})
    if "split" in table.columns or len(parts) < 2:
        return []
    shown = " and ".join(map(printable, parts[:2]))
    return [f"{table.file}: no column split, though captures lie in folders called {shown}; the split ignores them"]


def _once(
    table: Table, captures: Sequence[tuple[LabelledCapture, object]]
) -> tuple[list[LabelledCapture], tuple[str, ...]]:
    """Each file once, and a warning where several lines list one. Raises DataError if they say different things."""
    first: dict[object, LabelledCapture] = {}
    repeated: list[LabelledCapture] = []
    for capture, identity in captures:
        earlier = first.setdefault(identity, capture)
        if earlier is capture:
            continue
        for name in ("label", *(one for one in OPTIONAL if one in table.columns)):
            one, other = getattr(earlier, name), getattr(capture, name)
            if one != other and not (name == "label" and alike(one) == alike(other)):
                raise DataError(
                    f"{table.at(earlier.line or 0, capture.line or 0)}: both list {printable(capture.path)}, with the "
                    f"{name} {one!r} and {other!r}; correct one and take the other out"
                )
        repeated.append(capture)
    if not repeated:
        return list(first.values()), ()
    lines = f"{len(repeated)} lines list files" if len(repeated) > 1 else "1 line lists a file"
    warning = f"{table.file}: {lines} a second time, the first is line {repeated[0].line}; each file is read once"
    return list(first.values()), (warning,)
