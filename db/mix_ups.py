"""Patients who may have been mixed up: the same capture, byte for byte, is under two of them.

These functions find the cases; db/aggregation.py judges them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, bindparam, cast, column, func, select, table, text
from sqlalchemy.orm import aliased

from contract.case_rule import IDENTITY_CONFLICT
from contract.states import CaseState
from db.engine import slices
from db.models import Capture, Case, SettledIdentity


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
    settled: int

    @property
    def other_named(self) -> str:
        """The other patient, with the archive if it is another one."""
        return (
            self.other_patient if self.archive == self.other_archive else f"{self.other_patient} ({self.other_archive})"
        )


CONFLICTS = table("identity_conflicts", *(column(field.name) for field in fields(IdentityConflict)))
"""The view: one row for each pair of a capture and an identical one of another patient, `settled` or not."""
_LOCK = 0x51DE1D
"""Key of PostgreSQL's advisory lock: see `one_at_a_time`."""


def one_at_a_time(connection: Connection) -> None:
    """From here to the commit no other transaction finishes cases: each sees everything that the previous one wrote.

    Otherwise two transactions that write the same capture under two patients at the same instant would not see each
    other's rows, and nothing would record the mix-up. SQLite has only one writer anyway.

    Every transaction that takes several of these locks takes them in this order, so that no two wait for each other:
    the run's row, rows of open cases, this lock, rows of finished cases. Whoever has this lock may need any finished
    case, and a worker that wants it has locked its open ones. Who locks finished cases without it, as reviewers do,
    must not want it afterwards.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def take_turn(connection: Connection, of_cases: ColumnElement[bool]) -> list[int]:
    """Lock these cases, in the order of `one_at_a_time`; returns their ids. Leave alone those that it did not lock."""
    locked = select(Case.id).where(of_cases).order_by(Case.id).with_for_update()
    still_open = connection.execute(locked.where(Case.state == CaseState.OPEN)).scalars().all()
    one_at_a_time(connection)
    finished = connection.execute(locked.where(Case.state == CaseState.AGGREGATED)).scalars().all()
    return sorted({*still_open, *finished})


def under_several_patients(connection: Connection, digests: Sequence[str | None]) -> list[str]:
    """The digests among these that captures of several patients have. Whether they are in conflict only the view knows,
    and that takes long: a patient who is screened again has the same captures, and must not ask it.

    It looks at originals alone: a copy is of the same patient. If it also named the state, the planner would use the
    state's index and read all captures.
    """
    shared: list[str | None] = []
    for batch in slices(sorted(digest for digest in set(digests) if digest), 500):
        shared += connection.execute(_UNDER_SEVERAL, {"digests": batch}).scalars()
    return [digest for digest in shared if digest]


_UNDER_SEVERAL = (
    select(Capture.sha256)
    .join(Case, Case.id == Capture.case_id)
    .where(Capture.sha256.in_(bindparam("digests", expanding=True)), Capture.reused_from.is_(None))
    .group_by(Capture.sha256)
    .having(func.min(Case.patient_id) != func.max(Case.patient_id))
)


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


def silent_others(connection: Connection, case_id: int) -> list[int]:
    """Finished cases of other patients that are in conflict with this case and do not say so."""
    silent = (
        select(CONFLICTS.c.other_case_id)
        .join(Case, Case.id == CONFLICTS.c.other_case_id)
        .where(CONFLICTS.c.case_id == case_id, Case.state == CaseState.AGGREGATED)
        .where(~says_conflict())
        .distinct()
    )
    return sorted(connection.execute(silent).scalars())


def says_conflict() -> ColumnElement[bool]:
    """The condition that a case's result names such a conflict. Its flag alone does not say it: that may stand for
    names that look the same (db/look_alikes.py).
    """
    return func.coalesce(cast(Case.reasons, Text), "").like(f'%"{IDENTITY_CONFLICT.code}"%')


def perhaps_freed(connection: Connection, case_id: int) -> list[int]:
    """Cases that shared a capture with earlier cases that this case replaces: their conflict may have ended."""
    replaced = connection.execute(_REPLACED_IN_CONFLICT, {"ids": [case_id]})
    return sorted(_sharing(connection, [row.id for row in replaced]))


def perhaps_touching_others(connection: Connection, case_ids: Sequence[int]) -> set[int]:
    """Those of these cases that replace one in conflict, or one without a result that could say so."""
    return {
        row.current_id
        for ids in slices(case_ids, 500)
        for row in connection.execute(_REPLACED_IN_CONFLICT, {"ids": ids})
    }


def earlier_cases(connection: Connection, case_ids: Sequence[int]) -> list[int]:
    """The cases that these replace as long as they have their result and their run is not cancelled."""
    earlier: set[int] = set()
    for batch in slices(case_ids, 500):
        current, _, statement = _earlier()
        earlier.update(connection.execute(statement.where(current.id.in_(batch)).distinct()).scalars())
    return sorted(earlier)


def perhaps_in_conflict(connection: Connection, back: Sequence[int]) -> list[int]:
    """Cases that may be in conflict now that nothing replaces the cases `back` any more: of these, and of other
    patients, those that share a capture.
    """
    sharing = _sharing(connection, back)
    return sorted(sharing | _sharing(connection, sorted(sharing)).intersection(back))


def _sharing(connection: Connection, case_ids: Sequence[int]) -> set[int]:
    """Cases of other patients that share a capture with one of these."""
    sharing: set[int] = set()
    for batch in slices(case_ids, 500):
        mine, my_case, other, other_case = aliased(Capture), aliased(Case), aliased(Capture), aliased(Case)
        sharing.update(
            connection.execute(
                select(other.case_id)
                .select_from(mine)
                .join(my_case, my_case.id == mine.case_id)
                .join(other, (other.sha256 == mine.sha256) & (other.case_id != mine.case_id))
                .join(other_case, (other_case.id == other.case_id) & (other_case.patient_id != my_case.patient_id))
                .where(mine.case_id.in_(batch))
                .distinct()
            ).scalars()
        )
    return sharing


def _earlier() -> tuple[Any, Any, Select[int]]:
    """A case, the earlier cases of its patient, and the statement that joins them. Which of these it replaces the view
    knows: within an archive those with the same bundle, seen from another archive all.
    """
    current, earlier = aliased(Case), aliased(Case)
    same_patient = (earlier.patient_id == current.patient_id) & (earlier.id < current.id)
    return current, earlier, select(earlier.id).select_from(current).join(earlier, same_patient)


def _replaced_in_conflict() -> Select[*tuple[Any, ...]]:
    """Earlier cases of the patients of `ids` that are in conflict, or have no result that could say so, or for which a
    reviewer may have settled it: then the other side is in conflict all the same.
    """
    current, earlier, statement = _earlier()
    settled = select(SettledIdentity.id).where(SettledIdentity.patient_id == current.patient_id).exists()
    says = earlier.identity_conflict.is_distinct_from(False)
    return statement.add_columns(current.id.label("current_id")).where(
        current.id.in_(bindparam("ids", expanding=True)), says | settled
    )


_REPLACED_IN_CONFLICT = _replaced_in_conflict()
"""Built once: it runs for every chunk, and building it takes longer than running it."""


def is_in_conflict(connection: Connection, case_id: int) -> bool:
    """Whether the view has a conflict of this case that is not settled. Ask `under_several_patients` first: the view
    takes long.
    """
    conflict = select(CONFLICTS.c.capture_id).where(CONFLICTS.c.case_id == case_id, CONFLICTS.c.settled == 0).limit(1)
    return connection.execute(conflict).first() is not None
