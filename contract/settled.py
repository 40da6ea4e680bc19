"""A case whose captures also lie under other patients, where reviewers have settled that this is no mix-up for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from contract.case_rule import IDENTITY_CONFLICT, CaseResult, Reason

IDENTITY_SETTLED = "identity_settled"
SETTLED_WITHOUT_NAMES = "captures lie under another patient too; reviewers have looked at them and settled this"


@dataclass(frozen=True)
class Settlement:
    """How many captures of a case reviewers have settled, who they are, and when the last of them did it (UTC)."""

    captures: int
    reviewers: Sequence[str]
    at: datetime

    @property
    def sentence(self) -> str:
        """What was settled, by whom, and when."""
        captures = "1 capture lies" if self.captures == 1 else f"{self.captures} captures lie"
        return (
            f"{captures} under another patient too, byte for byte: {' and '.join(self.reviewers)} settled this on "
            f"{self.at:%Y-%m-%d %H:%M} UTC"
        )


def beside_settlement(result: CaseResult, settlement: Settlement) -> CaseResult:
    """The result with a reason that says who settled what; a conflict that is not settled is said before it."""
    first = [one for one in result.reasons if one == IDENTITY_CONFLICT]
    others = [one for one in result.reasons if one != IDENTITY_CONFLICT]
    return replace(result, reasons=[*first, Reason(IDENTITY_SETTLED, settlement.sentence), *others])
