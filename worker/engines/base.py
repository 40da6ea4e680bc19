"""The protocol between the pipeline and an inference engine; registry.py chooses an engine, proving.py proves it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.errors import CaptureRejected, EngineError
from contract.imaging import RGBImage, decode
from contract.predictions import Predictions


class NotUsable(EngineError):
    """This engine cannot run here: its library is not installed, or there is no device for it."""


class DeviceMemoryFull(EngineError):
    """The device has no room for a batch of this size; a smaller one may fit."""


Pending = Callable[[], Predictions]
"""Waits for a started batch and returns its predictions. Raises EngineError."""


class Engine(Protocol):
    """Runs one bundle. Not thread-safe: one thread starts batches and fetches them in the order of their start."""

    name: str
    precision: str
    device: str
    """The hardware that it computes on, for logs."""
    shares_cores: bool
    """Whether it computes on the same cores as the decoders."""
    depth: int
    """Number of batches that may be started before the first of them is fetched."""
    max_batch: int | None
    """The largest batch that it takes; None where there is no limit."""

    def start(self, batch: RGBImage) -> Pending:
        """Start a batch, uint8 [N, S, S, 3]; the array must not change until the batch is fetched.

        Raises EngineError, and DeviceMemoryFull where a smaller batch might fit.
        """
        ...

    def close(self) -> None:
        """Give the memory back for another bundle's network. Call it with no batch under way; start none afterwards."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """Settings that an engine is opened with.

    It keeps what it compiled in `cache_dir`; without one it compiles again each time. `batch_size` is the largest batch
    that will come, where that is fixed.
    """

    engine: str
    precision: str
    cache_dir: Path | None
    batch_size: int | None = None


def infer(engine: Engine, batch: RGBImage) -> Predictions:
    """Run one batch, in as many pieces as the device's memory makes necessary. Raises EngineError."""
    limit = engine.max_batch
    if limit is not None and len(batch) > limit:
        return Predictions.joined(
            [infer(engine, batch[start : start + limit]) for start in range(0, len(batch), limit)]
        )
    try:
        return engine.start(batch)()
    except DeviceMemoryFull:
        return infer_in_halves(engine, batch)


def infer_all(engine: Engine, captures: RGBImage, batch: int) -> Predictions:
    """Run any number of captures, with as many batches under way as the engine takes. Raises EngineError."""
    size = min(batch, engine.max_batch or batch)
    parts: list[Predictions] = []
    flying: deque[tuple[RGBImage, Pending]] = deque()

    def fetch() -> None:
        pixels, pending = flying.popleft()
        try:
            parts.append(pending())
        except DeviceMemoryFull:
            parts.append(infer_in_halves(engine, pixels))

    for start in range(0, len(captures), size):
        if len(flying) == engine.depth:
            fetch()
        pixels = captures[start : start + size]
        try:
            flying.append((pixels, engine.start(pixels)))
        except DeviceMemoryFull:
            while flying:
                fetch()
            parts.append(infer_in_halves(engine, pixels))
    while flying:
        fetch()
    return Predictions.joined(parts)


def infer_in_halves(engine: Engine, batch: RGBImage) -> Predictions:
    """After DeviceMemoryFull: the same captures in two batches. Raises EngineError where not even one capture fits."""
    if len(batch) == 1:
        raise EngineError(f"engine {engine.name}: the memory of {engine.device} does not even hold one capture")
    middle = len(batch) // 2
    return Predictions.joined([infer(engine, batch[:middle]), infer(engine, batch[middle:])])


def golden_batch(bundle: Bundle) -> tuple[RGBImage, NDArray[np.float64]]:
    """The golden captures, uint8 [N, S, S, 3], and their expected probabilities, [N, L]. Raises EngineError."""
    golden = bundle.golden()
    try:
        batch = np.stack([decode(data, bundle.manifest.image).pixels for data, _ in golden])
        expected = np.stack([probabilities for _, probabilities in golden])
    except (CaptureRejected, ValueError) as error:
        raise EngineError(
            f"bundle {bundle.digest[:12]}: its golden captures are unusable ({error}); export again"
        ) from None
    return batch, expected
