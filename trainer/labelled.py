"""One labelled capture, and what both layouts of DATA, a labels.csv and a folder per class, have in common."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from contract.names import alike, the_one_meant

LABELS_FILE = "labels.csv"
SPLITS = ("train", "validation", "test")
_SPLIT_FOLDER = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev|hold[ _-]?out)([ _-]?(set|data|images?|split))?"
    r"|(fold|split|cv)[ _-]?\d+"
)


@dataclass(frozen=True)
class LabelledCapture:
    """One file: `path` relative to the data's root, posix, as it is on disk; `patient` is the path if patients are
    unknown; `line` is that of the labels.csv which lists it, None without one.
    """

    path: str
    label: str
    patient: str
    split: str | None = None
    site: str | None = None
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Found:
    """The captures of a data set in the order of their paths, whatever their labels; and what the user should know."""

    captures: tuple[LabelledCapture, ...]
    patients_known: bool
    warnings: tuple[str, ...] = ()


def with_one_spelling(found: Found, labels: Sequence[str] = ()) -> Found:
    """The captures with every label as `labels` has it. Without `labels`, one that is written in several ways gets its
    most frequent spelling. A warning names each change.
    """
    counts = Counter(capture.label for capture in found.captures)
    known = labels or list({alike(label): label for label, _ in reversed(counts.most_common())}.values())
    meant = {label: the_one_meant(label, known) or label for label in counts}
    captures = tuple(replace(capture, label=meant[capture.label]) for capture in found.captures)
    warnings = [
        f"the label {label!r} is read as {right!r} ({counts[label]} captures)"
        for label, right in meant.items()
        if label != right
    ]
    return replace(found, captures=captures, warnings=(*found.warnings, *warnings))


def is_part_of_split(folder: str, labels: Sequence[str] = ()) -> bool:
    """Whether a folder is called like a part of a split (`train`, `val`, `fold 1`), and not like one of `labels`."""
    return _SPLIT_FOLDER.fullmatch(folder.casefold().strip()) is not None and the_one_meant(folder, labels) is None
