"""Computes the result of one case from its screened captures: pure, versioned, and always the same for the same
captures.

`judge` is the whole rule. It has the steps of docs/case-rule.md, and each step is a function below it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contract.case_policy import CasePolicy, Scores
from contract.outcomes import MOST_CELLS
from contract.states import MarkCode, Verdict
from contract.words import result_words

BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 20221
"""Fixed, so that a result recomputed from its rows is the same."""
CAPTURES_AT_ONCE = 2**20
"""How many drawn captures the bootstrap holds at once, 8 MiB in each of a few arrays; at least one whole draw."""
URGENCY = {Verdict.ALL: 6.0, Verdict.INDETERMINATE: 4.0, Verdict.INSUFFICIENT: 2.0, Verdict.BENIGN: 0.0}
"""Priority before the score is added: ALL first, then cases that the system could not decide, benign last."""
MISSING = 1.0
"""Added if captures are missing or most of them are excluded, but not for ALL: there only the score decides."""
MIXED_UP = 8.0
"""Added for a case in conflict with another patient's. It exceeds every verdict: the result may be another person's."""


@dataclass(frozen=True)
class JudgedCapture:
    """The data of a screened capture that the rule uses: its probabilities by label [L], the digest of its file, and
    the codes of its marks. Captures with the same digest are copies of one file; one without a digest is no copy.
    `nucleated_cells` is how many it has, at most MOST_CELLS, which changes no verdict; None if that is not known.
    """

    probabilities: ArrayLike
    digest: str | None = None
    marks: Sequence[str] = ()
    nucleated_cells: int | None = None


@dataclass(frozen=True)
class CaseCounts:
    """How the captures of a case ended; `submitted` was fixed at submit."""

    submitted: int
    screened: int
    rejected: int
    quarantined: int

    @property
    def missing(self) -> int:
        """Captures that could not be screened."""
        return self.submitted - self.screened


@dataclass(frozen=True)
class Reason:
    """Why a case got its result: a code for machines, a sentence for people."""

    code: str
    sentence: str


IDENTITY_CONFLICT = Reason(
    "identity_conflict",
    "the same capture, byte for byte, lies under another patient too: patients may have been mixed up",
)

LOOK_ALIKE = Reason(
    "look_alike",
    "another folder of this archive has a name that looks the same: one patient in two halves, or two people in one",
)
MAY_BE_MIXED_UP = (IDENTITY_CONFLICT, LOOK_ALIKE)
"""What a result says before everything else, in this order."""


@dataclass(frozen=True)
class Emptied:
    """Why a case has no captures, and the result of its patient that it withdraws, which rested on some.

    `verdict` is None if that case was still open; `signed` if reviewers had closed it, with this verdict. `run_id` is
    None if the run has been purged.
    """

    why: str
    run_id: int | None = None
    verdict: Verdict | None = None
    subtype: str | None = None
    score: float | None = None
    signed: bool = False


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The proposal that a haematologist reviews. `score` and its interval are None if no capture counts,
    `subtype` and its margin if the verdict has no subtype; `excluded` and `novel` count screened captures, `counting`
    those that count, each file once.

    `nucleated_cells` is their number in the captures that count, as far as it is known, and None if it is known of
    none; `cells_at_least` says that there may be more.
    """

    verdict: Verdict
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    subtype: str | None = None
    subtype_margin: float | None = None
    priority: float
    reasons: list[Reason] = field(default_factory=list)
    excluded: int = 0
    novel: int = 0
    counting: int = 0
    nucleated_cells: int | None = None
    cells_at_least: bool = False


def judge(
    captures: Sequence[JudgedCapture],
    *,
    policy: CasePolicy,
    labels: Sequence[str],
    benign_label: str,
    counts: CaseCounts,
    identity_conflict: bool = False,
    look_alike: bool = False,
) -> CaseResult:
    """The result of one case: the policy applied to its screened captures, in any order.

    `identity_conflict` means that one of the captures is also another patient's, byte for byte. The rule cannot know
    whose it is, so the capture counts; the result states the conflict first, and the case comes before all others. The
    same with `look_alike`: another folder of the archive has a name that looks the same.
    """
    benign = list(labels).index(benign_label)
    selection = select_captures(policy, captures)
    selected = selection.counting
    if not len(selected):
        verdict, verdict_reasons = Verdict.INSUFFICIENT, selection.none_left()
        score = low = high = subtype = margin = None
    else:
        p_all = 1.0 - selected[:, benign]
        score = float(policy.scores(p_all))
        low, high = bootstrap_interval(policy, p_all)
        verdict, reason = verdict_of(policy, score, len(selected))
        verdict, doubts = doubted(policy, verdict, selection, benign)
        verdict_reasons = [*doubts, reason]
        subtype, margin = subtype_of(verdict, selected, labels, benign)
    reasons = [
        *([IDENTITY_CONFLICT] if identity_conflict else []),
        *([LOOK_ALIKE] if look_alike else []),
        *selection.mostly_excluded_reasons(),
        *verdict_reasons,
        *missing_reasons(counts),
        *selection.copies_reasons(),
        *selection.excluded_reasons(),
    ]
    missing = counts.missing > 0 or selection.mostly_excluded
    return CaseResult(
        verdict=verdict,
        score=score,
        score_low=low,
        score_high=high,
        subtype=subtype,
        subtype_margin=margin,
        priority=priority_of(verdict, score, missing=missing, identity_conflict=identity_conflict or look_alike),
        reasons=reasons,
        excluded=len(selection.excluded),
        novel=selection.novel,
        counting=len(selected),
        nucleated_cells=selection.nucleated_cells,
        cells_at_least=selection.cells_at_least,
    )


def judge_emptied(emptied: Emptied) -> CaseResult:
    """The result of a case without captures: insufficient, and not less urgent than a result that nobody has signed."""
    reasons = [Reason("no_captures", f"no captures are left: {emptied.why}")]
    priority = priority_of(Verdict.INSUFFICIENT, None, missing=True, identity_conflict=False)
    if emptied.run_id is not None:
        words = result_words(emptied.verdict, emptied.subtype, signed=emptied.signed)
        if emptied.verdict is not None and not emptied.signed:
            words += ", reviewed by nobody"
            before = priority_of(emptied.verdict, emptied.score, missing=False, identity_conflict=False)
            priority = max(priority, before)
        reasons.append(Reason("result_before", f"the result before, in run {emptied.run_id}, was {words}"))
    return CaseResult(verdict=Verdict.INSUFFICIENT, priority=priority, reasons=reasons)


# Which captures count


@dataclass(frozen=True)
class Selection:
    """Which of the screened captures of a case count. `counting` holds the probabilities [captures, labels] of those
    that count, each file once, and `cells` how many nucleated cells each of these files has, if that is known;
    `excluded` holds the excluding marks of each capture that has some; `copies` is how many do not count because they
    are copies.
    """

    captures: Sequence[JudgedCapture]
    counting: NDArray[np.float64]
    cells: Sequence[int | None]
    excluded: Sequence[Sequence[MarkCode]]
    copies: int
    novel: int

    @property
    def screened(self) -> int:
        return len(self.captures)

    @property
    def mostly_excluded(self) -> bool:
        return len(self.excluded) > self.screened / 2

    @property
    def nucleated_cells(self) -> int | None:
        known = [cells for cells in self.cells if cells is not None]
        return sum(known) if known else None

    @property
    def cells_at_least(self) -> bool:
        """Whether there may be more: somewhere nobody counted, or counting ended."""
        return any(cells is None or cells >= MOST_CELLS for cells in self.cells)

    def none_left(self) -> list[Reason]:
        """Why there is no score, unless the exclusions already say it."""
        if self.mostly_excluded:
            return []
        return [Reason("no_usable_capture", "no capture of this case could be screened")]

    def mostly_excluded_reasons(self) -> list[Reason]:
        return [Reason("mostly_excluded", self._exclusions())] if self.mostly_excluded else []

    def excluded_reasons(self) -> list[Reason]:
        some_excluded = self.excluded and not self.mostly_excluded
        return [Reason("excluded", self._exclusions())] if some_excluded else []

    def copies_reasons(self) -> list[Reason]:
        if not self.copies:
            return []
        sentence = f"{self.copies} captures are copies of others of this case, byte for byte, and do not count"
        return [Reason("duplicates", sentence)]

    def _exclusions(self) -> str:
        by_mark = Counter(mark for marks in self.excluded for mark in marks)
        marks = ", ".join(f"{count} {mark.replace('_', ' ')}" for mark, count in sorted(by_mark.items()))
        return f"{len(self.excluded)} of {self.screened} screened captures do not count: {marks}"


def select_captures(policy: CasePolicy, captures: Sequence[JudgedCapture]) -> Selection:
    """Captures with a mark that the policy excludes do not count, and only one of several copies of a file counts."""
    excluding = [policy.excludes(capture.marks) for capture in captures]
    counting = [capture for capture, marks in zip(captures, excluding, strict=True) if not marks]
    distinct = _once_each(counting)
    return Selection(
        captures=captures,
        counting=distinct,
        cells=_cells_of_each(counting),
        excluded=[marks for marks in excluding if marks],
        copies=len(counting) - len(distinct),
        novel=sum(MarkCode.NOVEL in marks for marks in excluding),
    )


def _once_each(captures: Sequence[JudgedCapture]) -> NDArray[np.float64]:
    """Probabilities [files, labels], one row for each digest. The rows are sorted, because floating-point sums and
    bootstrap draws depend on their order, and the captures come in any order.
    """
    if not captures:
        return np.empty((0, 0))
    probabilities = np.array([capture.probabilities for capture in captures], np.float64)
    row_of_digest: dict[str | int, int] = {}
    for row in np.lexsort(probabilities.T[::-1]).tolist():
        digest = captures[row].digest
        row_of_digest.setdefault(row if digest is None else digest, row)
    return probabilities[list(row_of_digest.values())]


def _cells_of_each(captures: Sequence[JudgedCapture]) -> list[int | None]:
    """How many nucleated cells each file has, in any order. A copy may be of a release that did not count them."""
    known: dict[str | int, int | None] = {}
    for place, capture in enumerate(captures):
        file = place if capture.digest is None else capture.digest
        earlier = known.get(file)
        known[file] = capture.nucleated_cells if earlier is None else max(earlier, capture.nucleated_cells or 0)
    return list(known.values())


# Score and interval


def bootstrap_interval(policy: CasePolicy, p_all: Scores) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the score over bootstrap draws of the captures (Efron 1979), for P(ALL) [n].

    The interval says how far the score depends on which captures were taken. It says nothing about how well the network
    knows this patient.
    """
    if len(p_all) == 1:  # every draw is that capture, and in some archives most patients have only one
        score = float(policy.scores(p_all))
        return score, score
    low, high = np.percentile(bootstrap_scores(policy, p_all), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_scores(policy: CasePolicy, p_all: Scores) -> Scores:
    """The score of each bootstrap draw [BOOTSTRAP_DRAWS] of the captures, for P(ALL) [n].

    The draws are made a few at a time, or a patient with 50,000 captures would take more memory than a worker may have.
    The generator goes on where the draws before ended, so the scores are those of all draws at once.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    captures = len(p_all)
    at_once = max(1, CAPTURES_AT_ONCE // captures)
    scores = np.empty(BOOTSTRAP_DRAWS)
    for start in range(0, BOOTSTRAP_DRAWS, at_once):
        part = scores[start : start + at_once]
        part[:] = policy.scores(p_all[rng.integers(0, captures, (len(part), captures))])
    return scores


# Verdict and doubts


def verdict_of(policy: CasePolicy, score: float, usable: int) -> tuple[Verdict, Reason]:
    """The verdict for this score of `usable` captures, and why."""
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


def doubted(policy: CasePolicy, verdict: Verdict, selection: Selection, benign: int) -> tuple[Verdict, list[Reason]]:
    """What a benign verdict becomes if captures were excluded, and why: an exclusion never makes a case benign, however
    many other captures are excluded beside it.
    """
    if verdict is not Verdict.BENIGN or not selection.excluded:
        return verdict, []
    score = _score_with_excluded(policy, selection.captures, benign)
    if score > policy.benign_at_most:
        sentence = f"benign only without the excluded captures: with them the score would be {score:.3f}"
        return Verdict.INDETERMINATE, [Reason("exclusions_decide", sentence)]
    if selection.mostly_excluded:
        return Verdict.INSUFFICIENT, [Reason("benign_on_few", "what is left is too little to call the case benign")]
    return verdict, []


def _score_with_excluded(policy: CasePolicy, captures: Sequence[JudgedCapture], benign: int) -> float:
    """The score if no capture were excluded, or only those that alone would be called benign, whichever is higher: in a
    mean, a hundred empty fields would else outweigh one excluded capture that shows blasts.
    """
    p_all = 1.0 - np.array([capture.probabilities for capture in captures], np.float64)[:, benign]
    against = policy.scores(p_all[:, None]) > policy.benign_at_most
    kept = [
        capture
        for capture, speaks_against in zip(captures, against, strict=True)
        if speaks_against or not policy.excludes(capture.marks)
    ]
    return max(float(policy.scores(1.0 - _once_each(counted)[:, benign])) for counted in (captures, kept))


# Subtype


def subtype_of(
    verdict: Verdict, probabilities: NDArray[np.float64], labels: Sequence[str], benign: int
) -> tuple[str | None, float | None]:
    """The label, other than the benign one, with the largest share of the mean probabilities [captures, labels], and
    its lead over the second; None for a verdict that has no subtype.
    """
    if verdict not in (Verdict.ALL, Verdict.INDETERMINATE):
        return None, None
    others = [index for index in range(len(labels)) if index != benign]
    shares = probabilities[:, others].mean(axis=0)
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(others), 1 / len(others))
    order = np.argsort(-shares, kind="stable")
    margin = float(shares[order[0]] - shares[order[1]]) if len(others) > 1 else 1.0
    return labels[others[order[0]]], margin


# Priority, and captures that are missing


def priority_of(verdict: Verdict, score: float | None, *, missing: bool, identity_conflict: bool) -> float:
    """The priority in the review queue; high values come first. Within a verdict the score decides."""
    for_missing = MISSING if missing and verdict is not Verdict.ALL else 0.0
    return URGENCY[verdict] + for_missing + (score or 0.0) + (MIXED_UP if identity_conflict else 0.0)


def missing_reasons(counts: CaseCounts) -> list[Reason]:
    if not counts.missing:
        return []
    sentence = f"{counts.missing} of {counts.submitted} captures could not be screened"
    return [Reason("incomplete", sentence)]
