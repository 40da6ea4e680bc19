"""A patient who was screened again: the newer case takes the place of an earlier one that reviewers have not closed.

Both the marks and the queue rows are written in the transaction that writes the newer result. `one_at_a_time` lets only
one such transaction run, so two workers that finish two cases of a patient at once see each other's result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update
from sqlalchemy.orm import aliased

from contract.signed import SignedResult
from contract.states import CaseState, EventKind, ReviewAction, ReviewState
from db.audit import WORKER, note
from db.models import Case, Review, Run
from db.opinions import CASE_REVIEW, OPINIONS
from db.report_queue import withdraw


@dataclass(frozen=True)
class _Other:
    """Another finished case of the patient. `acted`: a reviewer has confirmed or overridden it."""

    id: int
    run_id: int
    superseded_by: int | None
    cancelled: bool
    acted: bool


def _others() -> Select[*tuple[Any, ...]]:
    current, other_run = aliased(Case), aliased(Run)
    acted = select(Review.id).where(
        Review.case_id == Case.id, Review.action.in_((ReviewAction.CONFIRM, ReviewAction.OVERRIDE))
    )
    return (
        select(
            Case.id, Case.run_id, Case.superseded_by, other_run.cancelled_at.is_not(None).label("cancelled"),
            acted.exists().label("acted"),
        )
        .select_from(current)
        .join(Case, (Case.patient_id == current.patient_id) & (Case.id != current.id))
        .join(other_run, other_run.id == Case.run_id)
        .where(current.id == bindparam("case_id"), Case.state == CaseState.AGGREGATED)
        .order_by(Case.id)
    )  # fmt: skip


_OTHERS = _others()
"""Built once: it runs for every case."""
_OTHERS_LOCKED = _others().with_for_update(of=Case)


def signed_before(connection: Connection, case_id: int) -> SignedResult | None:
    """What reviewers signed last of the earlier cases of this patient; None if no such case is closed."""
    earlier = [one.id for one in _read(connection, _OTHERS, case_id) if one.id < case_id and one.acted]
    if not earlier:
        return None
    row = connection.execute(
        select(CASE_REVIEW)
        .where(CASE_REVIEW.c.case_id.in_(earlier), CASE_REVIEW.c.state == ReviewState.CLOSED)
        .order_by(CASE_REVIEW.c.case_id.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    opinions = connection.execute(
        select(Review.reviewer, Review.verdict, Review.subtype)
        .join(OPINIONS, OPINIONS.c.review_id == Review.id)
        .where(OPINIONS.c.case_id == row.case_id)
        .order_by(Review.id)
    )
    final = (row.final_verdict, row.final_subtype or "")
    reviewers = [one.reviewer for one in opinions if (one.verdict, one.subtype or "") == final]
    return SignedResult(row.case_id, row.run_id, row.final_verdict, row.final_subtype, reviewers, row.closed_at)


def supersede(connection: Connection, case_id: int, *, cancelled: bool) -> None:
    """Let a case that has its result take the place of the earlier ones that are not closed, or let a newer finished
    case take its place, if that was faster. It does nothing if it is run again.

    A case of a `cancelled` run takes nobody's place. The caller has called `one_at_a_time`.
    """
    if not _read(connection, _OTHERS, case_id):
        return
    # A reviewer may sign one of them at this moment: wait for their commit, and look only then whether it is closed.
    others = _read(connection, _OTHERS_LOCKED, case_id)
    newer = next((one for one in others if one.id > case_id and not one.cancelled), None)
    if newer is not None:
        own = select(Case.run_id).where(Case.id == case_id, Case.superseded_by.is_(None))
        run_id = connection.execute(own).scalar()
        if run_id is not None:
            _mark(connection, case_id, run_id, by=newer.id)
    elif not cancelled:
        closed = _closed(connection, [one.id for one in others if one.acted])
        for one in others:
            if one.id < case_id and one.superseded_by is None and one.id not in closed:
                _mark(connection, one.id, one.run_id, by=case_id)


def _read(connection: Connection, statement: Select[*tuple[Any, ...]], case_id: int) -> list[_Other]:
    return [
        _Other(row.id, row.run_id, row.superseded_by, bool(row.cancelled), bool(row.acted))
        for row in connection.execute(statement, {"case_id": case_id})
    ]


def _closed(connection: Connection, case_ids: Sequence[int]) -> set[int]:
    if not case_ids:
        return set()
    closed = select(CASE_REVIEW.c.case_id).where(
        CASE_REVIEW.c.case_id.in_(case_ids), CASE_REVIEW.c.state == ReviewState.CLOSED
    )
    return set(connection.execute(closed).scalars())


def _mark(connection: Connection, case_id: int, run_id: int, *, by: int) -> None:
    values = {"superseded_by": by, "review_holder": None, "review_held_until": None, "review_held_seconds": None}
    connection.execute(update(Case).where(Case.id == case_id).values(values))
    note(
        connection, EventKind.SUPERSEDED, actor=WORKER, run_id=run_id, case_id=case_id, detail={"superseded_by": by}
    )  # fmt: skip
    withdraw(connection, case_id, superseded_by=by)
