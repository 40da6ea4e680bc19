"""From the captures of one case to its result: pure, versioned, and the same every time for the same rows.

The parameters come from the bundle, where the trainer has fitted them on patients it did not train on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.states import MarkCode, Verdict

Scores = NDArray[np.float64]
RuleName = Literal["mean", "positive_share", "top_k_mean", "noisy_or"]
RULE_PARAMETERS = ("positive_from", "top_k", "link")
BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 20221
"""Fixed, so that a result can be recomputed from its rows and comes out the same."""


def _mean(p_all: Scores, _: "CasePolicy") -> Scores:
    return np.asarray(p_all.mean(axis=-1))


def _positive_share(p_all: Scores, policy: "CasePolicy") -> Scores:
    return np.asarray((p_all >= policy.positive_from).mean(axis=-1))


def _top_k_mean(p_all: Scores, policy: "CasePolicy") -> Scores:
    return np.asarray(np.sort(p_all, axis=-1)[..., -policy.top_k :].mean(axis=-1))


def _noisy_or(p_all: Scores, policy: "CasePolicy") -> Scores:
    return np.asarray(1.0 - (1.0 - policy.link * p_all).prod(axis=-1))


RULES: dict[str, tuple[Callable[[Scores, "CasePolicy"], Scores], str]] = {
    "mean": (_mean, "the mean probability of ALL over the captures"),
    "positive_share": (_positive_share, "the share of captures whose probability of ALL is {positive_from:g} or more"),
    "top_k_mean": (_top_k_mean, "the mean of the {top_k} highest probabilities of ALL"),
    "noisy_or": (
        _noisy_or,
        "the probability that at least one capture shows ALL, each counting {link:g} times its own (noisy-or)",
    ),
}
"""rule -> (scores [..., captures] of P(ALL) to scores [...], what the score is). docs/case-rule.md compares them."""


class CasePolicy(BaseModel):
    """The case rule and its thresholds, stored in the bundle; docs/case-rule.md says when to take which rule.

    Version 1 of the rules, where p_1 ... p_n are P(ALL) = 1 - P(benign label) of the usable captures:

    - `mean`: (p_1 + ... + p_n) / n.
    - `positive_share`: how many of them are at least `positive_from`, divided by n.
    - `top_k_mean`: the mean of the `top_k` largest, of all where there are fewer.
    - `noisy_or`: 1 - (1 - c p_1) ... (1 - c p_n) with c = `link` (Pearl 1988, section 4.3.2): grows with n.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: RuleName = "mean"
    version: Literal[1] = 1
    benign_at_most: float = Field(ge=0, le=1, description="a score up to this is called benign")
    all_at_least: float = Field(ge=0, le=1, description="a score from this on is called ALL")
    min_captures: int = Field(3, ge=1, description="with fewer usable captures the case is insufficient")
    positive_from: float = Field(0.5, gt=0, le=1, description="positive_share: a capture from this P(ALL) on counts")
    top_k: int = Field(5, ge=1, description="top_k_mean: how many of the highest P(ALL) count")
    link: float = Field(0.1, gt=0, le=1, description="noisy_or: how far one capture alone can raise the score")

    exclude: tuple[MarkCode, ...] = Field(
        (MarkCode.OUT_OF_FOCUS, MarkCode.EMPTY_FIELD, MarkCode.NOVEL),
        description="marks that keep a capture out of the score",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "CasePolicy":
        if self.benign_at_most > self.all_at_least:
            raise ValueError("benign_at_most must not exceed all_at_least")
        return self

    @property
    def description(self) -> str:
        """What the score is, in words, with the rule's parameters."""
        return RULES[self.rule][1].format(**self.model_dump())

    def excludes(self, marks: Iterable[str]) -> list[MarkCode]:
        """Those of these codes that keep a capture out of the score."""
        found = set(marks)
        return [code for code in self.exclude if code in found]

    def scores(self, p_all: Scores) -> Scores:
        """The rule's score: P(ALL) [..., captures] -> [...], each between 0 and 1; at least one capture."""
        return RULES[self.rule][0](p_all, self)


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
    """The proposal that a haematologist reviews. `score` and its interval are None without a capture that counts;
    `excluded` and `novel` are how many of the screened captures are.
    """

    verdict: Verdict
    score: float | None
    score_low: float | None
    score_high: float | None
    subtype: str | None
    subtype_margin: float | None
    priority: float
    reasons: list[Reason] = field(default_factory=list)
    excluded: int = 0
    novel: int = 0


def judge(
    policy: CasePolicy,
    labels: Sequence[str],
    benign_label: str,
    probabilities: NDArray[np.float64],
    counts: CaseCounts,
    *,
    digests: Sequence[str] | None = None,
    marks: Sequence[Sequence[str]] | None = None,
    identity_conflict: bool = False,
) -> CaseResult:
    """Apply the policy to one case.

    `digests` are those of the captures, in the order of the rows: of captures that are the same file one counts,
    however often it was copied. Without them all count.

    `marks` are the codes of each capture's marks; those that the policy excludes do not count. An exclusion never makes
    a case benign: where most captures are excluded a benign one is insufficient, and where it would not be benign with
    all of them it is indeterminate. Both say so.

    With `identity_conflict`, one of its captures is also another patient's, byte for byte. Whose it is cannot be told
    from here, so it counts; the result says so first, and the case comes before all others.

    `probabilities` is [captures, labels] over the screened captures, in any order: rows are sorted first, because
    floating-point sums and bootstrap draws depend on the order.

    The interval is the 2.5 to 97.5 percentile of the score over bootstrap draws of captures (Efron 1979). It says how
    far the score depends on which captures were taken; it knows nothing of how well the network knows this patient.
    """
    benign = list(labels).index(benign_label)
    codes = marks if marks is not None else [()] * len(probabilities)
    excluded = [policy.excludes(one) for one in codes]
    counted = np.array([not one for one in excluded], bool)
    numbers = (len(codes) - int(counted.sum()), sum(MarkCode.NOVEL in one for one in codes))
    mostly = numbers[0] > len(codes) / 2
    first = [
        *([IDENTITY_CONFLICT] if identity_conflict else []),
        *(_exclusions("mostly_excluded", excluded) if mostly else []),
    ]

    def urgency(verdict: Verdict, score: float | None) -> float:
        missing = counts.incomplete or mostly
        return _priority(verdict, score, missing=missing) + (MIXED_UP if identity_conflict else 0.0)

    if not counted.any():
        unusable = [] if mostly else [Reason("no_usable_capture", "no capture of this case could be screened")]
        return CaseResult(
            Verdict.INSUFFICIENT, None, None, None, None, None, urgency(Verdict.INSUFFICIENT, None),
            [*first, *unusable, *_completeness(counts)], *numbers,
        )  # fmt: skip
    of_counted = None if digests is None else [one for one, counts_ in zip(digests, counted, strict=True) if counts_]
    rows = _once_each(probabilities[counted], of_counted)
    p_all = 1.0 - rows[:, benign]
    score = float(policy.scores(p_all))
    low, high = _bootstrap_interval(policy, p_all)
    others = [i for i in range(len(labels)) if i != benign]
    shares = rows[:, others].mean(axis=0)
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(others), 1 / len(others))
    order = np.argsort(-shares, kind="stable")
    margin = float(shares[order[0]] - shares[order[1]]) if len(others) > 1 else 1.0
    verdict, reason = _verdict(policy, score, len(rows))
    reasons = [reason]
    if verdict is Verdict.BENIGN and numbers[0]:
        with_all = float(policy.scores(1.0 - _once_each(probabilities, digests)[:, benign]))
        verdict, doubts = _doubted(policy, with_all, mostly=mostly)
        reasons = [*doubts, reason]
    subtype = labels[others[order[0]]] if verdict in (Verdict.ALL, Verdict.INDETERMINATE) else None
    return CaseResult(
        verdict, score, low, high, subtype, margin if subtype else None, urgency(verdict, score),
        [
            *first, *reasons, *_completeness(counts), *_copies(int(counted.sum()) - len(rows)),
            *(_exclusions("excluded", excluded) if numbers[0] and not mostly else []),
        ],
        *numbers,
    )  # fmt: skip


def _doubted(policy: CasePolicy, score_with_all: float, *, mostly: bool) -> tuple[Verdict, list[Reason]]:
    """What a benign verdict is worth when captures were excluded."""
    if mostly:
        return Verdict.INSUFFICIENT, [Reason("benign_on_few", "what is left is too little to call the case benign")]
    if score_with_all > policy.benign_at_most:
        sentence = f"benign only without the excluded captures: with them the score would be {score_with_all:.3f}"
        return Verdict.INDETERMINATE, [Reason("exclusions_decide", sentence)]
    return Verdict.BENIGN, []


def _exclusions(code: str, excluded: Sequence[Sequence[MarkCode]]) -> list[Reason]:
    why = Counter(mark for marks in excluded for mark in marks)
    told = ", ".join(f"{count} {mark.replace('_', ' ')}" for mark, count in sorted(why.items()))
    return [Reason(code, f"{sum(map(bool, excluded))} of {len(excluded)} screened captures do not count: {told}")]


def _once_each(probabilities: Scores, digests: Sequence[str] | None) -> Scores:
    """The rows, sorted, one for each digest: whatever order they came in, the same rows in the same order."""
    order = np.lexsort(probabilities.T[::-1])
    if digests is not None:
        seen: dict[str, int] = {}
        for row in order:
            seen.setdefault(digests[row], row)
        order = np.array(list(seen.values()))
    return probabilities[order]


def _copies(count: int) -> list[Reason]:
    if not count:
        return []
    return [
        Reason("duplicates", f"{count} captures are copies of others of this case, byte for byte, and do not count")
    ]


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


def _bootstrap_interval(policy: CasePolicy, p_all: Scores) -> tuple[float, float]:
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    scores = policy.scores(p_all[rng.integers(0, len(p_all), (BOOTSTRAP_DRAWS, len(p_all)))])
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _completeness(counts: CaseCounts) -> list[Reason]:
    if not counts.incomplete:
        return []
    missing = counts.submitted - counts.screened
    return [Reason("incomplete", f"{missing} of {counts.submitted} captures could not be screened")]


def _priority(verdict: Verdict, score: float | None, *, missing: bool) -> float:
    """The review queue is worked from high to low: ALL, then what the system could not settle, then benign.

    Within a verdict the score decides; a case with captures missing, or most of them excluded, comes before a complete
    one of its kind, except among ALL, where nothing may come before the score.
    """
    base = {Verdict.ALL: 6.0, Verdict.INDETERMINATE: 4.0, Verdict.INSUFFICIENT: 2.0, Verdict.BENIGN: 0.0}[verdict]
    return base + (1.0 if missing and verdict is not Verdict.ALL else 0.0) + (score or 0.0)
