"""A patient who was screened again: the newer case takes the place of an earlier one that reviewers have not closed.

Both the marks and the queue rows are written in the transaction that writes the newer result. `one_at_a_time` lets only
one such transaction run, so two workers that finish two cases of a patient at once see each other's result.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select
from sqlalchemy.orm import aliased

from contract.signed import SignedResult
from contract.states import EventKind, ReviewAction, ReviewState
from db import chain
from db.audit import WORKER
from db.engine import AnyRow, slices
from db.many import update_many
from db.models import Case, Event, ReportQueue, Review, Run
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


def _others(*columns: Any) -> Select[*tuple[Any, ...]]:
    """The other finished cases of the patients of the cases `ids`: all newer ones, and earlier ones that no case
    superseded. A patient may have hundreds of the others, and nothing can change any more for them.

    A CHECK says that finished cases have a verdict. Asked for their state, SQLite would go through all finished cases.
    """
    current = aliased(Case)
    return (
        select(*columns, current.id.label("current_id"))
        .select_from(current)
        .join(Case, (Case.patient_id == current.patient_id) & (Case.id != current.id))
        .where(current.id.in_(bindparam("ids", expanding=True)), Case.verdict.is_not(None))
        .where((Case.id > current.id) | Case.superseded_by.is_(None))
        .order_by(Case.id)
    )


def _read_others() -> Select[*tuple[Any, ...]]:
    other_run = aliased(Run)
    acted = select(Review.id).where(
        Review.case_id == Case.id, Review.action.in_((ReviewAction.CONFIRM, ReviewAction.OVERRIDE))
    )
    return _others(
        Case.id, Case.run_id, Case.superseded_by, other_run.cancelled_at.is_not(None).label("cancelled"),
        acted.exists().label("acted"),
    ).join(other_run, other_run.id == Case.run_id)  # fmt: skip


_OTHERS = _read_others()
"""Built once: these run for every chunk."""
_OTHERS_LOCKED = _others(Case.id).with_for_update(of=Case)


def signed_before(connection: Connection, case_ids: Sequence[int]) -> dict[int, SignedResult]:
    """What reviewers signed last of the earlier cases of these cases' patients, by case; none where no earlier case is
    closed.
    """
    others = _read(connection, case_ids)
    return _signed_before(connection, others, _closed(connection, others))


def _signed_before(
    connection: Connection, others: Mapping[int, Sequence[_Other]], closed: Mapping[int, AnyRow]
) -> dict[int, SignedResult]:
    signed = {}
    for case_id, known in others.items():
        latest = max((one.id for one in known if one.id < case_id and one.id in closed), default=None)
        if latest is not None:
            signed[case_id] = _signed(connection, closed[latest])
    return signed


def _signed(connection: Connection, row: AnyRow) -> SignedResult:
    opinions = connection.execute(
        select(Review.reviewer, Review.verdict, Review.subtype)
        .join(OPINIONS, OPINIONS.c.review_id == Review.id)
        .where(OPINIONS.c.case_id == row.case_id)
        .order_by(Review.id)
    )
    final = (row.final_verdict, row.final_subtype or "")
    reviewers = [one.reviewer for one in opinions if (one.verdict, one.subtype or "") == final]
    return SignedResult(row.case_id, row.run_id, row.final_verdict, row.final_subtype, reviewers, row.closed_at)


def supersede(connection: Connection, case_ids: Sequence[int], *, cancelled: bool) -> dict[int, SignedResult]:
    """Let cases that have their result take the place of the earlier ones that are not closed, or let a newer finished
    case take their place, if that was faster. It does nothing if it is run again. Returns what `signed_before` does.

    The cases are of different patients. Those of a `cancelled` run take nobody's place. The caller has called
    `one_at_a_time`.
    """
    # A reviewer may sign one of them at this moment: wait for their commit, and look only then whether it is closed.
    locked = [connection.execute(_OTHERS_LOCKED, {"ids": ids}).all() for ids in slices(case_ids, 500)]
    if not any(locked):
        return {}
    others = _read(connection, case_ids)
    closed = _closed(connection, others)
    marks: list[_Mark] = []
    for case_id in case_ids:
        newer = next((one for one in others[case_id] if one.id > case_id and not one.cancelled), None)
        if newer is not None:
            own = select(Case.run_id).where(Case.id == case_id, Case.superseded_by.is_(None))
            run_id = connection.execute(own).scalar()
            if run_id is not None:
                marks.append(_Mark(case_id, run_id, newer.id))
        elif not cancelled:
            marks += [
                _Mark(one.id, one.run_id, case_id)
                for one in others[case_id]
                if one.id < case_id and one.superseded_by is None and one.id not in closed
            ]
    _write(connection, marks)
    return _signed_before(connection, others, closed)


def _read(connection: Connection, case_ids: Sequence[int]) -> dict[int, list[_Other]]:
    others: dict[int, list[_Other]] = defaultdict(list)
    for ids in slices(case_ids, 500):
        for row in connection.execute(_OTHERS, {"ids": ids}):
            others[row.current_id].append(
                _Other(row.id, row.run_id, row.superseded_by, bool(row.cancelled), bool(row.acted))
            )
    return others


def _closed(connection: Connection, others: Mapping[int, Sequence[_Other]]) -> dict[int, AnyRow]:
    """The rows of case_review of those of these cases that reviewers have closed, by case."""
    acted = sorted({one.id for known in others.values() for one in known if one.acted})
    rows: dict[int, AnyRow] = {}
    for ids in slices(acted, 500):
        closed = select(CASE_REVIEW).where(CASE_REVIEW.c.case_id.in_(ids), CASE_REVIEW.c.state == ReviewState.CLOSED)
        rows |= {row.case_id: row for row in connection.execute(closed)}
    return rows


@dataclass(frozen=True)
class _Mark:
    """A case that a newer one of its patient takes the place of."""

    case_id: int
    run_id: int
    by: int


def _write(connection: Connection, marks: Sequence[_Mark]) -> None:
    if not marks:
        return
    by = [{"id": mark.case_id, "superseded_by": mark.by} for mark in marks]
    free = {"review_holder": None, "review_held_until": None, "review_held_seconds": None}
    update_many(connection, Case, by, **free)
    superseded = [
        {
            "kind": EventKind.SUPERSEDED, "actor": WORKER, "run_id": mark.run_id, "case_id": mark.case_id,
            "detail": {"superseded_by": mark.by},
        }
        for mark in marks
    ]  # fmt: skip
    chain.add(connection, Event, superseded)
    reported: set[int] = set()
    for ids in slices(sorted({mark.by for mark in marks}), 500):
        reported.update(connection.execute(select(ReportQueue.case_id).where(ReportQueue.case_id.in_(ids))).scalars())
    for mark in marks:
        if mark.by in reported:
            withdraw(connection, mark.case_id)
