"""Reads DATA that holds a folder for each class, and recognises other layouts that look like it."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.archive import walk
from contract.errors import DataError
from contract.names import cleaned, first_of
from contract.printable import printable
from contract.states import SkipReason
from trainer.labelled import LABELS_FILE, SPLITS, Found, LabelledCapture, is_part_of_split

WITH_CAPTURES = "original"
"""The Kaggle set has Segmented/ beside Original/. It holds the same captures and is not read: the graph segments them
itself."""
_TABLE_FILE = re.compile(r"labels?(\b|_).*\.(csv|tsv|xlsx?|xlsm|ods|numbers)(\.txt)?")
SHOWN = 5


def read_class_folders(root: Path, labels: Sequence[str] = ()) -> Found:
    """The captures in the folders of DATA, or of DATA/Original; each folder's name is a label. What is junk in an
    archive is junk here too. Raises DataError for another layout: a table of another name, or a split by folders.
    """
    _refuse_other_table(root, root)
    base = next((folder for folder in sorted(root.iterdir()) if _is_original(folder)), root)
    _refuse_other_table(root, base)
    below, walked = base.relative_to(root), walk(base, follow_links=True)
    captures = []
    for capture in walked.captures:
        path, label = os.fsdecode(capture.path), cleaned(os.fsdecode(capture.patient))
        captures.append(LabelledCapture((below / path).as_posix(), label, patient=(below / path).as_posix()))
    if not captures:
        raise DataError(
            f"{base}: neither {LABELS_FILE} nor a folder per class with captures; name the folder above them"
        )
    _refuse_splits(root, base, [capture.path.split("/")[len(below.parts) :] for capture in captures], labels)
    captures.sort(key=lambda capture: capture.path)
    return Found(tuple(captures), False, tuple(_not_read(base, walked.skipped)))


def _is_original(folder: Path) -> bool:
    return folder.name.casefold() == WITH_CAPTURES and folder.is_dir()


def _refuse_other_table(root: Path, folder: Path) -> None:
    """A table that is called Labels.csv or labels.xlsx, or lies in Original/, is not read, and surely meant to be."""
    for file in sorted(folder.iterdir()):
        if _TABLE_FILE.fullmatch(file.name.casefold()) and file.is_file():
            raise DataError(
                f"{folder}: holds {printable(file.name)}, and only {root / LABELS_FILE} is read; save it there as CSV "
                "in UTF-8, or move it away if the folders' names are the labels"
            )


def _refuse_splits(root: Path, base: Path, paths: Sequence[Sequence[str]], labels: Sequence[str]) -> None:
    """A folder per part of a split, above the classes or in them: that split would be forgotten without a word."""
    classes: dict[str, set[str]] = defaultdict(set)
    for top, *rest in paths:
        if is_part_of_split(top, labels):
            classes[top].update(rest[:1] if len(rest) > 1 else ())
    inner = {rest[0] for _, *rest in paths if len(rest) > 1 and is_part_of_split(rest[0], labels)}
    if classes:
        found = " and ".join(
            printable(top) + (f" (with {', '.join(map(printable, sorted(names)[:SHOWN]))})" if names else "")
            for top, names in sorted(classes.items())
        )
    elif len(inner) > 1:
        found = f"{' and '.join(map(printable, sorted(inner)))} in the folders of its classes"
    else:
        return
    part = base / min(classes) if classes else None
    own_table = part is not None and (part / LABELS_FILE).is_file()
    with_classes = part is not None and (own_table or bool(classes[part.name]))
    raise DataError(
        f"{base}: holds {found}, which look like parts of a split, not like labels; a split is not read from folders, "
        f"because they do not say whose the captures are. Write {root / LABELS_FILE} with the columns path, label, "
        f"split ({', '.join(SPLITS)}) and, if you know it, patient"
        + (f"; or name one part, such as {part}, and let the trainer split it" if with_classes else "")
    )


def _not_read(base: Path, skipped: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences about files that are not read, junk excepted; what lies beside the classes' folders only if it is a
    capture.
    """
    sentences = []
    for reason, found in sorted(skipped.items()):
        names = [name for name in found if "/" in name or reason != SkipReason.NOT_A_CAPTURE]
        if not names or reason == SkipReason.JUNK:
            continue
        why = "outside of every class's folder" if reason == SkipReason.NO_PATIENT else f"({reason})"
        sentences.append(f"{base}: left out {len(names)} files {why}: {first_of(names, SHOWN)}")
    return sentences
