"""Reference statistics that the worker compares captures with: embeddings (for novelty), quality measures, and bins
for drift.

    reference.npz                   what contract/novelty.py reads
    manifest.reference["novelty"]   blocks with their thresholds, quantiles of the novelty on validation
    manifest.reference["quality"]   measure -> quantiles on training captures
    manifest.reference["drift"]     measure, novelty, p_all -> bins (contract/drift.py)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from contract.drift import P_ALL_EDGES, Bins
from contract.novelty import ARRAYS, FILE, Block, open_reference
from contract.quality import MEASURES, measure
from contract.spread import evenly_spread
from trainer.traits import in_threads

DIMENSION = 64
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
KNOWN = 0.99
"""Least share of the validation captures that are not novel."""
REFERENCE_CAPTURES = 3000
"""Most training captures that reference statistics are taken from."""
Array = NDArray[np.float32]


def some_of(train: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most REFERENCE_CAPTURES of these rows, spread evenly over them."""
    return train[evenly_spread(len(train), REFERENCE_CAPTURES)]


def take_reference(
    folder: Path,
    widths: Sequence[int],
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    embedded: Array,
    targets: NDArray[np.int64],
    validation: Array,
    validation_p_all: NDArray[np.floating],
) -> dict[str, Any]:
    """Write reference.npz into `folder`; returns the entries for the manifest.

    `rows` of `pixels` uint8 [N, S, S, 3] are training captures, `embedded` [R, D] their embeddings and `targets` [R]
    their labels. `validation` [V, D] holds the embeddings and `validation_p_all` [V] P(ALL) of all validation captures.
    `widths` are those of the blocks that make up an embedding; their sum is D.
    """
    blocks = write_embeddings(folder, widths, embedded, targets, validation)
    novelty = open_reference((folder / FILE).read_bytes(), blocks).of(validation)
    measures = in_threads(lambda row: measure(np.asarray(pixels[row])), rows.tolist())
    by_name = {name: np.asarray([row[name] for row in measures]) for name in MEASURES}
    return statistics(blocks, by_name, novelty, validation_p_all)


def statistics(
    blocks: list[dict[str, Any]],
    measures: Mapping[str, NDArray[np.float64]],
    novelty: NDArray[np.float64],
    p_all: NDArray[np.floating],
) -> dict[str, Any]:
    """The entries for the manifest, from `blocks` of `write_embeddings`, the quality `measures` of the reference's
    captures, and novelty and P(ALL) of the captures that the threshold was fitted on.
    """
    bins = {name: Bins.of(values) for name, values in (*measures.items(), ("novelty", novelty))}
    bins["p_all"] = Bins.of(np.asarray(p_all, np.float64), P_ALL_EDGES)
    return {
        "novelty": {"blocks": blocks, "validation": quantiles(novelty)},
        "quality": {name: quantiles(values) for name, values in measures.items()},
        "drift": {name: edges.model_dump(mode="json") for name, edges in bins.items()},
    }


def write_embeddings(
    folder: Path,
    widths: Sequence[int],
    train: Array,
    targets: NDArray[np.int64],
    validation: Array,
    *,
    file: str = FILE,
) -> list[dict[str, Any]]:
    """Fit each block on training embeddings [R, D] and targets [R], and its threshold on validation [V, D]; write all
    to `file` in the folder.

    All thresholds together let at least KNOWN of the validation captures pass. Raises ValueError where the widths of
    the blocks do not add up to D.
    """
    if sum(widths) != train.shape[1]:
        raise ValueError(f"blocks of {list(widths)} make no embedding of {train.shape[1]}")
    ends = np.cumsum(widths).tolist()
    arrays: dict[str, Array] = {}
    blocks = []
    for number, (end, width) in enumerate(zip(ends, widths, strict=True)):
        block = _fit(end - width, end, train, targets)
        distances = block.distances(validation)
        threshold = float(np.quantile(distances, 1 - (1 - KNOWN) / len(widths), method="higher"))
        blocks.append({"begin": end - width, "end": end, "threshold": threshold})
        arrays |= {f"{name}_{number}": getattr(block, name) for name in ARRAYS}
    np.savez(folder / file, allow_pickle=False, **arrays)
    return blocks


def _fit(begin: int, end: int, train: Array, targets: NDArray[np.int64]) -> Block:
    """Fit one block: standardise the features, reduce them to at most 64 principal components, and estimate one shrunk
    covariance for all classes (Ledoit & Wolf 2004).
    """
    features = train[:, begin:end].astype(np.float64)
    scale = np.maximum(features.std(axis=0), 1e-6)
    mean = features.mean(axis=0)
    pca = PCA(min(DIMENSION, features.shape[1], len(features) - 1), random_state=0).fit((features - mean) / scale)
    components = pca.components_ / scale
    reduced = (features - mean) @ components.T
    classes, numbers = np.unique(targets, return_inverse=True)
    means = np.stack([reduced[numbers == number].mean(axis=0) for number in range(len(classes))])
    precision = LedoitWolf(assume_centered=True).fit(reduced - means[numbers]).precision_
    return Block(begin, end, 1.0, *(array.astype(np.float32) for array in (mean, components, means, precision)))


def quantiles(values: NDArray[np.floating]) -> dict[str, float]:
    """The quantiles of QUANTILES, each by its number as text."""
    return {str(q): float(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
