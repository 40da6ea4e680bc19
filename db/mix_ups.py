"""Patients who may have been mixed up: the same capture, byte for byte, is under two of them.

These functions find the cases; db/aggregation.py judges them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, Select, bindparam, column, func, select, table, text
from sqlalchemy.orm import aliased

from db.engine import slices
from db.models import Capture, Case, Run


@dataclass(frozen=True)
class IdentityConflict:
    """A capture that is, byte for byte, under another patient too: a row of the view identity_conflicts."""

    run_id: int
    case_id: int
    patient: str
    capture_id: int
    path: str
    other_run_id: int
    other_case_id: int
    other_patient: str
    other_capture_id: int
    other_path: str
    sha256: str
    archive: str
    other_archive: str

    @property
    def other_named(self) -> str:
        """The other patient, with the archive if it is another one."""
        return (
            self.other_patient if self.archive == self.other_archive else f"{self.other_patient} ({self.other_archive})"
        )


CONFLICTS = table("identity_conflicts", *(column(field.name) for field in fields(IdentityConflict)))
"""The view: one row for each pair of a capture and an identical one of another patient."""
_LOCK = 0x51DE1D
"""Key of PostgreSQL's advisory lock: see `one_at_a_time`."""


def one_at_a_time(connection: Connection) -> None:
    """From here to the commit no other transaction finishes cases: each sees everything that the previous one wrote.

    Otherwise two transactions that write the same capture under two patients at the same instant would not see each
    other's rows, and nothing would record the mix-up. SQLite has only one writer anyway. Take row locks first, so that
    no transaction that has this lock waits for one that wants it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def in_several_cases(connection: Connection, digests: Sequence[str | None]) -> list[str]:
    """The digests among these that captures of several cases have. It may be one patient: only the view knows that.

    The query uses only the digest: if it also named the state, the planner would use the state's index and read all
    captures.
    """
    shared: list[str | None] = []
    for batch in slices(sorted(digest for digest in set(digests) if digest), 500):
        shared += connection.execute(
            select(Capture.sha256)
            .where(Capture.sha256.in_(batch))
            .group_by(Capture.sha256)
            .having(func.min(Capture.case_id) != func.max(Capture.case_id))
        ).scalars()
    return [digest for digest in shared if digest]


def other_sides(connection: Connection, chunk_id: int, shared: Sequence[str]) -> list[int]:
    """Cases of other patients that have one of these digests in common with a capture of this chunk."""
    capture_ids = connection.execute(
        select(Capture.id).where(Capture.chunk_id == chunk_id, Capture.sha256.in_(shared))
    ).scalars()
    others = {
        case_id
        for capture_id in capture_ids.all()
        for case_id in connection.execute(
            select(CONFLICTS.c.other_case_id).where(CONFLICTS.c.capture_id == capture_id)
        ).scalars()
    }
    return sorted(others)


def perhaps_freed(connection: Connection, case_id: int) -> list[int]:
    """Cases that shared a capture with earlier cases that this case replaces: their conflict may have ended."""
    replaced = connection.execute(_REPLACED_IN_CONFLICT, {"case_id": case_id}).scalars().all()
    if not replaced:
        return []
    replaced_capture, other = aliased(Capture), aliased(Capture)
    shared = (
        select(other.case_id)
        .join(replaced_capture, replaced_capture.sha256 == other.sha256)
        .where(replaced_capture.case_id.in_(replaced), other.case_id != replaced_capture.case_id)
        .distinct()
    )
    return list(connection.execute(shared).scalars())


def _replaced_in_conflict() -> Select[int]:
    """Earlier cases of the patient of `case_id`, in runs with the same bundle, that are in conflict."""
    current, earlier, run, earlier_run = aliased(Case), aliased(Case), aliased(Run), aliased(Run)
    return (
        select(earlier.id)
        .select_from(current)
        .join(run, run.id == current.run_id)
        .join(earlier, (earlier.patient_id == current.patient_id) & (earlier.id < current.id))
        .join(earlier_run, earlier_run.id == earlier.run_id)
        .where(current.id == bindparam("case_id"), earlier.identity_conflict.is_(True))
        .where(earlier_run.bundle_digest == run.bundle_digest)
        .where(earlier_run.pseudonym_key.is_not_distinct_from(run.pseudonym_key))
    )


_REPLACED_IN_CONFLICT = _replaced_in_conflict()
"""Built once: it runs for every case, and building it takes longer than running it."""


def is_in_conflict(connection: Connection, case_id: int, digests: Sequence[str | None]) -> bool:
    if not in_several_cases(connection, digests):
        return False
    conflict = select(CONFLICTS.c.capture_id).where(CONFLICTS.c.case_id == case_id).limit(1)
    return connection.execute(conflict).first() is not None
