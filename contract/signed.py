"""A result beside what reviewers have signed for the same patient before: whether they agree, and what that changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from contract.case_rule import MAY_BE_MIXED_UP, CaseResult, Reason
from contract.settled import IDENTITY_SETTLED, SETTLED_WITHOUT_NAMES
from contract.states import Verdict
from contract.words import result_words

DIFFERS = 8.0
"""Added to the priority of a case that differs from what was signed. It exceeds every verdict, as a mix-up does:
somebody may be treated, or not treated, by the signed result.
"""
DIFFERS_FROM_SIGNED, AGREES_WITH_SIGNED = "differs_from_signed", "agrees_with_signed"
WITHOUT_NAMES = {
    DIFFERS_FROM_SIGNED: "an earlier result of this patient was signed, and this one differs from it",
    AGREES_WITH_SIGNED: "an earlier result of this patient was signed, and this one agrees with it",
    IDENTITY_SETTLED: SETTLED_WITHOUT_NAMES,
}
"""Code of a reason -> the same without the names of reviewers, for documents that leave the house."""


@dataclass(frozen=True)
class SignedResult:
    """What reviewers agreed on for an earlier case of the patient, and when the last of them signed (UTC)."""

    case_id: int
    run_id: int
    verdict: Verdict
    subtype: str | None
    reviewers: Sequence[str]
    closed_at: datetime

    def differs_from(self, verdict: Verdict, subtype: str | None) -> bool:
        """A subtype that one of the two does not name is no difference."""
        subtypes = {self.subtype, subtype} - {None}
        return verdict != self.verdict or len(subtypes) > 1

    @property
    def sentence(self) -> str:
        """Who signed what, and when."""
        words = result_words(self.verdict, self.subtype, signed=False)
        return (
            f"{' and '.join(self.reviewers)} signed case {self.case_id} of run {self.run_id} as {words} on "
            f"{self.closed_at:%Y-%m-%d %H:%M} UTC"
        )


def beside_signed(result: CaseResult, signed: SignedResult) -> CaseResult:
    """The result with a reason that compares it with what was signed. One that differs comes before all others in the
    review queue. Score and verdict stay as the captures give them.
    """
    differs = signed.differs_from(result.verdict, result.subtype)
    reason = (
        Reason(DIFFERS_FROM_SIGNED, f"differs from what was signed: {signed.sentence}")
        if differs
        else Reason(AGREES_WITH_SIGNED, f"agrees with what was signed: {signed.sentence}")
    )
    first = [one for one in result.reasons if one in MAY_BE_MIXED_UP]
    others = [one for one in result.reasons if one not in MAY_BE_MIXED_UP]
    priority = result.priority + (DIFFERS if differs else 0.0)
    return replace(result, reasons=[*first, reason, *others], priority=priority)
