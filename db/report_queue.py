"""The reporting queue: one row per result for other systems, taken for a while, acknowledged when delivered.

docs/data.md has the same steps as SQL, for systems that use their own SQL client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    column,
    func,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.types import TypeEngine

from contract.states import ReportCause, ReviewState, Verdict
from contract.words import local_time
from db import chain
from db.clock import UTCDateTime, db_now, shorten
from db.columns import coded
from db.engine import AnyRow, reading, slices, writing
from db.models import Case, ReportQueue, Run
from db.opinions import CASE_REVIEW, OPINIONS

_AT_ONCE = 500
_FREE: dict[str, Any] = {"taken_by": None, "taken_until": None, "taken_seconds": None}


@dataclass(frozen=True)
class QueuedResult:
    """A row of the view reporting_queue, a result for other systems; docs/data.md describes the columns.

    `reasons` and `bundle_warnings` are as the driver gives them: JSON as text on SQLite, the list on PostgreSQL.
    """

    queue_id: int
    cause: ReportCause
    replaces_id: int | None
    created_at: datetime
    taken_by: str | None
    taken_until: datetime | None
    acknowledged_at: datetime | None
    superseded: int
    run_id: int
    case_id: int
    patient: str
    verdict: Verdict
    subtype: str | None
    signed_off: int
    closed_at: datetime | None
    score: float | None
    score_low: float | None
    score_high: float | None
    reasons: str | list[dict[str, str]]
    submitted: int
    screened: int
    excluded: int | None
    bundle_name: str
    bundle_digest: str
    software_version: str
    superseded_by: int | None
    bundle_warnings: str | list[str] | None
    in_training: int | None
    archive: str
    site: str | None
    database: str


@dataclass
class Answer:
    """For the named rows: those that were changed, and for each other row why it was not."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


class _QueueRow(NamedTuple):
    id: int
    taken_by: str | None
    acknowledged_at: datetime | None


def queue_result(
    connection: Connection, case_id: int, *, correction: ReportCause = ReportCause.RECOMPUTED, closed: bool = False
) -> None:
    """Report one case's result, as `queue_results` does. `correction` is the cause of a row that replaces the case's
    own; `closed` says that reviewers have closed the case, which its run's results may wait for.
    """
    _queue(connection, [case_id], correction, closed=closed)


def queue_results(connection: Connection, case_ids: Sequence[int]) -> None:
    """Report the results of these cases, which are of different patients. A case that was reported before gets a row
    that replaces the last one. The first row of a case replaces the row of an earlier case that it superseded, if there
    is one.

    If the run's results wait for the sign-off, a case is reported for the first time when reviewers have closed it;
    then its row replaces that of any earlier case of the patient, because both are signed. A case whose last row was
    replaced by that of a newer case is not reported any more.
    """
    for ids in slices(case_ids, _AT_ONCE):
        _queue(connection, ids, ReportCause.RECOMPUTED, closed=False)


def _queue(connection: Connection, case_ids: Sequence[int], correction: ReportCause, *, closed: bool) -> None:
    last = {row.case_id: row for row in connection.execute(_LAST_ROWS, {"ids": case_ids})}  # of each, the latest
    cases = {row.id: row for row in connection.execute(_REPORTED_CASES, {"ids": case_ids})}
    first = {
        case.id: case
        for case in cases.values()
        if case.id not in last and case.superseded_by is None and (closed or not case.report_at_sign_off)
    }
    earlier = _rows_of_earlier_cases(connection, first) if first else {}
    rows: list[dict[str, Any]] = []
    for case_id in case_ids:
        case = cases[case_id]
        if case_id in last:
            row = last[case_id]
            if not row.is_replaced and (case.superseded_by is None or row.cause != ReportCause.SUPERSEDED):
                rows.append(_row(case.run_id, case_id, correction, row.id, _closing_opinion(connection, case_id)))
        elif case_id in earlier:
            opinion = _closing_opinion(connection, case_id) if closed else None
            replaced = earlier[case_id]
            cause = ReportCause.SIGNED_OFF if case.report_at_sign_off else ReportCause.SCREENED
            if replaced:
                rows.append(_row(case.run_id, case_id, ReportCause.SUPERSEDED, replaced[0].id, opinion))
            else:
                rows.append(_row(case.run_id, case_id, cause, None, opinion))
            rows += [_row(row.run_id, row.case_id, ReportCause.SUPERSEDED, row.id) for row in replaced[1:]]
    chain.add(connection, ReportQueue, rows)


def withdraw(connection: Connection, case_id: int) -> None:
    """Tell other systems that a case was superseded by one that was reported already: then the row of that case cannot
    name the earlier one, and the earlier case gets a last row of its own.
    """
    row = connection.execute(
        select(ReportQueue.id, ReportQueue.run_id).where(ReportQueue.case_id == case_id, ~_is_replaced())
    ).first()
    if row is not None:
        chain.add(connection, ReportQueue, [_row(row.run_id, case_id, ReportCause.SUPERSEDED, row.id)])


def _is_replaced() -> ColumnElement[bool]:
    later = aliased(ReportQueue)
    return select(later.id).where(later.replaces_id == ReportQueue.id).exists()


def _rows_of_earlier_cases(connection: Connection, cases: Mapping[int, AnyRow]) -> dict[int, list[AnyRow]]:
    """By case: rows that no other replaces, the latest first, of the patient's earlier cases that were superseded, or
    of all if results wait for the sign-off.

    In two steps: where PostgreSQL knows too little of the tables, it would compare all rows with all.
    """
    of_earlier: dict[int, int] = {
        row.id: row.current_id
        for row in connection.execute(_EARLIER_CASES, {"ids": list(cases)})
        if row.superseded_by is not None or cases[row.current_id].report_at_sign_off
    }
    found: dict[int, list[AnyRow]] = {case_id: [] for case_id in cases}
    for ids in slices(list(of_earlier), _AT_ONCE):
        for row in connection.execute(_ROWS_NOT_REPLACED, {"ids": ids}):
            found[of_earlier[row.case_id]].append(row)
    return {case_id: sorted(rows, key=lambda row: -int(row.id)) for case_id, rows in found.items()}


def _earlier_cases() -> Select[*tuple[Any, ...]]:
    current = aliased(Case)
    return (
        select(current.id.label("current_id"), Case.id, Case.superseded_by)
        .select_from(current)
        .join(Case, (Case.patient_id == current.patient_id) & (Case.id < current.id))
        .where(current.id.in_(bindparam("ids", expanding=True)))
    )


def _rows_not_replaced() -> Select[*tuple[Any, ...]]:
    later = aliased(ReportQueue)
    replaced_by = select(later.id).where(later.replaces_id == ReportQueue.id).scalar_subquery()  # looked up row by row
    return select(ReportQueue.id, ReportQueue.run_id, ReportQueue.case_id).where(
        ReportQueue.case_id.in_(bindparam("ids", expanding=True)), replaced_by.is_(None)
    )


_EARLIER_CASES, _ROWS_NOT_REPLACED = _earlier_cases(), _rows_not_replaced()
"""Built once, like the next two: they run for every chunk, and building them takes longer than running them."""
_LAST_ROWS = (
    select(ReportQueue.case_id, ReportQueue.id, ReportQueue.cause, _is_replaced().label("is_replaced"))
    .where(ReportQueue.case_id.in_(bindparam("ids", expanding=True)))
    .order_by(ReportQueue.id)
)
_REPORTED_CASES = (
    select(Case.id, Case.run_id, Case.superseded_by, Run.report_at_sign_off)
    .join(Run, Run.id == Case.run_id)
    .where(Case.id.in_(bindparam("ids", expanding=True)))
)


def _closing_opinion(connection: Connection, case_id: int) -> int | None:
    """The review whose result a closed case has; None if the case is not closed."""
    opinion = (
        select(func.max(OPINIONS.c.review_id))
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == OPINIONS.c.case_id)
        .where(OPINIONS.c.case_id == case_id, CASE_REVIEW.c.case_id == case_id)
        .where(CASE_REVIEW.c.state == ReviewState.CLOSED)
    )
    return connection.execute(opinion).scalar()


def _row(
    run_id: int, case_id: int, cause: ReportCause, replaces_id: int | None, review_id: int | None = None
) -> dict[str, Any]:
    return {"run_id": run_id, "case_id": case_id, "cause": cause, "replaces_id": replaces_id, "review_id": review_id}


def take(engine: Engine, consumer: str, *, limit: int, hold_s: float) -> list[QueuedResult]:
    """Take up to `limit` rows for this consumer, the oldest first.

    For `hold_s` seconds no other consumer gets them; then they count as forgotten. Nobody gets a correction before the
    row that it replaces is acknowledged, because two consumers could deliver them in the wrong order. If the database's
    clock has stepped back, rows that are taken are so for the seconds that their consumer wanted, counted from now on.
    """
    waiting = (
        select(ReportQueue.id).where(_is_waiting()).order_by(ReportQueue.id).limit(limit)
        .with_for_update(of=ReportQueue, skip_locked=True)
    )  # fmt: skip
    with writing(engine) as connection:
        shorten(connection, ReportQueue.taken_until, ReportQueue.taken_seconds, ReportQueue.acknowledged_at.is_(None))
        taken = connection.execute(
            update(ReportQueue)
            .where(ReportQueue.id.in_(waiting.scalar_subquery()))
            .values(taken_by=consumer, taken_until=db_now(hold_s), taken_seconds=hold_s)
            .returning(ReportQueue.id)
        ).scalars()
        return _rows(connection, sorted(taken.all()))


def waiting_rows(engine: Engine, *, limit: int) -> list[QueuedResult]:
    """Rows that are not acknowledged, taken or not, the oldest first."""
    with reading(engine) as connection:
        ids = connection.execute(
            select(ReportQueue.id).where(ReportQueue.acknowledged_at.is_(None)).order_by(ReportQueue.id).limit(limit)
        ).scalars()
        return _rows(connection, ids.all())


def acknowledge(engine: Engine, consumer: str, ids: Sequence[int]) -> Answer:
    """These rows are delivered. Rows that another consumer has taken, or that are acknowledged already, are refused.

    A consumer can acknowledge a row after its time is over, as long as no other consumer has taken the row since.
    """
    return _settle(engine, consumer, ids, {"acknowledged_at": db_now()})


def release(engine: Engine, consumer: str, ids: Sequence[int]) -> Answer:
    """Give these rows back, so that any consumer can take them."""
    return _settle(engine, consumer, ids, _FREE)


def _settle(engine: Engine, consumer: str, ids: Sequence[int], values: dict[str, Any]) -> Answer:
    answer = Answer()
    is_taken = and_(ReportQueue.acknowledged_at.is_(None), ReportQueue.taken_by == consumer)
    columns = select(ReportQueue.id, ReportQueue.taken_by, ReportQueue.acknowledged_at)
    with writing(engine) as connection:
        for batch in slices(sorted(set(ids)), _AT_ONCE):
            named = ReportQueue.id.in_(batch)
            done = connection.execute(
                update(ReportQueue).where(named, is_taken).values(values).returning(ReportQueue.id)
            )
            answer.done += sorted(done.scalars().all())
            rows = {row.id: _QueueRow(*row) for row in connection.execute(columns.where(named))}
            for queue_id in batch:
                if queue_id not in answer.done:
                    answer.refused[queue_id] = _why_not(rows.get(queue_id))
    return answer


def _why_not(row: _QueueRow | None) -> str:
    if row is None:
        return "there is no such row"
    if row.acknowledged_at is not None:
        return f"was acknowledged {local_time(row.acknowledged_at)}"
    if row.taken_by is None:
        return "is taken by nobody; take it first"
    return f"was taken by {row.taken_by}"


def _is_waiting() -> ColumnElement[bool]:
    replaced = aliased(ReportQueue)
    unacknowledged = select(replaced.id).where(
        replaced.id == ReportQueue.replaces_id, replaced.acknowledged_at.is_(None)
    )
    return and_(
        ReportQueue.acknowledged_at.is_(None),
        or_(ReportQueue.taken_until.is_(None), ReportQueue.taken_until < db_now()),
        ~unacknowledged.exists(),
    )


_TYPES: dict[str, TypeEngine[Any]] = {
    "cause": coded(ReportCause), "verdict": coded(Verdict),
    **dict.fromkeys(("created_at", "taken_until", "acknowledged_at", "closed_at"), UTCDateTime()),
}  # fmt: skip
_REPORTING_QUEUE = table(
    "reporting_queue", *(column(field.name, _TYPES.get(field.name)) for field in fields(QueuedResult))
)


def _rows(connection: Connection, ids: Sequence[int]) -> list[QueuedResult]:
    queue_id = _REPORTING_QUEUE.c.queue_id
    rows: list[QueuedResult] = []
    for batch in slices(ids, _AT_ONCE):
        of_batch = select(_REPORTING_QUEUE).where(queue_id.in_(batch)).order_by(queue_id)
        rows += [QueuedResult(**row) for row in connection.execute(of_batch).mappings()]
    return rows
