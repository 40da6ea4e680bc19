"""How far an engine's answers are from float32, over an archive: what `screen bundle verify --captures` reports.

Captures are decoded, measured, decided about and judged by the very functions that a worker uses.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np

from contract.archive import Archive
from contract.bundle import Bundle, Manifest
from contract.case_rule import CaseCounts, CaseResult, JudgedCapture, judge
from contract.decisions import Decision, decide
from contract.errors import CaptureRejected
from contract.imaging import RGBImage, decode
from contract.novelty import Novelty, read_novelty
from contract.quality import measure
from contract.reproduction import MOST_CHANGED
from worker.engines.base import Engine, Predictions, infer_all

ENOUGH_EQUAL = 0.999
"""Share of captures that must keep their label for a precision to serve."""
BATCH = 16


@dataclass
class Agreement:
    """Two engines on the same captures: of captures how many differ in what, and of cases, which are the folders of
    patients, judged by the bundle's case policy without what it excludes. `novel`, `excluded` and `verdicts` count what
    this engine and float32 each came to; `rejected` are captures that cannot be decoded.
    """

    captures: int = 0
    rejected: int = 0
    equal: int = 0
    largest_difference: float = 0.0
    mean_difference: float = 0.0
    largest_novelty_difference: float = 0.0
    novel_changed: int = 0
    excluded_changed: int = 0
    novel: tuple[int, int] = (0, 0)
    excluded: tuple[int, int] = (0, 0)
    cases: int = 0
    largest_score_difference: float = 0.0
    verdicts_changed: int = 0
    verdicts: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))

    @property
    def equal_share(self) -> float:
        return self.equal / self.captures if self.captures else 1.0

    @property
    def good_enough(self) -> bool:
        return (
            self.equal_share >= ENOUGH_EQUAL
            and max(self.novel_changed, self.excluded_changed) <= MOST_CHANGED * self.captures
            and self.verdicts_changed == 0
        )


@dataclass(frozen=True)
class _Capture:
    pixels: RGBImage
    quality: dict[str, float]
    digest: str


@dataclass(frozen=True)
class _Side:
    """What one engine came to on the captures of a case."""

    answers: Predictions
    decisions: list[Decision]
    result: CaseResult


def compare(
    bundle: Bundle,
    engine: Engine,
    reference: Engine,
    archive: Archive,
    advance: Callable[[int], object] = lambda _: None,
) -> Agreement:
    """Run all captures of the archive through both; one that cannot be decoded is rejected, and its case incomplete."""
    agreement, known = Agreement(), read_novelty(bundle)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as decoders:
        for _, of_patient in groupby(archive.captures, key=lambda capture: capture.patient):
            read = list(decoders.map(lambda capture: _read(archive.root, capture.path, bundle), of_patient))
            captures = [capture for capture in read if capture is not None]
            rejected = len(read) - len(captures)
            agreement.rejected += rejected
            advance(len(read))
            if captures:
                counts = CaseCounts(len(read), len(captures), rejected, 0)
                ours, theirs = (_side(bundle.manifest, known, one, captures, counts) for one in (engine, reference))
                _add(agreement, ours, theirs)
    return agreement


def _read(root: bytes, path: bytes, bundle: Bundle) -> _Capture | None:
    data = Path(os.fsdecode(os.path.join(root, path))).read_bytes()  # noqa: PTH118 - bytes
    try:
        pixels = decode(data, bundle.manifest.image).pixels
    except CaptureRejected:
        return None
    return _Capture(pixels, measure(pixels), sha256(data).hexdigest())


def _side(
    manifest: Manifest, known: Novelty | None, engine: Engine, captures: Sequence[_Capture], counts: CaseCounts
) -> _Side:
    answers = infer_all(engine, np.stack([capture.pixels for capture in captures]), BATCH)
    qualities = [capture.quality for capture in captures]
    decisions = decide(manifest, known, answers.probabilities, answers.embedding, qualities)
    result = judge(
        [
            JudgedCapture(probabilities, capture.digest, [mark.code for mark in decision.marks])
            for probabilities, capture, decision in zip(answers.probabilities, captures, decisions, strict=True)
        ],
        policy=manifest.case_policy,
        labels=manifest.labels,
        benign_label=manifest.benign_label,
        counts=counts,
    )
    return _Side(answers, decisions, result)


def _add(agreement: Agreement, ours: _Side, theirs: _Side) -> None:
    """What the engines came to on the captures of one case more."""
    count = len(ours.decisions)
    apart = np.abs(ours.answers.probabilities - theirs.answers.probabilities)
    before = agreement.mean_difference * agreement.captures
    agreement.mean_difference = (before + float(apart.mean()) * count) / (agreement.captures + count)
    agreement.captures += count
    agreement.largest_difference = max(agreement.largest_difference, float(apart.max()))
    for mine, exact in zip(ours.decisions, theirs.decisions, strict=True):
        agreement.equal += mine.label == exact.label
        agreement.novel_changed += mine.novel != exact.novel
        agreement.excluded_changed += mine.excluded != exact.excluded
        if mine.novelty is not None and exact.novelty is not None:
            difference = abs(mine.novelty - exact.novelty)
            agreement.largest_novelty_difference = max(agreement.largest_novelty_difference, difference)
    for name in ("novel", "excluded"):
        sums = (sum(getattr(one, name) for one in side.decisions) for side in (ours, theirs))
        setattr(agreement, name, tuple(a + b for a, b in zip(getattr(agreement, name), sums, strict=True)))
    _add_case(agreement, ours.result, theirs.result)


def _add_case(agreement: Agreement, ours: CaseResult, theirs: CaseResult) -> None:
    agreement.cases += 1
    if ours.score is not None and theirs.score is not None:
        difference = abs(ours.score - theirs.score)
        agreement.largest_score_difference = max(agreement.largest_score_difference, difference)
    agreement.verdicts_changed += (ours.verdict, ours.subtype) != (theirs.verdict, theirs.subtype)
    for verdicts, result in zip(agreement.verdicts, (ours, theirs), strict=True):
        verdicts[result.verdict.value] = verdicts.get(result.verdict.value, 0) + 1
