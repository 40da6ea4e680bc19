"""How different a capture is from those that a bundle was trained on: the Mahalanobis distance of its embedding to the
nearest class (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples").

An embedding consists of blocks: statistics of the maps of the network's first stage, and the pooled features of its
last. The last alone is not enough: a network that has learnt its classes well maps everything that it sees to one of
them. To a network trained on drawings, real smears are novel by its first stage and hardly by its last
(docs/benchmarks.md).

    reference.npz   of block i: mean_i [D], components_i [d, D], class_means_i [L, d], precision_i [d, d]; float32

z = (e - mean) components' reduces a block e to d dimensions. Its distance to a class is
sqrt((z - class_mean)' precision (z - class_mean)), and its novelty is the distance to the nearest class divided by the
block's threshold. The novelty of a capture is the largest of its blocks. The trainer fits all (trainer/reference.py).

A bundle may know captures of several microscopes (trainer/adapt.py). Then each has its own file of such arrays, and the
novelty of a capture is the smallest of them.

    manifest.reference["novelty"]["others"]   for each further microscope: file, blocks
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.arrays import read_arrays
from contract.bundle import Bundle
from contract.errors import BundleError
from contract.names import one_line
from contract.outcomes import Mark
from contract.states import MarkCode

FILE = "reference.npz"
ARRAYS = ("mean", "components", "class_means", "precision")


@dataclass(frozen=True)
class Block:
    """Columns `begin` to `end` of an embedding, the training classes in the space of these columns, and the largest
    distance that is not novel.
    """

    begin: int
    end: int
    threshold: float
    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    class_means: NDArray[np.float32]
    precision: NDArray[np.float32]

    def distances(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distance to the nearest class of each embedding, [N, D] -> [N]."""
        z = (embeddings[:, self.begin : self.end] - self.mean) @ self.components.T
        offsets = z[:, None] - self.class_means[None]
        squared = np.einsum("nld,de,nle->nl", offsets, self.precision, offsets, optimize=True)
        return np.asarray(np.sqrt(np.maximum(squared, 0).min(axis=1)), np.float64)


@dataclass(frozen=True)
class Novelty:
    """What a bundle knows, block by block; `others` is the same for each further microscope."""

    blocks: tuple[Block, ...]
    others: "tuple[Novelty, ...]" = ()

    def of(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Novelty of each embedding, [N, D] -> [N]; above 1 the capture is unlike the training captures."""
        by_block = np.stack([block.distances(embeddings) / block.threshold for block in self.blocks])
        by_microscope = [by_block.max(axis=0), *(other.of(embeddings) for other in self.others)]
        return np.asarray(np.min(by_microscope, axis=0), np.float64)


def mark_of(novelty: float) -> Mark | None:
    """The mark `novel` if the novelty is above 1, otherwise None."""
    if novelty <= 1:
        return None
    return Mark(
        MarkCode.NOVEL,
        f"unlike the captures that the bundle was trained on: novelty {novelty:.2f}, reference up to 1",
    )


def read_novelty(bundle: Bundle) -> Novelty | None:
    """The bundle's reference for novelty; None if it has none. Raises BundleError if it cannot be read."""
    stored = bundle.manifest.reference.get("novelty")
    if stored is None:
        return None
    try:
        others = tuple(
            open_reference(bundle.read(other["file"]), other["blocks"]) for other in stored.get("others", ())
        )
        return replace(open_reference(bundle.read(FILE), stored["blocks"]), others=others)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"bundle {bundle.path}: {FILE} cannot be read ({one_line(error)}); export the bundle again"
        ) from error


def open_reference(data: bytes, blocks: list[dict[str, Any]]) -> Novelty:
    """Read what the trainer wrote. `blocks` holds what the manifest says about each block: begin, end, threshold.

    Raises ValueError, KeyError or TypeError for anything else.
    """
    arrays = read_arrays(data)
    made = [
        Block(block["begin"], block["end"], block["threshold"], *(arrays[f"{name}_{i}"] for name in ARRAYS))
        for i, block in enumerate(blocks)
    ]
    for i, block in enumerate(made):
        _check(i, block)
    if not made:
        raise ValueError("it has no block")
    return Novelty(tuple(made))


def _check(number: int, block: Block) -> None:
    """Raise ValueError unless the block gives a number for every embedding."""
    width, (depth, *_) = block.end - block.begin, (*block.components.shape, 0)
    shapes = {
        "mean": (width,), "components": (depth, width), "class_means": (len(block.class_means), depth),
        "precision": (depth, depth),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(block, name)
        if array.shape != shape or not np.isfinite(array).all() or not array.size:
            raise ValueError(f"{name}_{number} is {array.shape} or not finite, and should be {shape}")
    if not 0 <= block.begin < block.end or not 0 < block.threshold < np.inf:
        raise ValueError(f"block {number} has no columns, or a threshold that is not above 0")
