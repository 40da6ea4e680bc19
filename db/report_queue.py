"""The reporting queue: one row per result for other systems, taken for a while, acknowledged when delivered.

docs/data.md has the same steps as SQL, for systems that come with a SQL client of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, insert, or_, select, text, update
from sqlalchemy.orm import aliased

from contract.states import ReportCause
from db.clock import UTCDateTime, db_now
from db.engine import reading, slices, writing
from db.models import ReportQueue, Run

_AT_ONCE = 500
_FREE: dict[str, Any] = {"taken_by": None, "taken_until": None}


@dataclass
class Answer:
    """Of the rows that were named: those that it was done with, and why not with the others."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


def queue_result(
    connection: Connection,
    run_id: int,
    case_id: int,
    *,
    correction: ReportCause = ReportCause.RECOMPUTED,
    closed: bool = False,
) -> None:
    """Report the case's result; a case that was reported before gets a row that replaces the last one, with
    `correction` for its cause.

    Where the run's results wait for the sign-off, a case that was not reported before is reported once reviewers have
    `closed` it.
    """
    last, at_sign_off = connection.execute(
        select(
            select(func.max(ReportQueue.id)).where(ReportQueue.case_id == case_id).scalar_subquery(),
            Run.report_at_sign_off,
        ).where(Run.id == run_id)
    ).one()
    if last is None and at_sign_off and not closed:
        return
    first = ReportCause.SIGNED_OFF if at_sign_off else ReportCause.SCREENED
    cause = first if last is None else correction
    connection.execute(insert(ReportQueue).values(run_id=run_id, case_id=case_id, cause=cause, replaces_id=last))


def take(engine: Engine, consumer: str, *, limit: int, hold_s: float) -> list[dict[str, Any]]:
    """Up to `limit` rows for this consumer, the oldest first, as rows of the view reporting_queue.

    Nobody else is given them for `hold_s` seconds; then they count as forgotten. A correction is not given out before
    the row that it replaces is acknowledged: two consumers could deliver them in the wrong order.
    """
    waiting = (
        select(ReportQueue.id).where(_is_waiting()).order_by(ReportQueue.id).limit(limit)
        .with_for_update(of=ReportQueue, skip_locked=True)
    )  # fmt: skip
    with writing(engine) as connection:
        taken = connection.execute(
            update(ReportQueue)
            .where(ReportQueue.id.in_(waiting.scalar_subquery()))
            .values(taken_by=consumer, taken_until=db_now(hold_s))
            .returning(ReportQueue.id)
        ).scalars()
        return _rows(connection, sorted(taken.all()))


def waiting_rows(engine: Engine, *, limit: int) -> list[dict[str, Any]]:
    """Rows that are not acknowledged, whoever has them, the oldest first."""
    with reading(engine) as connection:
        ids = connection.execute(
            select(ReportQueue.id).where(ReportQueue.acknowledged_at.is_(None)).order_by(ReportQueue.id).limit(limit)
        ).scalars()
        return _rows(connection, ids.all())


def acknowledge(engine: Engine, consumer: str, ids: Sequence[int]) -> Answer:
    """These rows are delivered. Refused is what another consumer has taken, or is acknowledged already.

    A take that has lapsed can still be acknowledged, as long as nobody else has taken the row since.
    """
    return _settle(engine, consumer, ids, {"acknowledged_at": db_now()})


def release(engine: Engine, consumer: str, ids: Sequence[int]) -> Answer:
    """These rows go back, for anybody to take."""
    return _settle(engine, consumer, ids, _FREE)


def _settle(engine: Engine, consumer: str, ids: Sequence[int], values: dict[str, Any]) -> Answer:
    answer = Answer()
    hers = and_(ReportQueue.acknowledged_at.is_(None), ReportQueue.taken_by == consumer)
    with writing(engine) as connection:
        for some in slices(sorted(set(ids)), _AT_ONCE):
            named = ReportQueue.id.in_(some)
            done = connection.execute(update(ReportQueue).where(named, hers).values(values).returning(ReportQueue.id))
            answer.done += sorted(done.scalars().all())
            found = {row.id: row for row in connection.execute(select(ReportQueue.__table__).where(named))}
            for one in some:
                if one not in answer.done:
                    answer.refused[one] = _why_not(found.get(one))
    return answer


def _why_not(row: Any) -> str:
    if row is None:
        return "there is no such row"
    if row.acknowledged_at is not None:
        return f"was acknowledged {row.acknowledged_at:%Y-%m-%d %H:%M} UTC"
    if row.taken_by is None:
        return "is taken by nobody; take it first"
    return f"was taken by {row.taken_by}"


def _is_waiting() -> ColumnElement[bool]:
    before = aliased(ReportQueue)
    unacknowledged = select(before.id).where(before.id == ReportQueue.replaces_id, before.acknowledged_at.is_(None))
    return and_(
        ReportQueue.acknowledged_at.is_(None),
        or_(ReportQueue.taken_until.is_(None), ReportQueue.taken_until < db_now()),
        ~unacknowledged.exists(),
    )


def _rows(connection: Connection, ids: Sequence[int]) -> list[dict[str, Any]]:
    times = dict.fromkeys(("created_at", "taken_until", "acknowledged_at", "closed_at"), UTCDateTime())
    found: list[dict[str, Any]] = []
    for some in slices(ids, _AT_ONCE):
        listed = ", ".join(map(str, some))
        query = text(f"SELECT * FROM reporting_queue WHERE queue_id IN ({listed}) ORDER BY queue_id")  # noqa: S608
        found += [dict(row) for row in connection.execute(query.columns(**times)).mappings()]
    return found
