"""What an inference engine is to the pipeline, and how one is chosen and proved before it serves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.errors import CaptureRejected, EngineError
from contract.imaging import RGBImage, decode


@dataclass(frozen=True)
class Predictions:
    """Outputs for a batch of N: probabilities float32 [N, L]; cam float32 [N, L, h, w], or None where the bundle
    has no activation map; embedding float32 [N, D].
    """

    probabilities: NDArray[np.float32]
    cam: NDArray[np.float32] | None
    embedding: NDArray[np.float32]


class Engine(Protocol):
    """Runs one bundle. Not thread-safe: one thread calls `infer`."""

    name: str
    precision: str

    def infer(self, batch: RGBImage) -> Predictions:
        """`batch` is uint8 [N, S, S, 3], N from 1 to whatever memory allows. Raises EngineError."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """Settings that an engine is opened with. `cache_dir` is where it keeps what it compiled."""

    engine: str
    precision: str
    cache_dir: Path


def open_engine(bundle: Bundle, options: EngineOptions) -> Engine:
    """Open the engine named in `options` on a bundle whose digests were checked, and prove it on its golden captures.

    The libraries are imported here, in the worker's child, never in its parent.

    Raises EngineError where the engine cannot run the bundle or answers otherwise than the bundle says.
    """
    from worker.engines.openvino import OpenVINOEngine  # the only one so far; "auto" means it

    engine = OpenVINOEngine(bundle, options)
    prove(engine, bundle)
    return engine


def prove(engine: Engine, bundle: Bundle) -> float:
    """Run the golden captures; returns the largest difference in probability from what the bundle expects.

    Raises EngineError where a top label differs or the difference exceeds the bundle's tolerance for this precision.
    """
    golden = bundle.golden()
    try:
        batch = np.stack([decode(data, bundle.manifest.image).pixels for data, _ in golden])
        expected = np.stack([probabilities for _, probabilities in golden])
    except (CaptureRejected, ValueError) as error:
        raise EngineError(
            f"bundle {bundle.digest[:12]}: its golden captures are unusable ({error}); export again"
        ) from None
    actual = engine.infer(batch).probabilities
    if actual.shape != expected.shape:
        raise EngineError(
            f"engine {engine.name} gives probabilities {actual.shape}, the golden captures have {expected.shape}; "
            f"export bundle {bundle.digest[:12]} again"
        )
    difference = float(np.abs(actual - expected).max())
    tolerance = bundle.manifest.golden_tolerance.get(engine.precision, 0.0)
    flipped = int((actual.argmax(1) != expected.argmax(1)).sum())
    if flipped or not difference <= tolerance:
        raise EngineError(
            f"engine {engine.name} ({engine.precision}) does not reproduce bundle {bundle.digest[:12]}: {flipped} of "
            f"{len(golden)} golden captures have another label, largest difference in probability {difference:.4f}, "
            f"tolerance {tolerance}; set SCREEN_PRECISION=float32, or export the bundle again"
        )
    return difference
