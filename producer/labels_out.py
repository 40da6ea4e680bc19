"""Writes reviewed labels as a labels.csv, for `screen review export`."""

import csv
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TextIO

from contract.printable import printable
from contract.pseudonyms import RealPaths, real_paths
from contract.settings import get_settings
from contract.spreadsheet import spreadsheet_text
from db.reviewed_labels import ReviewedCapture
from producer.csv_text import BYTE_ORDER_MARK


def write_labels(
    stream: TextIO, captures: Iterable[ReviewedCapture], folder: Path, with_site: bool, *, for_excel: bool = False
) -> tuple[int, Counter[str]]:
    """Returns the number of rows, and how many captures were left out for each reason. Paths below `folder` are
    relative to it, others absolute; they are the real ones, also for pseudonyms. `for_excel` is for people, and
    `screen train` need not understand it (contract/spreadsheet.py). Raises PseudonymKeyMissing.
    """
    if for_excel:
        stream.write(BYTE_ORDER_MARK)
    cell = _for_excel if for_excel else _unchanged
    writer = csv.writer(stream, lineterminator="\r\n" if for_excel else "\n")
    writer.writerow(("path", "label", "patient", *(("site",) if with_site else ())))
    written, unused = 0, Counter[str]()

    @cache
    def on_disk(root: bytes, fingerprint: str, patient_depth: int) -> RealPaths:
        return real_paths(root, fingerprint, get_settings().pseudonym_key_file, patient_depth)

    for capture in captures:
        case = capture.case
        fingerprint = case.pseudonym_key
        real_path = capture.path
        if fingerprint is not None:
            real_path = on_disk(case.root, fingerprint, case.patient_depth)(capture.path)
        path = Path(os.fsdecode(os.path.join(case.root, real_path)))  # noqa: PTH118 - bytes
        if capture.left_out is not None:
            unused[capture.left_out] += 1
        elif not _is_utf8(path):
            unused["their names are not UTF-8"] += 1
        else:
            shown = path.relative_to(folder) if path.is_relative_to(folder) else path
            site = (case.site or "",) if with_site else ()
            writer.writerow(map(cell, (shown.as_posix(), case.label, case.patient, *site)))
            written += 1
    return written, unused


def _for_excel(text: str) -> str:
    return spreadsheet_text(printable(text))


def _unchanged(text: str) -> str:
    return text


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
