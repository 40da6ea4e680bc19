"""Reference statistics that the worker compares captures with: embeddings (for novelty) and quality measures.

    reference.npz   mean [D], components [d, D], class_means [L, d], precision [d, d]; float32, no pickles
    manifest.reference["novelty"]   file, dimension, quantiles of the distance on validation
    manifest.reference["quality"]   measure -> quantiles on training captures

The distance of an embedding e is the least Mahalanobis distance to a class (Lee et al. 2018):
sqrt(min over classes of (z - class_mean)' precision (z - class_mean)), z = (e - mean) components'.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from contract.quality import MEASURES, measure
from trainer.traits import in_threads

FILE = "reference.npz"
DIMENSION = 64
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
Array = NDArray[np.float32]


def write_embeddings(folder: Path, train: Array, targets: NDArray[np.int64], validation: Array) -> dict[str, Any]:
    """Fit on training embeddings [N, D] and targets [N]; distances of the validation embeddings give the quantiles.

    Reduced to 64 principal components at most, the covariance within classes shared and shrunk (Ledoit & Wolf 2004).
    """
    dimension = int(min(DIMENSION, train.shape[1], len(train) - 1))
    pca = PCA(dimension, random_state=0).fit(train)
    reduced = pca.transform(train)
    means = np.stack([reduced[targets == t].mean(axis=0) for t in np.unique(targets)])
    within = LedoitWolf(assume_centered=True).fit(reduced - means[np.searchsorted(np.unique(targets), targets)])
    arrays = {
        "mean": pca.mean_,
        "components": pca.components_,
        "class_means": means,
        "precision": within.precision_,
    }
    np.savez(folder / FILE, allow_pickle=False, **{name: value.astype(np.float32) for name, value in arrays.items()})
    return {
        "file": FILE,
        "dimension": dimension,
        "explained": float(pca.explained_variance_ratio_.sum()),
        "distance": quantiles(distances(folder / FILE, validation)),
    }


def distances(file: Path, embeddings: Array) -> NDArray[np.float64]:
    """Mahalanobis distance of each embedding [N, D] to the nearest class, [N]."""
    with np.load(file, allow_pickle=False) as found:
        z = (embeddings - found["mean"]) @ found["components"].T
        apart = z[:, None] - found["class_means"][None]
        return np.asarray(np.sqrt(np.einsum("nld,de,nle->nl", apart, found["precision"], apart).min(axis=1)), float)


def quality_reference(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Quantiles of every quality measure over the training captures, at the size the worker sees them."""
    found = in_threads(lambda row: measure(np.asarray(pixels[row])), rows.tolist())
    return {name: quantiles(np.asarray([one[name] for one in found])) for name in MEASURES}


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """The quantiles of QUANTILES, by their names in text."""
    return {str(q): float(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
