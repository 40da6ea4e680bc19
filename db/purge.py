"""Removes runs that are old enough, with everything that belongs to them. Their audit stays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, delete, func, or_, select, text, union, update

from contract.errors import UsageError
from contract.states import CaseState, EventKind, ReportCause
from db import chain
from db.aggregation import judge_again
from db.audit import note
from db.clock import db_now
from db.engine import AnyRow, reading, slices, writing
from db.mix_ups import earlier_cases, perhaps_in_conflict, take_turn
from db.models import BundleRow, Case, Patient, PatientWithoutCaptures, ReportQueue, Run
from db.opinions import CASE_REVIEW, DONE_WITH
from db.reused import hand_over

DAYS = {"d": 1, "m": 30, "y": 365}
_DAY_S = 86_400


@dataclass(frozen=True)
class OldRun:
    """A run that is old enough. `kept` says why it stays in spite of that; None if it does not stay."""

    run_id: int
    archive: str
    created_at: datetime
    captures: int
    cases: int
    unacknowledged: int
    not_signed: int
    kept: str | None


def age_in_days(age: str) -> int:
    """`90d`, `18m` (months of 30 days) or `2y` (years of 365 days) in days. Raises UsageError."""
    match = re.fullmatch(r"(\d+)([dmy])", age)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{age!r} is not an age; write 90d, 18m or 2y")
    return int(match[1]) * DAYS[match[2]]


def old_runs(engine: Engine, days: int, *, force: bool) -> list[OldRun]:
    """Runs that were submitted more than `days` days ago, by the database's clock, the oldest first.

    A run that is not finished stays. So does, without `force`, one with a result that no other system has
    acknowledged, or a case that reviewers have not closed.
    """
    with reading(engine) as connection:
        return [_old_run(connection, row, force) for row in connection.execute(_older_than(days)).all()]


def purge(engine: Engine, run_id: int, days: int, *, force: bool, actor: str) -> OldRun | None:
    """Remove one run completely or not at all; None if it is not old enough or no longer exists.

    This also removes its chunks, captures, cases, reviews and queue rows, patients of no other run, and a bundle that
    no other run was submitted with. Its events stay, and so do the lengths and heads of its chains (db/chain.py), with
    the event `purged`, which is written first: the database lets no run go without it.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("PRAGMA secure_delete=ON"))  # overwrite what is deleted, do not only release it
        old = _older_than(days).where(Run.id == run_id).with_for_update(of=Run, key_share=True)
        row = connection.execute(old).first()
        if row is None:
            return None
        run = _old_run(connection, row, force)
        if run.kept is not None:
            return run
        take_turn(connection, Case.run_id == run_id)
        case_ids = connection.execute(select(Case.id).where(Case.run_id == run_id)).scalars().all()
        back = earlier_cases(connection, case_ids)
        of_run = [select(model.patient_id).where(model.run_id == run_id) for model in (Case, PatientWithoutCaptures)]
        patient_ids = connection.execute(union(*of_run)).scalars().all()
        # A newer case's row that replaces one of this run must stay: it is how other systems get the newer result.
        its_rows = select(ReportQueue.id).where(ReportQueue.run_id == run_id).scalar_subquery()
        replacing = (
            select(ReportQueue.id, ReportQueue.replaces_id)
            .where(ReportQueue.run_id != run_id, ReportQueue.cause == ReportCause.SUPERSEDED)
            .where(ReportQueue.replaces_id.in_(its_rows))
        )
        replaced: dict[int, int | None] = dict(connection.execute(replacing).all())
        only_here = _only_of(connection, run_id, patient_ids)
        chains = {table: list(head) for (table, _), head in chain.heads(connection, run_id).items() if table != "event"}
        detail = {
            "captures": run.captures, "cases": run.cases, "patients": len(only_here), "bundle": row.bundle_digest,
            "submitted_at": run.created_at.isoformat(), "older_than_days": days, "force": force,
            "chains": chains, "replaced": {str(queue_id): before for queue_id, before in replaced.items()},
        }  # fmt: skip
        note(connection, EventKind.PURGED, actor=actor, run_id=run_id, detail=detail)  # first: it lets the rows go
        for ids in slices(list(replaced), 500):
            connection.execute(update(ReportQueue).where(ReportQueue.id.in_(ids)).values(replaces_id=None))
        hand_over(connection, run_id)
        connection.execute(delete(Run).where(Run.id == run_id))
        judge_again(connection, perhaps_in_conflict(connection, back), in_conflict=False)
        for ids in slices(only_here, 500):
            connection.execute(delete(Patient).where(Patient.id.in_(ids)))
        in_use = select(Run.id).where(Run.bundle_digest == row.bundle_digest).exists()
        connection.execute(delete(BundleRow).where(BundleRow.digest == row.bundle_digest, ~in_use))
        return run


def _only_of(connection: Connection, run_id: int, patient_ids: Sequence[int]) -> list[int]:
    """Those of these patients that no other run knows."""
    elsewhere = or_(
        *(
            select(model.id).where(model.patient_id == Patient.id, model.run_id != run_id).exists()
            for model in (Case, PatientWithoutCaptures)
        )
    )
    alone: list[int] = []
    for ids in slices(patient_ids, 500):
        alone += connection.execute(select(Patient.id).where(Patient.id.in_(ids), ~elsewhere)).scalars()
    return alone


def tidy(engine: Engine) -> None:
    """On SQLite, empty the write-ahead log, which still contains deleted rows."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _older_than(days: int) -> Select[*tuple[Any, ...]]:
    return (
        select(Run.id, Run.root_text, Run.created_at, Run.submitted, Run.cases, Run.cancelled_at, Run.bundle_digest)
        .where(Run.created_at < db_now(-days * _DAY_S))
        .order_by(Run.id)
    )


def _old_run(connection: Connection, row: AnyRow, force: bool) -> OldRun:
    def count(statement: Select[int]) -> int:
        return connection.execute(statement).scalar_one()

    open_ = count(select(func.count()).where(Case.run_id == row.id, Case.state == CaseState.OPEN))
    waiting = count(select(func.count()).where(ReportQueue.run_id == row.id, ReportQueue.acknowledged_at.is_(None)))
    unsigned = count(select(func.count()).where(CASE_REVIEW.c.run_id == row.id, CASE_REVIEW.c.state.not_in(DONE_WITH)))
    kept = None
    if open_ and row.cancelled_at is None:
        kept = "it is not finished; cancel it first"
    elif not force and (waiting or unsigned):
        kept = (
            f"{waiting} results are not acknowledged, {unsigned} cases not signed off; --force removes it all the same"
        )
    return OldRun(row.id, row.root_text, row.created_at, row.submitted, row.cases, waiting, unsigned, kept)
