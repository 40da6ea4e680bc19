"""Patients who may have been mixed up: captures that lie, byte for byte, under two of them.

These functions find the cases; db/aggregation.py judges them again.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Select, bindparam, column, func, select, table, text
from sqlalchemy.orm import aliased

from db.engine import slices
from db.models import Capture, Case, Run

CONFLICTS = table(
    "identity_conflicts",
    *map(
        column,
        ("run_id", "case_id", "patient", "capture_id", "path", "other_run_id", "other_case_id", "other_patient",
         "other_capture_id", "other_path", "sha256"),
    ),
)  # fmt: skip
"""The view: one row for each capture and each other one that it is the same as, of another patient."""
_LOCK = 0x51DE1D
"""Key of PostgreSQL's advisory lock: see `one_at_a_time`."""


def one_at_a_time(connection: Connection) -> None:
    """From here to the commit nobody else finishes cases: each transaction sees all that the one before it wrote.

    Else two that write the same capture under two patients at the same instant would not see each other's, and the
    mix-up would be noted nowhere. SQLite has but one writer anyway. Row locks come first, so that nobody who has this
    lock waits for somebody who wants it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def in_several_cases(connection: Connection, digests: Sequence[str | None]) -> list[str]:
    """Those of these digests that captures of several cases have, be it of one patient: then the view knows more.

    Asked by the digest and nothing else: a planner that is offered the state as well takes its index, and looks at all
    captures that there are.
    """
    found: list[str | None] = []
    for some in slices(sorted(digest for digest in set(digests) if digest), 500):
        found += connection.execute(
            select(Capture.sha256)
            .where(Capture.sha256.in_(some))
            .group_by(Capture.sha256)
            .having(func.min(Capture.case_id) != func.max(Capture.case_id))
        ).scalars()
    return [digest for digest in found if digest]


def other_sides(connection: Connection, chunk_id: int, shared: Sequence[str]) -> list[int]:
    """Cases that share a capture with these digests with another patient's in this chunk."""
    mine = connection.execute(
        select(Capture.id).where(Capture.chunk_id == chunk_id, Capture.sha256.in_(shared))
    ).scalars()
    others = {
        case_id
        for capture_id in mine.all()
        for case_id in connection.execute(
            select(CONFLICTS.c.other_case_id).where(CONFLICTS.c.capture_id == capture_id)
        ).scalars()
    }
    return sorted(others)


def perhaps_freed(connection: Connection, case_id: int) -> list[int]:
    """The case replaces earlier ones of its patient: cases that shared a capture with those, in conflict no more."""
    replaced = connection.execute(_REPLACED_IN_CONFLICT, {"case_id": case_id}).scalars().all()
    if not replaced:
        return []
    one, other = aliased(Capture), aliased(Capture)
    shared = (
        select(other.case_id)
        .join(one, one.sha256 == other.sha256)
        .where(one.case_id.in_(replaced), other.case_id != one.case_id)
        .distinct()
    )
    return list(connection.execute(shared).scalars())


def _replaced_in_conflict() -> Select[int]:
    """Earlier cases of the patient of `case_id`, in runs of the same archive and bundle, that are in conflict."""
    mine, earlier, run, earlier_run = aliased(Case), aliased(Case), aliased(Run), aliased(Run)
    return (
        select(earlier.id)
        .select_from(mine)
        .join(run, run.id == mine.run_id)
        .join(earlier, (earlier.patient_id == mine.patient_id) & (earlier.id < mine.id))
        .join(earlier_run, earlier_run.id == earlier.run_id)
        .where(mine.id == bindparam("case_id"), earlier.identity_conflict.is_(True))
        .where(earlier_run.root == run.root, earlier_run.bundle_digest == run.bundle_digest)
        .where(earlier_run.pseudonym_key.is_not_distinct_from(run.pseudonym_key))
    )


_REPLACED_IN_CONFLICT = _replaced_in_conflict()
"""Made once: it is asked for every case, and making it takes longer than asking."""


def is_in_conflict(connection: Connection, case_id: int, digests: Sequence[str | None]) -> bool:
    if not in_several_cases(connection, digests):
        return False
    conflict = select(CONFLICTS.c.capture_id).where(CONFLICTS.c.case_id == case_id).limit(1)
    return connection.execute(conflict).first() is not None
