"""Where the review of a case stands: the views that say it, for statements that join them."""

from sqlalchemy import ColumnElement, Integer, Text, column, select, table

from db.clock import UTCDateTime
from db.models import Case

OPINIONS = table(
    "review_opinions", column("case_id", Integer()), column("review_id", Integer()), column("reviewer", Text())
)
"""Of each reviewer the confirm or override that counts."""
CASE_REVIEW = table(
    "case_review",
    column("run_id", Integer()), column("case_id", Integer()), column("patient", Text()), column("verdict", Text()),
    column("subtype", Text()), column("state", Text()), column("opinions", Integer()), column("agreeing", Integer()),
    column("wanted", Integer()), column("final_verdict", Text()), column("final_subtype", Text()),
    column("closed_at", UTCDateTime()), column("last_action", Text()), column("last_reviewer", Text()),
    column("last_action_at", UTCDateTime()), column("holder", Text()), column("held_until", UTCDateTime()),
)  # fmt: skip
"""One row for each case that has its result."""


def signed() -> ColumnElement[bool]:
    """For statements over Case: whether an opinion counts, so that the result must not change under its reviewer."""
    return select(OPINIONS.c.review_id).where(OPINIONS.c.case_id == Case.id).exists()
