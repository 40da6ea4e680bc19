"""The reference that an adapted bundle compares captures with: the archive's own, beside what its parent knew."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from contract.bundle import Manifest
from contract.case_policy import CasePolicy
from contract.novelty import FILE, Novelty, mark_of, open_reference
from contract.quality import MEASURES, marks_of
from trainer.reference import statistics, write_embeddings

HELD_OUT = 1 / 3
"""Share of the patients, at least two, on whose captures the threshold of novelty is fitted."""
SEED = 20162


def blocks_of(manifest: Manifest, width: int) -> list[int]:
    """Widths of the blocks of the bundle's embedding, which is `width` wide."""
    blocks = manifest.reference["novelty"].get("blocks", [{"begin": 0, "end": width}])
    return [one["end"] - one["begin"] for one in blocks]


def held_out(patients: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which captures are of patients that the threshold is fitted on, [N]; whole patients, the same at every call."""
    known = np.random.default_rng(SEED).permutation(np.unique(patients))
    return np.isin(patients, known[: max(2, round(HELD_OUT * len(known)))])


def take(
    folder: Path,
    parent: Manifest,
    known: Novelty | None,
    embeddings: NDArray[np.float32],
    p_all: NDArray[np.float64],
    measures: Mapping[str, NDArray[np.float64]],
    patients: NDArray[np.int64],
) -> tuple[dict[str, Any], Novelty]:
    """Write the reference of N captures of the microscope into `folder`, a copy of the parent's; returns what the
    manifest says, and what the bundle knows from now on.

    `embeddings` [N, D], `p_all` [N], `measures` name -> [N], `patients` [N]. `known` is what the parent knew, and the
    bundle shall go on knowing: captures novel to both are novel, quality may lie within either's range. None: the
    archive's alone. What a run may drift from is always the archive's alone.

    The captures are grouped as the labels would group them, by k-means: their labels are unknown.
    """
    aside = held_out(patients)
    widths = blocks_of(parent, embeddings.shape[1])
    groups = KMeans(len(parent.labels), n_init=4, random_state=0).fit_predict(embeddings[~aside, -widths[-1] :])
    others = parent.reference["novelty"].get("others", [])
    file = f"reference.{len(others) + 2}.npz" if known is not None else FILE
    if known is None:
        for one in others:
            (folder / one["file"]).unlink()
    blocks = write_embeddings(folder, widths, embeddings[~aside], groups, embeddings[aside], file=file)
    own = open_reference(folder / file, blocks)
    both = own if known is None else replace(known, others=(*known.others, own))
    found = statistics(blocks, measures, both.of(embeddings[aside]), p_all)
    if known is None:
        return found, both
    of_parent = parent.reference["novelty"]
    reference = {
        "novelty": {**of_parent, "others": [*others, {"file": file, "blocks": blocks}],
                    "validation": found["novelty"]["validation"]},
        "quality": envelope(parent.reference["quality"], found["quality"]),
        "drift": found["drift"],
    }  # fmt: skip
    return reference, both


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
