"""How far an engine's results are from float32 on an archive, for `screen bundle verify --captures`.

The same functions as in a worker decode, measure and decide about captures, and judge cases.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from contract.archive import Archive, FoundCapture
from contract.bundle import Bundle, Manifest
from contract.case_rule import CaseCounts, CaseResult, JudgedCapture, judge
from contract.decisions import Decision, decide
from contract.errors import CaptureRejected
from contract.imaging import RGBImage, decode
from contract.novelty import Novelty, read_novelty
from contract.predictions import Predictions
from contract.quality import measure
from contract.reading import read_capture
from contract.reproduction import MOST_CHANGED
from worker.engines.base import Engine, infer_all

ENOUGH_EQUAL = 0.999
"""A precision may serve if at least this share of captures keep their label."""
BATCH = 16


@dataclass
class Agreement:
    """Counts of how two engines differ on the same captures and cases. A case is a patient's folder, judged by the
    bundle's case policy without excluded captures. `novel`, `excluded` and `verdicts` count the results of this engine
    first and those of float32 second. `rejected` captures cannot be decoded.
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
    """The results of one engine for the captures of a case."""

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
    """Run all captures of the archive in both engines; one that cannot be decoded is rejected, its case incomplete."""
    agreement, novelty = Agreement(), read_novelty(bundle)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as decoders:
        for _, patient_captures in groupby(archive.captures, key=lambda capture: capture.patient):
            read = list(decoders.map(lambda capture: _read(archive.root, capture, bundle), patient_captures))
            captures = [capture for capture in read if capture is not None]
            rejected = len(read) - len(captures)
            agreement.rejected += rejected
            advance(len(read))
            if captures:
                counts = CaseCounts(len(read), len(captures), rejected, 0)
                tested = _side(bundle.manifest, novelty, engine, captures, counts)
                exact = _side(bundle.manifest, novelty, reference, captures, counts)
                _add(agreement, tested, exact)
    return agreement


def _read(root: bytes, capture: FoundCapture, bundle: Bundle) -> _Capture | None:
    """None where it cannot be screened. Raises ArchiveUnavailable."""
    try:
        read = read_capture(root, capture.path, capture.size_bytes, capture.modified_ns)
        pixels = decode(read.data, bundle.manifest.image).pixels
    except CaptureRejected:
        return None
    return _Capture(pixels, measure(pixels), read.sha256)


def _side(
    manifest: Manifest, novelty: Novelty | None, engine: Engine, captures: Sequence[_Capture], counts: CaseCounts
) -> _Side:
    answers = infer_all(engine, np.stack([capture.pixels for capture in captures]), BATCH)
    qualities = [capture.quality for capture in captures]
    decisions = decide(manifest, novelty, answers.probabilities, answers.embedding, qualities)
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


def _add(agreement: Agreement, tested: _Side, exact: _Side) -> None:
    """Add the results of one more case: of the tested engine and of the exact one."""
    count = len(tested.decisions)
    differences = np.abs(tested.answers.probabilities - exact.answers.probabilities)
    sum_before = agreement.mean_difference * agreement.captures
    agreement.mean_difference = (sum_before + float(differences.mean()) * count) / (agreement.captures + count)
    agreement.captures += count
    agreement.largest_difference = max(agreement.largest_difference, float(differences.max()))
    for decision, exact_decision in zip(tested.decisions, exact.decisions, strict=True):
        agreement.equal += decision.label == exact_decision.label
        agreement.novel_changed += decision.novel != exact_decision.novel
        agreement.excluded_changed += decision.excluded != exact_decision.excluded
        if decision.novelty is not None and exact_decision.novelty is not None:
            difference = abs(decision.novelty - exact_decision.novelty)
            agreement.largest_novelty_difference = max(agreement.largest_novelty_difference, difference)
    for name in ("novel", "excluded"):
        counts = (sum(getattr(decision, name) for decision in side.decisions) for side in (tested, exact))
        totals = zip(getattr(agreement, name), counts, strict=True)
        setattr(agreement, name, tuple(total + added for total, added in totals))
    _add_case(agreement, tested.result, exact.result)


def _add_case(agreement: Agreement, tested: CaseResult, exact: CaseResult) -> None:
    agreement.cases += 1
    if tested.score is not None and exact.score is not None:
        difference = abs(tested.score - exact.score)
        agreement.largest_score_difference = max(agreement.largest_score_difference, difference)
    agreement.verdicts_changed += (tested.verdict, tested.subtype) != (exact.verdict, exact.subtype)
    for verdicts, result in zip(agreement.verdicts, (tested, exact), strict=True):
        verdicts[result.verdict.value] = verdicts.get(result.verdict.value, 0) + 1
