"""What an engine's answers decide about captures: label, novelty, marks, and whether they count. One function for the
worker, for the proof of an engine, and for the trainer, which writes down what the float32 graph decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Manifest
from contract.novelty import Novelty, mark_of
from contract.outcomes import Mark
from contract.quality import marks_of


@dataclass(frozen=True)
class Decision:
    """Of one capture: the number of its label, its novelty (None where the bundle has no reference for it), its marks,
    and whether the case policy excludes it.
    """

    label: int
    novelty: float | None
    marks: list[Mark]
    excluded: bool

    @property
    def novel(self) -> bool:
        return self.novelty is not None and mark_of(self.novelty) is not None


def decide(
    manifest: Manifest,
    known: Novelty | None,
    probabilities: NDArray[Any],
    embedding: NDArray[np.float32],
    qualities: Sequence[Mapping[str, float]],
) -> list[Decision]:
    """Of N captures: probabilities [N, L], embedding [N, D], and what `contract.quality.measure` says of each."""
    novelties = [None] * len(probabilities) if known is None else known.of(embedding).tolist()
    usual = manifest.reference.get("quality", {})
    decisions = []
    for label, novelty, quality in zip(probabilities.argmax(axis=1).tolist(), novelties, qualities, strict=True):
        novel = None if novelty is None else mark_of(novelty)
        marks = [*([novel] if novel else []), *marks_of(quality, usual)]
        excluded = bool(manifest.case_policy.excludes(mark.code for mark in marks))
        decisions.append(Decision(label, novelty, marks, excluded))
    return decisions
