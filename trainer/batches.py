"""Decoded captures for a training: the set, its batches, and a network's answers for some of its captures."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from trainer.augment import to_unit


@dataclass(frozen=True)
class TrainingSet:
    """What `fit` works on. `pixels` uint8 [N, S, S, 3]; `targets` int64 [N]; `train`, `validation`: indices into both.

    `identity` is a digest of configuration, data and split: a training never continues from a checkpoint with another.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    identity: str


def class_weights(data: TrainingSet, labels: int, exponent: float) -> Tensor:
    """Weight of each label in the loss, [labels], mean 1: the inverse of its frequency to the power of `exponent`."""
    counts = np.bincount(data.targets[data.train], minlength=labels).clip(min=1)
    weights = (len(data.train) / counts) ** exponent
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def batches(data: TrainingSet, order: NDArray[np.int64], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(captures uint8 [n, S, S, 3], targets [n]) in this order; the next batch is read while this one is used."""
    pinned = torch.cuda.is_available()

    def read(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        captures = torch.from_numpy(data.pixels[indices])
        return captures.pin_memory() if pinned else captures, torch.from_numpy(data.targets[indices])

    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    with ThreadPoolExecutor(1) as reader:
        next_batch = reader.submit(read, cuts[0])
        for indices in cuts[1:]:
            batch, next_batch = next_batch, reader.submit(read, indices)
            yield batch.result()
        yield next_batch.result()


@torch.inference_mode()
def predict(
    fabric: Fabric, network: torch.nn.Module, data: TrainingSet, indices: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """Uncalibrated probabilities [len(indices), labels] of the decoded captures, unaugmented, at the final size."""
    network.eval()
    parts = []
    for captures, _ in batches(data, indices, size):
        with fabric.autocast():
            logits = network(to_unit(captures.to(fabric.device)))
        parts.append(torch.softmax(logits.double(), dim=1).cpu())
    probabilities: NDArray[np.float64] = torch.cat(parts).numpy()
    return probabilities
