"""What reviewers have settled about captures that lie under other patients too: db/settling.py writes it."""

from sqlalchemy import Connection, bindparam, select

from contract.settled import Settlement
from db.models import Capture, Case, SettledIdentity

_OF_CASE = (
    select(SettledIdentity.sha256, SettledIdentity.reviewer, SettledIdentity.created_at)
    .join(Case, Case.patient_id == SettledIdentity.patient_id)
    .where(Case.id == bindparam("case_id"))
    .where(
        select(Capture.id).where(Capture.case_id == Case.id, Capture.sha256 == SettledIdentity.sha256).exists(),
    )
    .order_by(SettledIdentity.id)
)
"""Built once: it runs for every case that shares a capture with another patient's."""


def settlement_of(connection: Connection, case_id: int) -> Settlement | None:
    """What of the captures of this case reviewers have settled for its patient; None if there is nothing."""
    rows = connection.execute(_OF_CASE, {"case_id": case_id}).all()
    if not rows:
        return None
    reviewers = list(dict.fromkeys(row.reviewer for row in rows))
    return Settlement(len({row.sha256 for row in rows}), reviewers, rows[-1].created_at)
