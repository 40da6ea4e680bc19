"""Which captures train, which choose (epoch, temperature, thresholds), and which are only scored.

Captures that belong together form a group, and a split holds out whole groups: a patient, a cluster of near-duplicates,
a run of file numbers, a look. Where two near-duplicates of different groups fall into different splits, the one in the
less strict split is left out; the test is the strictest split, then validation.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.model_selection import StratifiedGroupKFold

from contract.errors import DataError
from contract.tables import read_table, table_text
from trainer.config import DataTable
from trainer.data import LabelledData
from trainer.labelled import SPLITS
from trainer.listed_files import plain
from trainer.traits import Traits, clusters, near_duplicates

ATTEMPTS = 20
LEFT_OUT, UNREADABLE = "left_out", "unreadable"
"""Captures in no split: the first resemble a capture of a stricter split, the second cannot be decoded."""
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Split:
    """`names` [N] is train, validation, test, left_out or unreadable; `groups` [N] numbers each capture's group.

    `rule` is a sentence. `leaks` counts test captures with a near-duplicate among the training captures.
    """

    kind: str
    rule: str
    names: Names
    groups: NDArray[np.int64]
    leaks: int

    def rows(self, name: str) -> NDArray[np.int64]:
        """Rows of one split, ascending."""
        return np.flatnonzero(self.names == name)


@dataclass(frozen=True)
class Fold:
    """Fold `number` (from 1) of `of` folds: its captures are the test."""

    number: int
    of: int


def assign(
    data: LabelledData,
    traits: Traits,
    unreadable: Sequence[int],
    table: DataTable,
    seed: int,
    *,
    fold: Fold | None = None,
    given: Path | None = None,
) -> Split:
    """Split the data by the rule of `table`, or by the file `given` (that `to_csv` wrote), or as the data itself says.

    Groups are stratified by label with scikit-learn's StratifiedGroupKFold. The test is one fold of k, where k is
    fold.of, or the number nearest to 1/share that the groups of the rarest label allow; validation is taken from the
    remaining captures in the same way. Raises DataError if a split lacks a label, or if the given file lists other
    captures.
    """
    labels = np.asarray([capture.label for capture in data.captures])
    readable = np.setdiff1d(np.arange(len(labels)), unreadable)
    pairs = readable[near_duplicates(traits.hashes[readable], table.near_duplicate_bits)]
    names = np.full(len(labels), UNREADABLE, dtype="<U10")
    groups, rule = _groups(data, traits, readable, pairs, table)
    if given is not None or (data.captures[0].split is not None and fold is None):
        names[:] = given_names(given, data) if given is not None else [capture.split for capture in data.captures]
        names[list(unreadable)] = UNREADABLE
        if missing := _missing(names, labels, table.labels):
            raise DataError(f"the given split has no {missing}; correct {given or 'the column split of labels.csv'}")
        source = f"given by the file {given.name}" if given is not None else "given by the data's column split"
        return Split("given", source, names, groups, _leaks(names, pairs))
    for attempt in range(
        seed, seed + ATTEMPTS
    ):  # with few groups, the greedy assignment may leave a label out of a split
        test = _test(labels[readable], groups[readable], table, seed if fold else attempt, fold)
        names[readable] = _with_validation(test, labels[readable], groups[readable], table, attempt, fold)
        if table.split != "random":
            _leave_out(names, pairs)
        if not _missing(names, labels, table.labels):
            shares = f"test fold {fold.number} of {fold.of}" if fold else f"test {table.test:g}"
            detail = f"stratified by label, seed {attempt}, validation {table.validation:g}, {shares}"
            if left_out := int((names == LEFT_OUT).sum()):
                detail += f"; {left_out} captures left out, near-duplicates of a held-out one"
            return Split(table.split, f"{rule} ({detail})", names, groups, _leaks(names, pairs))
    raise DataError(
        f"no split {rule} gives {', '.join(SPLITS)} every label; add captures or patients to the rarest label, choose "
        "another --split-rule, or give the split yourself with --split FILE"
    )


def _groups(
    data: LabelledData, traits: Traits, readable: NDArray[np.int64], pairs: NDArray[np.int64], table: DataTable
) -> tuple[NDArray[np.int64], str]:
    """The number of each capture's group, and what the groups are."""
    labels = np.asarray([capture.label for capture in data.captures])
    if table.split == "random":
        rule = "random, every capture is a group of its own: near-duplicates may lie on both sides"
        return np.arange(len(labels)), rule
    if table.split == "blocked":
        return _blocks(data, table.blocks), f"blocked, {table.blocks} runs of consecutive file numbers per label"
    if table.split == "appearance":
        rule = f"appearance, {table.appearances} looks per label (stain, background, scale bar)"
        return _looks(traits, labels, readable, table.appearances), rule
    if data.patients_known:
        _, groups = np.unique([capture.patient for capture in data.captures], return_inverse=True)
        return groups.astype(np.int64), "grouped by patient"
    return clusters(len(labels), pairs), "grouped by near-duplicates, since patients are unknown"


def _blocks(data: LabelledData, count: int) -> NDArray[np.int64]:
    """Runs of consecutive file numbers: each label's captures in natural order, cut into `count` runs."""
    groups = np.zeros(len(data.captures), np.int64)
    for number, label in enumerate(data.labels):
        rows = [i for i, capture in enumerate(data.captures) if capture.label == label]
        rows.sort(key=lambda i: natural(data.captures[i].path))
        for place, part in enumerate(np.array_split(rows, count)):
            groups[part.astype(np.int64)] = number * count + place
    return groups


def natural(path: str) -> list[tuple[int, int | str]]:
    """A key that sorts img2 before img10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path) if part]


def _looks(traits: Traits, labels: Names, readable: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Clusters of look within each label: Ward's method on standardised traits."""
    looks = traits.of(readable).appearance()
    groups = np.zeros(len(labels), np.int64)
    for number, label in enumerate(np.unique(labels)):
        label_rows = np.flatnonzero(labels[readable] == label)
        cluster_count = min(count, len(label_rows))
        look = AgglomerativeClustering(cluster_count).fit_predict(looks[label_rows]) if cluster_count > 1 else 0
        groups[readable[label_rows]] = number * count + look
    return groups


def _test(
    labels: Names, groups: NDArray[np.int64], table: DataTable, seed: int, fold: Fold | None
) -> NDArray[np.int64]:
    if fold is not None:
        return _fold(labels, groups, fold, table, seed)
    return _one_fold(labels, groups, 1 / table.test, seed)


def _with_validation(
    test: NDArray[np.int64],
    labels: Names,
    groups: NDArray[np.int64],
    table: DataTable,
    seed: int,
    fold: Fold | None,
) -> Names:
    names = np.full(len(labels), "train", dtype="<U10")
    names[test] = "test"
    not_test = np.flatnonzero(names == "train")
    share = table.validation / (1 - (table.test if fold is None else 1 / fold.of))
    names[not_test[_one_fold(labels[not_test], groups[not_test], 1 / share, seed)]] = "validation"
    return names


def _one_fold(labels: Names, groups: NDArray[np.int64], fold_count: float, seed: int) -> NDArray[np.int64]:
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    folds = StratifiedGroupKFold(max(2, min(round(fold_count), fewest)), shuffle=True, random_state=seed)
    _, held_out = next(iter(folds.split(np.zeros(len(labels)), labels, groups)))
    return np.asarray(held_out)


def _fold(labels: Names, groups: NDArray[np.int64], fold: Fold, table: DataTable, seed: int) -> NDArray[np.int64]:
    for label in np.unique(labels):
        group_count = len(np.unique(groups[labels == label]))
        if group_count < fold.of:
            raise DataError(
                f"label {label} has {group_count} groups to hold out ({table.split}), fewer than {fold.of} folds; "
                "ask for fewer folds or another --split-rule"
            )
    for attempt in range(seed, seed + ATTEMPTS):  # the same cut for every fold, because their tests must not overlap
        folds = StratifiedGroupKFold(fold.of, shuffle=True, random_state=attempt)
        parts = [test for _, test in folds.split(np.zeros(len(labels)), labels, groups)]
        if all(len(np.unique(labels[part])) == len(np.unique(labels)) for part in parts):
            return np.asarray(parts[fold.number - 1])
    raise DataError(f"no cut into {fold.of} folds ({table.split}) gives every fold every label; ask for fewer folds")


def _leave_out(names: Names, pairs: NDArray[np.int64]) -> None:
    """Where two near-duplicates lie in different splits, leave out the one in the less strict split, in place."""
    for laxer, stricter in (("validation", "test"), ("train", "test"), ("train", "validation")):
        for rows, others in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
            names[rows[(names[rows] == laxer) & (names[others] == stricter)]] = LEFT_OUT


def _leaks(names: Names, pairs: NDArray[np.int64]) -> int:
    """Number of test captures with a near-duplicate among the training captures."""
    leaking = [
        rows[(names[rows] == "test") & (names[others] == "train")]
        for rows, others in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0]))
    ]
    return len(np.unique(np.concatenate(leaking)))


def _missing(names: Names, labels: Names, needed: Sequence[str]) -> str | None:
    """The first label that a split lacks, with the split; None if no split lacks one."""
    for split in SPLITS:
        for label in needed:
            if not np.any((names == split) & (labels == label)):
                return f"{label} in {split}"
    return None


def given_names(file: Path, data: LabelledData, content: bytes | None = None) -> list[str]:
    """The split of each capture, read from a file with the columns split and path, or split and sha256. `content` are
    the file's bytes where they were read before, as a bundle's are.
    """
    table = read_table(
        file, needed=("split",), optional=("path", "sha256"), beside=("label", "group", "patient"), content=content
    )
    key = next((name for name in ("path", "sha256") if name in table.columns), None)
    if key is None:
        raise DataError(f"{file}: needs the column path or sha256 beside split, as in the split.csv of a bundle")
    listed: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        split = row["split"].casefold()
        if split not in (*SPLITS, LEFT_OUT, UNREADABLE):
            raise DataError(f"{table.at(row.line)}: unknown split {row['split']!r}; use {', '.join(SPLITS)}")
        listed[plain(row["path"]) if key == "path" else row["sha256"].casefold()].append(split)
    keys = [capture.path for capture in data.captures] if key == "path" else data.sha256
    missing = [capture.path for capture, name in zip(data.captures, keys, strict=True) if name not in listed]
    if missing or len(table.rows) != len(keys):
        fault = (
            f"does not list {missing[0]}"
            if missing
            else f"lists {len(table.rows)} captures, the data holds {len(keys)}"
        )
        raise DataError(f"{file}: {fault}; it was made of other data")
    try:
        return [
            listed[name].pop(0) for name in keys
        ]  # exact duplicates share a key and take turns in the order of their paths
    except IndexError:
        raise DataError(f"{file}: lists some captures more often than the data holds them") from None


def to_csv(data: LabelledData, split: Split, *, named: bool) -> str:
    """The split as CSV: sha256, label, split, group, and with `named` also path and patient.

    The copy inside a bundle leaves out paths and patients, because bundles are passed on. --split reads both forms.
    """
    lines = zip(data.sha256, data.captures, split.names, split.groups, strict=True)
    return table_text(
        ("sha256", "label", "split", "group", *(("path", "patient") if named else ())),
        [
            (sha256, capture.label, name, group, *((capture.path, capture.patient) if named else ()))
            for sha256, capture, name, group in lines
        ],
    )
