"""How far an engine's answers are from float32, over an archive: what `screen bundle verify --captures` reports."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle, Manifest
from contract.case_policy import CaseCounts, CaseResult, judge
from contract.errors import CaptureRejected
from contract.imaging import SUFFIXES, RGBImage, decode
from worker.engines.base import Engine, infer

ENOUGH_EQUAL = 0.999
"""Share of captures that must keep their label for a precision to serve."""
BATCH = 16


@dataclass(frozen=True)
class Agreement:
    """Two engines on the same captures; scores and verdicts by the bundle's case policy, patient by patient."""

    captures: int
    rejected: int
    equal: int
    largest_difference: float
    mean_difference: float
    cases: int
    largest_score_difference: float
    verdicts_changed: int

    @property
    def equal_share(self) -> float:
        return self.equal / self.captures if self.captures else 1.0

    @property
    def good_enough(self) -> bool:
        return self.equal_share >= ENOUGH_EQUAL and self.verdicts_changed == 0


def find_captures(archive: Path) -> dict[str, list[Path]]:
    """The captures of each patient's folder."""
    found: dict[str, list[Path]] = {}
    for file in sorted(archive.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.is_file():
            found.setdefault(file.relative_to(archive).parts[0], []).append(file)
    return found


def compare(
    bundle: Bundle,
    engine: Engine,
    reference: Engine,
    files: Mapping[str, Sequence[Path]],
    advance: Callable[[int], object] = lambda _: None,
) -> Agreement:
    """Run every capture through both; one that cannot be decoded is left out and counted."""
    ours, theirs, changed, largest_score, rejected = [], [], 0, 0.0, 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as decoders:
        for some in files.values():
            pixels = [one for one in decoders.map(lambda file: _decoded(file, bundle), some) if one is not None]
            rejected += len(some) - len(pixels)
            advance(len(some))
            if not pixels:
                continue
            one, other = (_probabilities(runner, pixels) for runner in (engine, reference))
            ours.append(one)
            theirs.append(other)
            mine, wanted = (_judged(bundle.manifest, p) for p in (one, other))
            assert mine.score is not None
            assert wanted.score is not None
            largest_score = max(largest_score, abs(mine.score - wanted.score))
            changed += (mine.verdict, mine.subtype) != (wanted.verdict, wanted.subtype)
    labels = len(bundle.manifest.labels)
    a, b = (np.concatenate(parts) if parts else np.empty((0, labels)) for parts in (ours, theirs))
    apart = np.abs(a - b)
    return Agreement(
        captures=len(a),
        rejected=rejected,
        equal=int((a.argmax(1) == b.argmax(1)).sum()),
        largest_difference=float(apart.max(initial=0.0)),
        mean_difference=float(apart.mean()) if len(a) else 0.0,
        cases=len(ours),
        largest_score_difference=largest_score,
        verdicts_changed=changed,
    )


def _decoded(file: Path, bundle: Bundle) -> RGBImage | None:
    try:
        return decode(file.read_bytes(), bundle.manifest.image).pixels
    except CaptureRejected:
        return None


def _probabilities(engine: Engine, pixels: Sequence[RGBImage]) -> NDArray[np.float64]:
    parts = [infer(engine, np.stack(pixels[i : i + BATCH])).probabilities for i in range(0, len(pixels), BATCH)]
    return np.concatenate(parts).astype(np.float64)


def _judged(manifest: Manifest, probabilities: NDArray[np.float64]) -> CaseResult:
    n = len(probabilities)
    return judge(manifest.case_policy, manifest.labels, manifest.benign_label, probabilities, CaseCounts(n, n, 0, 0))
