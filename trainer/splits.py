"""Which captures train, which choose (epoch, temperature, thresholds), which are only scored: whole patients each."""

import csv
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from contract.errors import DataError
from trainer.config import DataTable
from trainer.data import SPLITS, LabelledCapture

ATTEMPTS = 20


def assign(captures: Sequence[LabelledCapture], table: DataTable, seed: int) -> tuple[NDArray[np.str_], str]:
    """One of train, validation, test for every capture, [N], and a sentence that says by which rule.

    A split that the data brings along is kept. Otherwise patients are held out whole, stratified by label, with
    scikit-learn's StratifiedGroupKFold: the test is one fold of k, k the nearest to 1/share that the patients of the
    rarest label allow; validation likewise from the rest. Raises DataError if a split lacks a label.
    """
    labels = np.asarray([one.label for one in captures])
    groups = np.asarray([one.patient for one in captures])
    if captures[0].split is not None:
        given = np.asarray([one.split for one in captures])
        if lacking := _lacking(given, labels, table.labels):
            raise DataError(f"the given split has no {lacking}; correct the column split of labels.csv")
        return given, "given by the data's column split"
    for attempt in range(ATTEMPTS):  # a greedy assignment of few patients may leave a split without a label
        names = _grouped(labels, groups, table, seed + attempt)
        if not _lacking(names, labels, table.labels):
            return names, (
                f"grouped by patient, stratified by label (StratifiedGroupKFold, seed {seed + attempt}, "
                f"validation {table.validation:g}, test {table.test:g})"
            )
    raise DataError(
        f"no split of these patients gives {', '.join(SPLITS)} every label; add patients to the rarest label, or give "
        "the split yourself in labels.csv"
    )


def _grouped(labels: NDArray[np.str_], groups: NDArray[np.str_], table: DataTable, seed: int) -> NDArray[np.str_]:
    names = np.full(len(labels), "train", dtype="<U10")
    test = _one_fold(labels, groups, table.test, seed)
    names[test] = "test"
    rest = np.flatnonzero(names == "train")
    validation = _one_fold(labels[rest], groups[rest], table.validation / (1 - table.test), seed)
    names[rest[validation]] = "validation"
    return names


def _one_fold(labels: NDArray[np.str_], groups: NDArray[np.str_], share: float, seed: int) -> NDArray[np.int64]:
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    folds = max(2, min(round(1 / share), fewest))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    _, held_out = next(iter(splitter.split(np.zeros(len(labels)), labels, groups)))
    return np.asarray(held_out)


def _lacking(names: NDArray[np.str_], labels: NDArray[np.str_], wanted: Sequence[str]) -> str | None:
    for split in SPLITS:
        for label in wanted:
            if not np.any((names == split) & (labels == label)):
                return f"{label} in {split}"
    return None


def to_csv(captures: Sequence[LabelledCapture], names: NDArray[np.str_]) -> str:
    """The split as CSV: path, patient, label, split."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "patient", "label", "split"])
    writer.writerows((one.path, one.patient, one.label, name) for one, name in zip(captures, names, strict=True))
    return text.getvalue()
