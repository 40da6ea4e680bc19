"""Whether answers reproduce what the float32 graph decided: figures, and sentences about what fails."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Manifest
from contract.decisions import Decision
from contract.novelty import Novelty
from contract.proof import Expected

MOST_CHANGED = 0.005
"""Share of the hidden captures whose label, novelty or exclusion a precision may change."""


@dataclass(frozen=True)
class Figures:
    """How answers for `captures` captures differ from what is expected. None: the bundle expects nothing there.

    Differences are the largest ones: `probability`; `novelty`, in thresholds, and above 1 as a share of itself; `cam`,
    an activation map, as a share of its range. `novelty_off` counts captures whose novelty differs by more than the
    tolerance. `moved` says how far each block of the embedding moved, as a share of its spread between captures.
    """

    captures: int
    labels_changed: int
    probability: float
    novelty: float | None = None
    novelty_off: int | None = None
    novel_changed: int | None = None
    excluded_changed: int | None = None
    cam: float | None = None
    moved: tuple[float, ...] | None = None


def figures(
    manifest: Manifest,
    precision: str,
    reference: Novelty | None,
    expected: Expected,
    probabilities: NDArray[Any],
    embedding: NDArray[np.float32],
    cam: NDArray[np.float32] | None,
    decisions: Sequence[Decision],
) -> Figures:
    """Compare answers in this precision, and their decisions, with what is expected. NaN differs by infinity."""
    excluded = np.asarray([decision.excluded for decision in decisions])
    difference = novel_changed = None
    if expected.novelty is not None and reference is not None:
        novelty = np.asarray([decision.novelty for decision in decisions], float)
        difference = _finite(np.abs(novelty - expected.novelty) / np.maximum(1, expected.novelty))
        novel_changed = int(np.count_nonzero((novelty > 1) != (expected.novelty > 1)))
    has_maps = expected.cam is not None and cam is not None
    return Figures(
        captures=len(probabilities),
        labels_changed=int((probabilities.argmax(axis=1) != expected.probabilities.argmax(axis=1)).sum()),
        probability=_largest(np.abs(probabilities - expected.probabilities)),
        novelty=None if difference is None else _largest(difference),
        novelty_off=None if difference is None else int((difference > manifest.novelty_tolerance[precision]).sum()),
        novel_changed=novel_changed,
        excluded_changed=None if expected.excluded is None else int((excluded != expected.excluded).sum()),
        cam=_largest(_of_range(cam, expected.cam)) if has_maps else None,
        moved=(
            None
            if expected.embedding is None or reference is None
            else _moved(reference, embedding, expected.embedding)
        ),
    )


def failures(manifest: Manifest, precision: str, of: Figures, name: str, *, share: float = 0.0) -> list[str]:
    """Sentences about figures of the `name` captures beyond their tolerance. A `share` of the captures may change."""
    allowed = math.floor(share * of.captures + 1e-9)
    limit = f" (at most {allowed})" if allowed else ""
    counts = {
        "have another label": of.labels_changed,
        "changed between novel and not novel": of.novel_changed,
        "changed between counting and not counting": of.excluded_changed,
        f"differ in novelty by more than {manifest.novelty_tolerance[precision]:g}": of.novelty_off,
    }
    sentences = [
        f"{count} of {of.captures} {name} captures {change}{limit}"
        for change, count in counts.items()
        if count is not None and count > allowed
    ]
    if not share:
        largest = {
            "probability": (of.probability, manifest.golden_tolerance[precision]),
            "an activation map": (of.cam, manifest.map_tolerance[precision]),
        }
        sentences += [
            f"largest difference in {quantity} {value:.4f}, tolerance {tolerance:g}"
            for quantity, (value, tolerance) in largest.items()
            if value is not None and not value <= tolerance
        ]
    if of.novelty_off and of.moved is not None:
        shares = " and ".join(f"{moved:.0%}" for moved in of.moved)
        sentences.append(f"the parts of its embedding moved by {shares} of their spread")
    return sentences


def _moved(reference: Novelty, embedding: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, ...]:
    moved = []
    for block in reference.blocks:
        before, now = (rows[:, block.begin : block.end].astype(float) for rows in (expected, embedding))
        spread = float(np.linalg.norm(before - before.mean(axis=0)))
        moved.append(float(np.linalg.norm(now - before)) / max(spread, 1e-12))
    return tuple(moved)


def _of_range(cam: Any, expected: Any) -> NDArray[np.float64]:
    difference = np.abs(cam.astype(float) - expected).max(axis=(1, 2, 3))
    return np.asarray(difference / np.maximum(np.ptp(expected, axis=(1, 2, 3)), 1e-6))


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.inf)


def _largest(values: NDArray[Any]) -> float:
    return float(_finite(values).max(initial=0.0))
