"""The reference that an adapted bundle compares captures with: the archive's own, beside what its parent knew."""

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
from contract.novelty import FILE, Novelty, mark_of, open_reference
from contract.quality import MEASURES, marks_of
from trainer.reference import statistics, write_embeddings

FOLDS = 5
"""Parts that the patients are cut into; each part once is what the reference has not seen."""
SEED = 20162
ODDEST = 1.5
"""How far the oddest part of the patients may raise a threshold: without a bound, one patient of another stain made a
fifth of real smears known to a reference of drawings."""


@dataclass(frozen=True)
class Taken:
    """What the manifest says, what the bundle knows from now on, and the share of the microscope's own captures that
    are known by a reference that was taken of other patients.
    """

    manifest: dict[str, Any]
    known: Novelty
    of_other_patients: float


def blocks_of(manifest: Manifest, width: int) -> list[int]:
    """Widths of the blocks of the bundle's embedding, which is `width` wide."""
    blocks = manifest.reference["novelty"].get("blocks", [{"begin": 0, "end": width}])
    return [one["end"] - one["begin"] for one in blocks]


def take(
    folder: Path,
    parent: Manifest,
    known: Novelty | None,
    embeddings: NDArray[np.float32],
    p_all: NDArray[np.float64],
    measures: Mapping[str, NDArray[np.float64]],
    patients: NDArray[np.int64],
) -> Taken:
    """Write the reference of N captures of the microscope into `folder`, a copy of the parent's.

    `embeddings` [N, D], `p_all` [N], `measures` name -> [N], `patients` [N], at least FOLDS of them. `known` is what
    the parent knew, and the bundle shall go on knowing: a capture is novel if it is to both, and quality may lie within
    either's range. None: the archive's alone. What a run may drift from is always the archive's alone.
    """
    widths = blocks_of(parent, embeddings.shape[1])
    groups = _groups(embeddings[:, -widths[-1] :], len(parent.labels))
    others = parent.reference["novelty"].get("others", []) if known is not None else []
    file = f"reference.{len(others) + 2}.npz" if known is not None else FILE
    if known is None:
        for one in parent.reference["novelty"].get("others", []):
            (folder / one["file"]).unlink()
    blocks = write_embeddings(folder, widths, embeddings, groups, embeddings, file=file)
    own, novelty = _calibrated(folder / file, blocks, widths, embeddings, groups, patients)
    both = own if known is None else replace(known, others=(*known.others, own))
    found = statistics(blocks, measures, novelty, p_all)
    if known is not None:
        of_parent = parent.reference["novelty"]
        found["novelty"] = {**found["novelty"], "blocks": of_parent["blocks"],
                            "others": [*others, {"file": file, "blocks": blocks}]}  # fmt: skip
        found["quality"] = envelope(parent.reference["quality"], found["quality"])
    return Taken(found, both, float((novelty <= 1).mean()))


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
    """The reference in `file` with thresholds for patients that it has not seen, also put into `blocks`; and how novel
    each capture is to a reference of other patients, [N].

    Patients of one microscope differ more than captures of one patient, and there are few: the threshold is the
    largest that any fifth of them needs to be known to the others, and no more than ODDEST times the next.
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
            novelty[aside] = open_reference(fold, blocks).of(embeddings[aside])
    return open_reference(file, blocks), novelty


def envelope(one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Quantiles by measure that span both: the lower of those up to the median, the higher of those above."""
    return {
        name: {
            quantile: (min if float(quantile) <= 0.5 else max)(value, other[name][quantile])
            for quantile, value in quantiles.items()
        }
        for name, quantiles in one.items()
    }


def counting(
    policy: CasePolicy,
    quality: Mapping[str, Any],
    novelty: NDArray[np.float64],
    measures: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.bool_]:
    """Which captures would count for a case, [N]: the worker's decision, by their `novelty` [N] and `measures`."""
    result = []
    for row, strange in enumerate(novelty):
        marks = marks_of({name: float(measures[name][row]) for name in MEASURES}, quality)
        novel = mark_of(float(strange))
        result.append(not policy.excludes(mark.code for mark in ([*marks, novel] if novel else marks)))
    return np.asarray(result, bool)
