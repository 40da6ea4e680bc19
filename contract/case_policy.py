"""From the captures of one case to its result: pure, versioned, and the same every time for the same rows.

The parameters come from the bundle, where the trainer has fitted them on patients it did not train on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.states import Verdict

BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 20221
"""Fixed, so that a result can be recomputed from its rows and comes out the same."""


class CasePolicy(BaseModel):
    """The case rule and its thresholds, stored in the bundle.

    Rule `mean`, version 1: the score is the mean over the usable captures of P(ALL) = 1 - P(benign label).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Literal["mean"] = "mean"
    version: Literal[1] = 1
    benign_at_most: float = Field(ge=0, le=1, description="a score up to this is called benign")
    all_at_least: float = Field(ge=0, le=1, description="a score from this on is called ALL")
    min_captures: int = Field(3, ge=1, description="with fewer usable captures the case is insufficient")

    @model_validator(mode="after")
    def _ordered(self) -> "CasePolicy":
        if self.benign_at_most > self.all_at_least:
            raise ValueError("benign_at_most must not exceed all_at_least")
        return self


@dataclass(frozen=True)
class Reason:
    """Why a case came out as it did: a code for machines, a sentence for people."""

    code: str
    sentence: str


IDENTITY_CONFLICT = Reason(
    "identity_conflict",
    "the same capture, byte for byte, lies under another patient too: patients may have been mixed up",
)
MIXED_UP = 8.0
"""Added to a case's priority, more than any verdict gives: its result may be somebody else's."""


@dataclass(frozen=True)
class CaseCounts:
    """How the captures of a case ended; `submitted` was sealed at submit."""

    submitted: int
    screened: int
    rejected: int
    quarantined: int

    @property
    def incomplete(self) -> bool:
        return self.screened < self.submitted


@dataclass(frozen=True)
class CaseResult:
    """The proposal that a haematologist reviews. `score` and its interval are None without a usable capture."""

    verdict: Verdict
    score: float | None
    score_low: float | None
    score_high: float | None
    subtype: str | None
    subtype_margin: float | None
    priority: float
    reasons: list[Reason] = field(default_factory=list)


def judge(
    policy: CasePolicy,
    labels: Sequence[str],
    benign_label: str,
    probabilities: NDArray[np.float64],
    counts: CaseCounts,
    *,
    identity_conflict: bool = False,
) -> CaseResult:
    """Apply the policy to one case.

    With `identity_conflict`, one of its captures is also another patient's, byte for byte. Whose it is cannot be told
    from here, so it counts; the result says so first, and the case comes before all others.

    `probabilities` is [captures, labels] over the usable captures, in any order: rows are sorted first, because
    floating-point sums and bootstrap draws depend on the order.

    The interval is the 2.5 to 97.5 percentile of the score over bootstrap draws of captures (Efron 1979). It says how
    far the score depends on which captures were taken; it knows nothing of how well the network knows this patient.
    """
    benign = list(labels).index(benign_label)
    others = [i for i in range(len(labels)) if i != benign]
    if len(probabilities) == 0:
        return CaseResult(
            Verdict.INSUFFICIENT, None, None, None, None, None, _priority(Verdict.INSUFFICIENT, None, counts),
            [Reason("no_usable_capture", "no capture of this case could be screened"), *_completeness(counts)],
        )  # fmt: skip
    rows = probabilities[np.lexsort(probabilities.T[::-1])]
    p_all = 1.0 - rows[:, benign]
    score = float(p_all.mean())
    low, high = _bootstrap_interval(p_all)
    shares = rows[:, others].mean(axis=0)
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(others), 1 / len(others))
    order = np.argsort(-shares, kind="stable")
    margin = float(shares[order[0]] - shares[order[1]]) if len(others) > 1 else 1.0
    verdict, reason = _verdict(policy, score, len(rows))
    subtype = labels[others[order[0]]] if verdict in (Verdict.ALL, Verdict.INDETERMINATE) else None
    return CaseResult(
        verdict, score, low, high, subtype, margin if subtype else None,
        _priority(verdict, score, counts) + (MIXED_UP if identity_conflict else 0.0),
        [*([IDENTITY_CONFLICT] if identity_conflict else []), reason, *_completeness(counts)],
    )  # fmt: skip


def _verdict(policy: CasePolicy, score: float, usable: int) -> tuple[Verdict, Reason]:
    if usable < policy.min_captures:
        return Verdict.INSUFFICIENT, Reason(
            "too_few_captures", f"{usable} usable captures; the rule wants at least {policy.min_captures}"
        )
    if score >= policy.all_at_least:
        return Verdict.ALL, Reason("score_high", f"score {score:.3f}, ALL from {policy.all_at_least:.3f}")
    if score <= policy.benign_at_most:
        return Verdict.BENIGN, Reason("score_low", f"score {score:.3f}, benign up to {policy.benign_at_most:.3f}")
    return Verdict.INDETERMINATE, Reason(
        "score_between",
        f"score {score:.3f}, between benign (up to {policy.benign_at_most:.3f}) and ALL (from "
        f"{policy.all_at_least:.3f})",
    )


def _bootstrap_interval(p_all: NDArray[np.float64]) -> tuple[float, float]:
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    means = p_all[rng.integers(0, len(p_all), (BOOTSTRAP_DRAWS, len(p_all)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _completeness(counts: CaseCounts) -> list[Reason]:
    if not counts.incomplete:
        return []
    missing = counts.submitted - counts.screened
    return [Reason("incomplete", f"{missing} of {counts.submitted} captures could not be screened")]


def _priority(verdict: Verdict, score: float | None, counts: CaseCounts) -> float:
    """The review queue is worked from high to low: ALL, then what the system could not settle, then benign.

    Within a verdict the score decides; a case with captures missing comes before a complete one of its kind, except
    among ALL, where nothing may come before the score.
    """
    base = {Verdict.ALL: 6.0, Verdict.INDETERMINATE: 4.0, Verdict.INSUFFICIENT: 2.0, Verdict.BENIGN: 0.0}[verdict]
    return base + (1.0 if counts.incomplete and verdict is not Verdict.ALL else 0.0) + (score or 0.0)
