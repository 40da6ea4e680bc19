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
from trainer.traits import in_threads

DIMENSION = 64
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
KNOWN = 0.99
"""Share of the validation captures, at least, that are not novel."""
REFERENCE_CAPTURES = 3000
"""Training captures, at most, from which reference statistics are taken."""
Array = NDArray[np.float32]


def some_of(train: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most REFERENCE_CAPTURES of these rows, spread evenly over them."""
    return train[np.unique(np.linspace(0, len(train) - 1, min(len(train), REFERENCE_CAPTURES)).astype(np.int64))]


def take_reference(
    folder: Path,
    widths: Sequence[int],
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    embedded: Array,
    targets: NDArray[np.int64],
    validation: Array,
    validation_p_all: NDArray[np.float64],
) -> dict[str, Any]:
    """Write reference.npz into `folder`; returns what the manifest says.

    `rows` of `pixels` uint8 [N, S, S, 3] are training captures, `embedded` [R, D] and `targets` [R] theirs;
    `validation` [V, D] and `validation_p_all` [V] are of all validation captures. `widths` are those of the blocks that
    an embedding is made of, D together.
    """
    blocks = write_embeddings(folder, widths, embedded, targets, validation)
    novelty = open_reference(folder / FILE, blocks).of(validation)
    measures = in_threads(lambda row: measure(np.asarray(pixels[row])), rows.tolist())
    by_name = {name: np.asarray([one[name] for one in measures]) for name in MEASURES}
    return statistics(blocks, by_name, novelty, validation_p_all)


def statistics(
    blocks: list[dict[str, Any]],
    measures: Mapping[str, NDArray[np.float64]],
    novelty: NDArray[np.float64],
    p_all: NDArray[np.float64],
) -> dict[str, Any]:
    """What the manifest says: `blocks` of `write_embeddings`, quality `measures` of the reference's captures, novelty
    and P(ALL) of those that the threshold was fitted on.
    """
    bins = {name: Bins.of(values) for name, values in (*measures.items(), ("novelty", novelty))}
    bins["p_all"] = Bins.of(p_all, P_ALL_EDGES)
    return {
        "novelty": {"blocks": blocks, "validation": quantiles(novelty)},
        "quality": {name: quantiles(values) for name, values in measures.items()},
        "drift": {name: one.model_dump(mode="json") for name, one in bins.items()},
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
    """Fit each block on training embeddings [R, D] and targets [R], and its threshold on validation [V, D]; write them
    to `file` in the folder.

    The thresholds together let through at least KNOWN of the validation captures. Raises ValueError where the
    widths of the blocks do not add up to D.
    """
    if sum(widths) != train.shape[1]:
        raise ValueError(f"blocks of {list(widths)} make no embedding of {train.shape[1]}")
    ends = np.cumsum(widths).tolist()
    arrays: dict[str, Array] = {}
    blocks = []
    for number, (end, width) in enumerate(zip(ends, widths, strict=True)):
        fitted = _fit(end - width, end, train, targets)
        distances = fitted.distances(validation)
        threshold = float(np.quantile(distances, 1 - (1 - KNOWN) / len(widths), method="higher"))
        blocks.append({"begin": end - width, "end": end, "threshold": threshold})
        arrays |= {f"{name}_{number}": getattr(fitted, name) for name in ARRAYS}
    np.savez(folder / file, allow_pickle=False, **arrays)
    return blocks


def _fit(begin: int, end: int, train: Array, targets: NDArray[np.int64]) -> Block:
    """Features standardised, reduced to 64 principal components at most, the covariance within classes shared and
    shrunk (Ledoit & Wolf 2004).
    """
    own = train[:, begin:end].astype(np.float64)
    scale = np.maximum(own.std(axis=0), 1e-6)
    mean = own.mean(axis=0)
    pca = PCA(min(DIMENSION, own.shape[1], len(own) - 1), random_state=0).fit((own - mean) / scale)
    components = pca.components_ / scale
    reduced = (own - mean) @ components.T
    known, numbers = np.unique(targets, return_inverse=True)
    means = np.stack([reduced[numbers == number].mean(axis=0) for number in range(len(known))])
    precision = LedoitWolf(assume_centered=True).fit(reduced - means[numbers]).precision_
    return Block(begin, end, 1.0, *(one.astype(np.float32) for one in (mean, components, means, precision)))


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """The quantiles of QUANTILES, by their names in text."""
    return {str(q): float(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
