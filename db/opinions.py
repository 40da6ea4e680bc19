"""Where the review of a case stands: the views that show it, for statements that join them, and a row of it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Integer, Text, column, select, table

from contract.states import ReviewAction, ReviewState, Verdict
from db.clock import UTCDateTime
from db.columns import coded
from db.models import Case

OPINIONS = table(
    "review_opinions", column("case_id", Integer()), column("review_id", Integer()), column("reviewer", Text()),
    column("person", Text()),
)  # fmt: skip
"""For each reviewer of a case, the confirm or override that counts."""
CASE_REVIEW = table(
    "case_review",
    column("run_id", Integer()), column("case_id", Integer()), column("patient", Text()),
    column("verdict", coded(Verdict)), column("subtype", Text()), column("state", coded(ReviewState)),
    column("opinions", Integer()), column("agreeing", Integer()), column("wanted", Integer()),
    column("final_verdict", coded(Verdict)), column("final_subtype", Text()), column("closed_at", UTCDateTime()),
    column("last_action", coded(ReviewAction)), column("last_reviewer", Text()),
    column("last_action_at", UTCDateTime()), column("holder", Text()), column("held_until", UTCDateTime()),
    column("superseded_by", Integer()), column("last_person", Text()),
)  # fmt: skip
"""One row for each case that has a result."""
DONE_WITH = (ReviewState.CLOSED, ReviewState.SUPERSEDED)
"""States in which a case waits for no reviewer."""


@dataclass(frozen=True)
class CaseReview:
    """A row of the view case_review; docs/data.md describes the columns."""

    run_id: int
    case_id: int
    patient: str
    verdict: Verdict
    subtype: str | None
    state: ReviewState
    opinions: int
    agreeing: int
    wanted: int
    final_verdict: Verdict | None
    final_subtype: str | None
    closed_at: datetime | None
    last_action: ReviewAction | None
    last_reviewer: str | None
    last_action_at: datetime | None
    holder: str | None
    held_until: datetime | None
    superseded_by: int | None
    last_person: str | None


def signed() -> ColumnElement[bool]:
    """For statements on Case: whether an opinion counts. Then the result that the reviewer saw must not change."""
    return select(OPINIONS.c.review_id).where(OPINIONS.c.case_id == Case.id).exists()
