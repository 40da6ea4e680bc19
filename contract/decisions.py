"""What an engine's answers decide about captures: label, novelty, marks, and whether they count. The worker, the proof
of an engine and the trainer, which writes down what the float32 graph decides, all use the same function.
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
    """About one capture: the index of its label, its novelty (None if the bundle has no reference for it), its marks,
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
    reference: Novelty | None,
    probabilities: NDArray[Any],
    embedding: NDArray[np.float32],
    qualities: Sequence[Mapping[str, float]],
) -> list[Decision]:
    """Decide about N captures: probabilities [N, L], embedding [N, D], and each one's `contract.quality.measure`."""
    novelties = [None] * len(probabilities) if reference is None else reference.of(embedding).tolist()
    quality_reference = manifest.reference.get("quality", {})
    decisions = []
    for label, novelty, quality in zip(probabilities.argmax(axis=1).tolist(), novelties, qualities, strict=True):
        marks = all_marks(novelty, quality, quality_reference)
        excluded = bool(manifest.case_policy.excludes(mark.code for mark in marks))
        decisions.append(Decision(label, novelty, marks, excluded))
    return decisions


def all_marks(novelty: float | None, quality: Mapping[str, float], reference: Mapping[str, Any]) -> list[Mark]:
    """The marks of one capture; `novelty` is None without a reference for it, `reference` is that of `marks_of`."""
    novelty_mark = None if novelty is None else mark_of(novelty)
    return [*([novelty_mark] if novelty_mark else []), *marks_of(quality, reference)]
