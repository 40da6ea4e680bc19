"""How unlike a capture is to those that a bundle was trained on: the Mahalanobis distance of its embedding to the
nearest class (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples").

An embedding is made of blocks: pooled features of the network's first stage, and of its last. The last alone does not
do: a network that has learnt its classes well maps whatever it sees to one of them, and of real smears none was novel
to a network trained on drawings, while by its first stage all were (docs/benchmarks.md).

    reference.npz   of block i: mean_i [D], components_i [d, D], class_means_i [L, d], precision_i [d, d]; float32

z = (e - mean) components' brings a block e to d dimensions; its distance to a class is
sqrt((z - class_mean)' precision (z - class_mean)), and its novelty that distance divided by the block's threshold. The
novelty of a capture is that of the block that finds it the strangest. The trainer fits all (trainer/reference.py).

A bundle may know captures of several microscopes (trainer/adapt.py): then there is a file of such arrays for each, and
a capture is as novel as it is to the one that finds it the most familiar.

    manifest.reference["novelty"]["others"]   for each further microscope: file, blocks
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.errors import BundleError
from contract.outcomes import Mark
from contract.states import MarkCode

FILE = "reference.npz"
ARRAYS = ("mean", "components", "class_means", "precision")


@dataclass(frozen=True)
class Block:
    """Columns `begin` to `end` of an embedding, the training classes in their space, and the distance that is still
    known."""

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
        apart = z[:, None] - self.class_means[None]
        squared = np.einsum("nld,de,nle->nl", apart, self.precision, apart, optimize=True)
        return np.asarray(np.sqrt(np.maximum(squared, 0).min(axis=1)), np.float64)


@dataclass(frozen=True)
class Novelty:
    """What a bundle knows, block by block; `others` are the captures of further microscopes, each known for itself."""

    blocks: tuple[Block, ...]
    others: "tuple[Novelty, ...]" = ()

    def of(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Novelty of each embedding, [N, D] -> [N]: above 1 it is unlike the training captures."""
        each = np.stack([block.distances(embeddings) / block.threshold for block in self.blocks])
        known = [each.max(axis=0), *(other.of(embeddings) for other in self.others)]
        return np.asarray(np.min(known, axis=0), np.float64)


def mark_of(novelty: float) -> Mark | None:
    """`novel`, where it is above 1."""
    if novelty <= 1:
        return None
    return Mark(
        MarkCode.NOVEL,
        f"unlike the captures that the bundle was trained on: novelty {novelty:.2f}, reference up to 1",
    )


def read_novelty(bundle: Bundle) -> Novelty | None:
    """The bundle's reference for novelty; None where it has none. Raises BundleError where it cannot be read."""
    known = bundle.manifest.reference.get("novelty")
    if known is None:
        return None
    try:
        others = tuple(open_reference(bundle.path / one["file"], one["blocks"]) for one in known.get("others", ()))
        return replace(open_reference(bundle.path / FILE, known["blocks"]), others=others)
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise BundleError(f"bundle {bundle.path}: {FILE} cannot be read ({error}); export the bundle again") from error


def open_reference(file: Path, blocks: list[dict[str, Any]]) -> Novelty:
    """Read what the trainer wrote. `blocks` is what the manifest says of each: begin, end, threshold."""
    with np.load(file, allow_pickle=False) as arrays:
        return Novelty(
            tuple(
                Block(one["begin"], one["end"], one["threshold"], *(arrays[f"{name}_{i}"] for name in ARRAYS))
                for i, one in enumerate(blocks)
            )
        )
