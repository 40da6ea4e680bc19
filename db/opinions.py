"""Where the review of a case stands: the views that show it, for statements that join them."""

from sqlalchemy import ColumnElement, Integer, Text, column, select, table

from db.clock import UTCDateTime
from db.models import Case

OPINIONS = table(
    "review_opinions", column("case_id", Integer()), column("review_id", Integer()), column("reviewer", Text())
)
"""For each reviewer of a case, the confirm or override that counts."""
CASE_REVIEW = table(
    "case_review",
    column("run_id", Integer()), column("case_id", Integer()), column("patient", Text()), column("verdict", Text()),
    column("subtype", Text()), column("state", Text()), column("opinions", Integer()), column("agreeing", Integer()),
    column("wanted", Integer()), column("final_verdict", Text()), column("final_subtype", Text()),
    column("closed_at", UTCDateTime()), column("last_action", Text()), column("last_reviewer", Text()),
    column("last_action_at", UTCDateTime()), column("holder", Text()), column("held_until", UTCDateTime()),
)  # fmt: skip
"""One row for each case that has a result."""


def signed() -> ColumnElement[bool]:
    """For statements on Case: whether an opinion counts. Then the result that the reviewer saw must not change."""
    return select(OPINIONS.c.review_id).where(OPINIONS.c.case_id == Case.id).exists()
