"""What `screen review list` and `show` read: where cases stand, the evidence for each, and its review history."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, TextClause, and_, case, func, or_, select, text

from contract.errors import NoSuchCase
from contract.states import CaptureState, ReviewState
from db.clock import db_now
from db.engine import reading
from db.models import BundleRow, Capture, Case, Review, Run
from db.opinions import CASE_REVIEW
from db.runs import require_run

CONFLICTS_SHOWN = 5
_RESULT = (
    "priority", "score", "score_low", "score_high", "subtype_margin", "reasons", "submitted", "screened", "rejected",
    "quarantined", "excluded", "novel", "identity_conflict", "aggregated_at",
)  # fmt: skip
_OF_CAPTURE = ("id", "path_text", "state", "label", "probability", "p_all", "novelty", "marks", "excluded")


def review_list(
    engine: Engine,
    *,
    run_id: int | None = None,
    state: ReviewState | None = None,
    mine: str | None = None,
    limit: int | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Cases by urgency, deferred ones last, at most `limit` of them, and how many there are in all.

    Without `state`, cases that are not closed. `mine` names a reviewer: the cases that they have in hand or have acted
    on, closed ones too. Cases of cancelled runs are left out. Raises NoSuchRun.
    """
    conditions: list[ColumnElement[bool]] = [Run.cancelled_at.is_(None)]
    if run_id is not None:
        conditions.append(Case.run_id == run_id)
    if state is not None:
        conditions.append(CASE_REVIEW.c.state == state)
    elif mine is None:
        conditions.append(CASE_REVIEW.c.state != ReviewState.CLOSED)
    if mine is not None:
        acted = select(Review.id).where(Review.case_id == Case.id, Review.reviewer == mine).exists()
        conditions.append(or_(and_(Case.review_holder == mine, Case.review_held_until > db_now()), acted))
    statement = (
        _cases()
        .add_columns(func.count().over().label("total"))
        .where(*conditions)
        .order_by(case((CASE_REVIEW.c.state == ReviewState.DEFERRED, 1), else_=0), Case.priority.desc(), Case.id)
        .limit(limit)
    )
    with reading(engine) as connection:
        if run_id is not None:
            require_run(connection, run_id)
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    total = rows[0]["total"] if rows else 0
    for row in rows:
        del row["total"]
    return rows, total


def _cases() -> Select[Any]:
    """Results with the state of their review; a hold that is over is left out."""
    is_held = Case.review_held_until > db_now()
    hold_columns = {"holder", "held_until"}
    return (
        select(
            *(column for column in CASE_REVIEW.c if column.name not in hold_columns),
            case((is_held, Case.review_holder)).label("holder"),
            case((is_held, Case.review_held_until)).label("held_until"),
            *(getattr(Case, name) for name in _RESULT),
        )
        .select_from(Case)
        .join(Run, Run.id == Case.run_id)
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
    )


def case_details(engine: Engine, case_id: int, *, captures: int) -> dict[str, Any]:
    """All that a reviewer wants to see: the result, the state of the review, the evidence, and what was done.

    `top_captures` are the screened ones with the highest P(ALL), at most `captures`; `ended_badly` those that could not
    be screened. Raises NoSuchCase, also for a case that has no result yet.
    """
    with reading(engine) as connection:
        row = connection.execute(_cases().where(Case.id == case_id)).mappings().first()
        if row is None:
            raise NoSuchCase(f"there is no case {case_id} with a result; `screen review list` lists what waits")
        run = connection.execute(
            select(Run.root_text, Run.bundle_digest, BundleRow.name, BundleRow.manifest)
            .join(BundleRow, BundleRow.digest == Run.bundle_digest)
            .where(Run.id == row["run_id"])
        ).one()
        of_case = select(*(getattr(Capture, name) for name in _OF_CAPTURE)).where(Capture.case_id == case_id)
        top = of_case.where(Capture.state == CaptureState.SCREENED).order_by(Capture.p_all.desc(), Capture.id)
        ended_badly = (
            of_case.add_columns(Capture.reject_code, Capture.reason)
            .where(Capture.state.in_((CaptureState.REJECTED, CaptureState.QUARANTINED)))
            .order_by(Capture.path_text)
        )
        conflicts = text("SELECT * FROM identity_conflicts WHERE case_id = :case ORDER BY path LIMIT :most")
        history = select(*Review.__table__.c).where(Review.case_id == case_id).order_by(Review.id)
        return {
            **row,
            "archive": run.root_text,
            "bundle_name": run.name,
            "bundle_digest": run.bundle_digest,
            "notice": run.manifest["notice"],
            "labels": run.manifest["labels"],
            "benign_label": run.manifest["benign_label"],
            "top_captures": _rows(connection, top.limit(captures)),
            "ended_badly": _rows(connection, ended_badly),
            "conflicts": _rows(connection, conflicts, {"case": case_id, "most": CONFLICTS_SHOWN}),
            "history": _rows(connection, history),
        }


def _rows(
    connection: Connection, statement: Select[Any] | TextClause, parameters: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement, parameters or {}).mappings()]
