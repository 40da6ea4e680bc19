"""The reference that an adapted bundle compares captures with: one from the archive, beside the parent's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from contract.bundle import Manifest
from contract.case_policy import CasePolicy
from contract.decisions import all_marks
from contract.novelty import FILE, Novelty, open_reference
from contract.quality import MEASURES
from trainer.reference import statistics, write_embeddings

FOLDS = 5
"""The patients are cut into this many parts; each part is once the one that the reference has not seen."""
SEED = 20162
ODDEST = 1.5
"""How far the oddest part of the patients may raise a threshold. Without this bound, one patient of another stain made
a fifth of real smears known to a reference of drawings."""


@dataclass(frozen=True)
class Taken:
    """The manifest's entry, what the bundle knows from now on, and the share of the microscope's own captures that a
    reference taken from other patients knows.
    """

    manifest: dict[str, Any]
    known: Novelty
    of_other_patients: float


def blocks_of(manifest: Manifest, width: int) -> list[int]:
    """Widths of the blocks that make up the bundle's embedding, which is `width` wide."""
    blocks = manifest.reference["novelty"].get("blocks", [{"begin": 0, "end": width}])
    return [block["end"] - block["begin"] for block in blocks]


def take(
    folder: Path,
    parent: Manifest,
    known: Novelty | None,
    embeddings: NDArray[np.float32],
    p_all: NDArray[np.floating],
    measures: Mapping[str, NDArray[np.float64]],
    patients: NDArray[np.int64],
) -> Taken:
    """Write the reference of N captures of the microscope into `folder`, a copy of the parent's.

    `embeddings` [N, D], `p_all` [N], `measures` name -> [N], `patients` [N], at least FOLDS of them. `known` is the
    parent's reference, which the bundle keeps: a capture is novel if it is novel to both references, and its quality
    may lie within the range of either. With None there is only the archive's. Drift is always measured against the
    archive's alone.
    """
    widths = blocks_of(parent, embeddings.shape[1])
    groups = _groups(embeddings[:, -widths[-1] :], len(parent.labels))
    others = parent.reference["novelty"].get("others", []) if known is not None else []
    file = f"reference.{len(others) + 2}.npz" if known is not None else FILE
    if known is None:
        for other in parent.reference["novelty"].get("others", []):
            (folder / other["file"]).unlink()
    blocks = write_embeddings(folder, widths, embeddings, groups, embeddings, file=file)
    of_archive, novelty = _calibrated(folder / file, blocks, widths, embeddings, groups, patients)
    combined = of_archive if known is None else replace(known, others=(*known.others, of_archive))
    reference = statistics(blocks, measures, novelty, p_all)
    if known is not None:
        of_parent = parent.reference["novelty"]
        reference["novelty"] = {**reference["novelty"], "blocks": of_parent["blocks"],
                                "others": [*others, {"file": file, "blocks": blocks}]}  # fmt: skip
        reference["quality"] = envelope(parent.reference["quality"], reference["quality"])
    return Taken(reference, combined, float((novelty <= 1).mean()))


def _groups(features: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Groups of captures that take the place of labels, which are unknown, [N]: by k-means."""
    return np.asarray(KMeans(count, n_init=4, random_state=0).fit_predict(features), np.int64)


def _calibrated(
    file: Path,
    blocks: list[dict[str, Any]],
    widths: list[int],
    embeddings: NDArray[np.float32],
    groups: NDArray[np.int64],
    patients: NDArray[np.int64],
) -> tuple[Novelty, NDArray[np.float64]]:
    """The reference in `file` with thresholds that suit patients it has not seen, and how novel each capture is to a
    reference of other patients, [N]. The thresholds are also put into `blocks`.

    Patients of one microscope differ more than captures of one patient, and there are few patients. So each fifth of
    the patients is compared with the others; the threshold is the largest that any fifth needs to be known to them, but
    no more than ODDEST times the second largest.
    """
    order = np.random.default_rng(SEED).permutation(np.unique(patients))
    novelty = np.zeros(len(embeddings))
    with TemporaryDirectory() as scratch:
        folds = []
        for number, part in enumerate(np.array_split(order, FOLDS)):
            aside = np.isin(patients, part)
            name = f"fold-{number}.npz"
            fitted = write_embeddings(
                Path(scratch), widths, embeddings[~aside], groups[~aside], embeddings[aside], file=name
            )
            folds.append((aside, Path(scratch) / name, fitted))
        for place, block in enumerate(blocks):
            *_, second, largest = sorted(fitted[place]["threshold"] for _, _, fitted in folds)
            block["threshold"] = min(largest, ODDEST * second)
        for aside, fold, _ in folds:
            novelty[aside] = open_reference(fold.read_bytes(), blocks).of(embeddings[aside])
    return open_reference(file.read_bytes(), blocks), novelty


def envelope(first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Quantiles of each measure that span both ranges: the lower value up to the median, the higher value above it.

    A measure that only one has is left out: earlier releases measured others, and half a range would mark captures of
    the microscope for which there is none.
    """
    return {
        name: {
            quantile: (min if float(quantile) <= 0.5 else max)(value, second[name][quantile])
            for quantile, value in quantiles.items()
        }
        for name, quantiles in first.items()
        if name in second
    }


def counting(
    policy: CasePolicy,
    quality: Mapping[str, Any],
    novelty: NDArray[np.float64],
    measures: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.bool_]:
    """Which captures would count for a case, [N], as the worker decides it from their `novelty` [N] and `measures`."""
    result = []
    for row, value in enumerate(novelty):
        marks = all_marks(float(value), {name: float(measures[name][row]) for name in MEASURES}, quality)
        result.append(not policy.excludes(mark.code for mark in marks))
    return np.asarray(result, bool)
