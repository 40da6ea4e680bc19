"""A case whose captures also lie under other patients, where reviewers have settled that this is no mix-up for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from contract.case_rule import MAY_BE_MIXED_UP, CaseResult, Reason

IDENTITY_SETTLED = "identity_settled"
SETTLED_WITHOUT_NAMES = (
    "captures lie under another patient too, or the folders' names look the same; reviewers have looked at them and "
    "settled this"
)
NAMES = "names"
"""In place of a digest: what was settled is that the names of the two patients' folders look the same."""


@dataclass(frozen=True)
class Settlement:
    """How many captures of a case reviewers have settled, who they are, and when the last of them did it (UTC). Without
    captures it is the folder's name, which looks like another one's.
    """

    captures: int
    reviewers: Sequence[str]
    at: datetime

    @property
    def sentence(self) -> str:
        """What was settled, by whom, and when."""
        by = f"{' and '.join(self.reviewers)} settled this on {self.at:%Y-%m-%d %H:%M} UTC"
        if not self.captures:
            return f"another folder of this archive has a name that looks the same: {by}"
        captures = "1 capture lies" if self.captures == 1 else f"{self.captures} captures lie"
        return f"{captures} under another patient too, byte for byte: {by}"


def beside_settlement(result: CaseResult, settlement: Settlement) -> CaseResult:
    """The result with a reason that says who settled what; a conflict that is not settled is said before it."""
    first = [one for one in result.reasons if one in MAY_BE_MIXED_UP]
    others = [one for one in result.reasons if one not in MAY_BE_MIXED_UP]
    return replace(result, reasons=[*first, Reason(IDENTITY_SETTLED, settlement.sentence), *others])
