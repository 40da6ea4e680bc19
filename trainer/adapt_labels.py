"""What `screen adapt` asks a reviewer, and what their labels tell: accuracy on captures of the new microscope.

Half of the captures are drawn at random from those that count, so that the share that is right estimates the share of
all. The other half are those where the bundle is least sure, so that somebody sees the worst. NEW.to-label.csv names
patients and stays with the archive; nothing of it goes into the bundle.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from contract.archive import FoundCapture
from contract.bundle import Manifest
from contract.errors import DataError
from contract.names import display_name, the_one_meant
from contract.printable import printable
from contract.spreadsheet import spreadsheet_text
from contract.tables import Row, Table, read_table, table_text
from trainer.listed_files import plain
from trainer.metrics import interval
from trainer.progress import say

COLUMNS = ("path", "patient", "why", "label")
RANDOM, BORDER = "random", "border"
FEWEST = 20
"""With fewer labelled captures drawn at random, no figure is given: with 20, all of them right, the interval still
reaches down to 83 %."""
LOOKS = 8
SEED = 20161


@dataclass(frozen=True)
class Drawn:
    """Rows of captures to label: some at random, others near the border; no row is in both."""

    random: list[int]
    border: list[int]


def draw(
    count: int,
    counts: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    space: NDArray[np.float64],
    patients: NDArray[np.int64],
    manifest: Manifest,
) -> Drawn:
    """Draw `count` captures, or all if there are fewer, from those that count, `counts` [N].

    Those nearest to a border are taken from each look in turn (a look is a k-means cluster in `space` [N, d]); within a
    look, from the patient who has been drawn least so far.
    """
    rng = np.random.default_rng(SEED)
    rows = np.flatnonzero(counts)
    at_random = rng.choice(rows, min(count - count // 2, len(rows)), replace=False)
    not_drawn = np.setdiff1d(rows, at_random)
    border_count = min(count // 2, len(not_drawn))
    if not border_count:
        return Drawn(sorted(at_random.tolist()), [])
    looks = KMeans(min(LOOKS, len(not_drawn)), n_init=4, random_state=0).fit_predict(space[not_drawn])
    distance = from_border(probabilities, manifest)
    waiting = {int(look): not_drawn[looks == look].tolist() for look in np.unique(looks)}
    drawn_by_patient: Counter[int] = Counter()
    border: list[int] = []
    while len(border) < border_count:
        for look in [look for look, left in waiting.items() if left][: border_count - len(border)]:
            row = min(waiting[look], key=lambda row: (drawn_by_patient[int(patients[row])], distance[row]))
            waiting[look].remove(row)
            drawn_by_patient[int(patients[row])] += 1
            border.append(row)
    return Drawn(sorted(at_random.tolist()), border)


def from_border(probabilities: NDArray[np.floating], manifest: Manifest) -> NDArray[np.float64]:
    """How far each capture, given its probabilities [N, L], is from another label or from crossing a threshold, [N]."""
    ordered = np.sort(probabilities, axis=1)
    p_all = 1 - probabilities[:, manifest.benign_index]
    policy = manifest.case_policy
    thresholds = [np.abs(p_all - limit) for limit in (policy.benign_at_most, policy.all_at_least)]
    return np.asarray(np.min([ordered[:, -1] - ordered[:, -2], *thresholds], axis=0))


def to_csv(captures: Sequence[FoundCapture], drawn: Drawn) -> str:
    """The captures to label, in the order of their paths, which does not show what the bundle calls them. It is for a
    spreadsheet, which must not run a name as a formula.
    """
    reasons = dict.fromkeys(drawn.random, RANDOM) | dict.fromkeys(drawn.border, BORDER)
    names = {row: (captures[row].path, captures[row].patient) for row in sorted(reasons)}
    return table_text(
        COLUMNS,
        [(*(spreadsheet_text(display_name(name)) for name in named), reasons[row], "") for row, named in names.items()],
    )


@dataclass(frozen=True)
class Labels:
    """Captures that a reviewer labelled, the index of each one's label, and whether it was drawn at random."""

    captures: list[FoundCapture]
    targets: NDArray[np.int64]
    random: NDArray[np.bool_]


def read_labels(file: Path, archive: Sequence[FoundCapture], labels: Sequence[str]) -> Labels:
    """The filled lines of a file that `to_csv` wrote. Raises DataError naming the line at fault, or if fewer than
    FEWEST captures drawn at random are labelled.
    """
    table = read_table(file, needed=COLUMNS)
    for warning in table.warnings:
        say(f"warning: {warning}")
    by_path = _by_path(archive)
    filled: dict[FoundCapture, tuple[Row, str, bool]] = {}
    for row in table.rows:
        if not row["label"]:
            continue
        capture, label, is_random = _checked(table, row, by_path, labels)
        earlier, *said = filled.setdefault(capture, (row, label, is_random))
        if said != [label, is_random]:
            raise DataError(
                f"{table.at(earlier.line, row.line)}: both list {printable(row['path'])} and say different things; "
                "correct one and take the other out"
            )
    at_random = sum(is_random for _, _, is_random in filled.values())
    if at_random < FEWEST:
        raise DataError(
            f"{file}: {at_random} of the captures drawn at random are labelled; no figure is given for fewer than "
            f"{FEWEST}. Label more of them, or draw more with --draw"
        )
    return Labels(
        captures=list(filled),
        targets=np.asarray([labels.index(label) for _, label, _ in filled.values()], np.int64),
        random=np.asarray([is_random for _, _, is_random in filled.values()]),
    )


def _by_path(archive: Sequence[FoundCapture]) -> dict[str, FoundCapture]:
    """The captures by their paths as `to_csv` writes them, and in Unicode's form NFC where only one has that path."""
    by_path = {spreadsheet_text(display_name(capture.path)): capture for capture in archive}
    by_path |= {display_name(capture.path): capture for capture in archive}
    forms = Counter(unicodedata.normalize("NFC", path) for path in by_path)
    composed = {unicodedata.normalize("NFC", path): capture for path, capture in by_path.items()}
    return {path: capture for path, capture in composed.items() if forms[path] == 1} | by_path


def _checked(
    table: Table, row: Row, by_path: dict[str, FoundCapture], labels: Sequence[str]
) -> tuple[FoundCapture, str, bool]:
    """The capture of a filled line, its label, and whether it was drawn at random. Raises DataError."""
    where, written = table.at(row.line), row["path"]
    spellings = (written, plain(written), plain(written.replace("\\", "/")))
    composed = (unicodedata.normalize("NFC", path) for path in spellings)
    capture = next((by_path[path] for path in (*spellings, *composed) if path in by_path), None)
    if capture is None:
        raise DataError(f"{where}: {printable(written)} is not in the archive; label only captures of this archive")
    label, why = the_one_meant(row["label"], labels), row["why"].casefold()
    if label is None:
        raise DataError(f"{where}: unknown label {row['label']!r}; the bundle's labels are {', '.join(labels)}")
    if why not in (RANDOM, BORDER):
        raise DataError(f"{where}: why is {row['why']!r}, not {RANDOM} or {BORDER}; do not change that column")
    return capture, label, why == RANDOM


def figures(
    labels: Labels, probabilities: NDArray[np.floating], counts: NDArray[np.bool_], benign: int
) -> dict[str, Any]:
    """One bundle's accuracy, by label and for ALL against benign: on the captures drawn at random, which estimates the
    accuracy on all such captures, and on those near the border. Each is also given for only the captures that count.
    """
    right = probabilities.argmax(axis=1) == labels.targets
    right_side = (probabilities[:, benign] < 0.5) == (labels.targets != benign)
    patients = np.asarray([capture.patient for capture in labels.captures])

    def share(rows: NDArray[np.bool_], is_hit: NDArray[np.bool_]) -> dict[str, Any]:
        if not rows.any():
            return {"value": None, "hits": 0, "of": 0, "interval": None}
        hits = is_hit[rows]
        spread = interval(hits, patients[rows])
        return {"value": float(hits.mean()), "hits": int(hits.sum()), "of": int(rows.sum()), "interval": spread}

    return {
        name: {
            "accuracy": share(rows, right),
            "all_versus_benign": share(rows, right_side),
            "counting": {
                "accuracy": share(rows & counts, right),
                "all_versus_benign": share(rows & counts, right_side),
            },
        }
        for name, rows in ((RANDOM, labels.random), (BORDER, ~labels.random))
    }
