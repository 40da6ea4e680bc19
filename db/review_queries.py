"""What `screen review list` and `show` read: where cases stand, the evidence for each, and its review history."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, and_, case, func, or_, select

from contract.bundle import Manifest
from contract.bundle_warnings import bundle_warnings
from contract.case_rule import Reason
from contract.errors import NoSuchCase
from contract.outcomes import Mark
from contract.states import CaptureState, RejectCode, ReviewAction, ReviewState, Verdict
from db.absent import HAS_CASE
from db.bundles import in_training
from db.clock import db_now
from db.columns import Base
from db.engine import reading
from db.look_alikes import LookAlike, look_alikes
from db.mix_ups import CONFLICTS, IdentityConflict
from db.models import BundleRow, Capture, Case, PatientWithoutCaptures, Review, Run
from db.opinions import CASE_REVIEW, DONE_WITH, CaseReview
from db.review import Reviewer
from db.runs import require_run

CONFLICTS_SHOWN = 5


@dataclass(frozen=True)
class ListedCase(CaseReview):
    """A case in the list: where its review stands, without a hold that is over, and its result."""

    priority: float
    score: float | None
    score_low: float | None
    score_high: float | None
    subtype_margin: float | None
    reasons: tuple[Reason, ...]
    submitted: int
    screened: int
    rejected: int
    quarantined: int
    excluded: int | None
    novel: int | None
    counting: int | None
    nucleated_cells: int | None
    cells_at_least: bool | None
    identity_conflict: bool | None
    aggregated_at: datetime
    archive: str
    site: str | None


@dataclass(frozen=True)
class TopCapture:
    """A screened capture with a high P(ALL); `marks` is None if its release did not look for marks."""

    id: int
    path_text: str
    state: CaptureState
    label: str
    probability: float
    p_all: float
    novelty: float | None
    marks: tuple[Mark, ...] | None
    excluded: bool | None


@dataclass(frozen=True)
class UnscreenedCapture:
    """A rejected or quarantined capture, and why. The columns that only a screened capture fills are empty."""

    id: int
    path_text: str
    state: CaptureState
    label: None
    probability: None
    p_all: None
    novelty: None
    marks: None
    excluded: None
    reject_code: RejectCode | None
    reason: str | None


@dataclass(frozen=True)
class ReviewRow:
    """A row of the table review: what a reviewer did; docs/data.md describes the columns."""

    id: int
    case_id: int
    action: ReviewAction
    reviewer: str
    verdict: Verdict | None
    subtype: str | None
    comment: str | None
    bundle_digest: str
    software_version: str
    created_at: datetime
    os_user: str | None


@dataclass(frozen=True)
class MovedTo:
    """A case of another patient that has captures of a case without any: its folder was renamed, perhaps."""

    patient: str
    case_id: int
    captures: int


@dataclass(frozen=True)
class CaseDetails(ListedCase):
    """A case as a reviewer sees it: beside its row in the list, its bundle, the evidence, and what was done so far."""

    bundle_name: str
    bundle_digest: str
    notice: str | None
    warnings: tuple[str, ...]
    in_training: int | None
    labels: tuple[str, ...]
    benign_label: str
    top_captures: tuple[TopCapture, ...]
    ended_badly: tuple[UnscreenedCapture, ...]
    conflicts: tuple[IdentityConflict, ...]
    history: tuple[ReviewRow, ...]
    moved_to: tuple[MovedTo, ...]
    look_alikes: tuple[LookAlike, ...]


def review_list(
    engine: Engine,
    *,
    run_id: int | None = None,
    state: ReviewState | None = None,
    mine: Reviewer | None = None,
    limit: int | None = None,
) -> tuple[list[ListedCase], int]:
    """Cases by urgency, deferred ones last, at most `limit` of them, and how many there are in all.

    Without `state`, cases that are neither closed nor superseded. `mine` is a reviewer: the cases that they have in
    hand or have acted on, in any state. Finished cases of cancelled runs are there, too. Raises NoSuchRun.
    """
    conditions: list[ColumnElement[bool]] = []
    if run_id is not None:
        conditions.append(Case.run_id == run_id)
    if state is not None:
        conditions.append(CASE_REVIEW.c.state == state)
    elif mine is None:
        conditions.append(CASE_REVIEW.c.state.not_in(DONE_WITH))
    if mine is not None:
        acted = select(Review.id).where(Review.case_id == Case.id, Review.person == mine.person).exists()
        conditions.append(or_(and_(Case.review_holder == mine.name, Case.review_held_until > db_now()), acted))
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
        rows = connection.execute(statement).mappings().all()
    return [ListedCase(**_listed(row)) for row in rows], rows[0]["total"] if rows else 0


_OF_REVIEW = [field.name for field in fields(CaseReview)]
_OF_RUN = ("archive", "site")
_OF_RESULT = [field.name for field in fields(ListedCase) if field.name not in (*_OF_REVIEW, *_OF_RUN)]
_HOLD = ("holder", "held_until")


def _cases() -> Select[*tuple[Any, ...]]:
    """Results with the state of their review; a hold that is over is left out."""
    is_held = Case.review_held_until > db_now()
    return (
        select(
            *(column for column in CASE_REVIEW.c if column.name not in _HOLD),
            case((is_held, Case.review_holder)).label("holder"),
            case((is_held, Case.review_held_until)).label("held_until"),
            *(getattr(Case, name) for name in _OF_RESULT),
            Run.root_text.label("archive"),
            Run.site,
        )
        .select_from(Case)
        .join(Run, Run.id == Case.run_id)
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
    )


def _listed(row: RowMapping) -> dict[str, Any]:
    """The fields of a `ListedCase`."""
    reasons = tuple(Reason(**reason) for reason in row["reasons"] or ())
    return {name: row[name] for name in (*_OF_REVIEW, *_OF_RESULT, *_OF_RUN)} | {"reasons": reasons}


def case_details(engine: Engine, case_id: int, *, captures: int) -> CaseDetails:
    """All that a reviewer wants to see: the result, the state of the review, the evidence, and what was done.

    `top_captures` are the screened ones with the highest P(ALL), at most `captures`; `ended_badly` those that could not
    be screened. Raises NoSuchCase, also for a case that has no result yet.
    """
    with reading(engine) as connection:
        row = connection.execute(_cases().where(Case.id == case_id)).mappings().first()
        if row is None:
            raise NoSuchCase(f"there is no case {case_id} with a result; `screen review list` lists what waits")
        run = connection.execute(
            select(Run.bundle_digest, BundleRow.name, BundleRow.manifest)
            .join(BundleRow, BundleRow.digest == Run.bundle_digest)
            .where(Run.id == row["run_id"])
        ).one()
        return CaseDetails(
            **_listed(row),
            bundle_name=run.name,
            bundle_digest=run.bundle_digest,
            notice=run.manifest["notice"],
            warnings=tuple(bundle_warnings(Manifest.model_validate(run.manifest))),
            in_training=in_training(connection, run.bundle_digest, case_id=case_id),
            labels=tuple(run.manifest["labels"]),
            benign_label=run.manifest["benign_label"],
            top_captures=_top_captures(connection, case_id, captures),
            ended_badly=_ended_badly(connection, case_id),
            conflicts=_conflicts(connection, case_id),
            look_alikes=tuple(pair for pair in look_alikes(connection, [case_id]) if not pair.settled),
            history=_history(connection, case_id),
            moved_to=() if row["submitted"] else _moved_to(connection, case_id),
        )


def _columns(model: type[Base], row: type) -> Select[*tuple[Any, ...]]:
    """The columns of a table that the dataclass `row` has as fields."""
    return select(*(getattr(model, field.name) for field in fields(row)))


def _top_captures(connection: Connection, case_id: int, limit: int) -> tuple[TopCapture, ...]:
    rows = connection.execute(
        _columns(Capture, TopCapture)
        .where(Capture.case_id == case_id, Capture.state == CaptureState.SCREENED)
        .order_by(Capture.p_all.desc(), Capture.id)
        .limit(limit)
    ).mappings()
    return tuple(
        TopCapture(**{**row, "state": CaptureState(row["state"]), "marks": _marks(row["marks"])}) for row in rows
    )


def _marks(stored: list[dict[str, str]] | None) -> tuple[Mark, ...] | None:
    return None if stored is None else tuple(map(Mark.stored, stored))


def _ended_badly(connection: Connection, case_id: int) -> tuple[UnscreenedCapture, ...]:
    rows = connection.execute(
        _columns(Capture, UnscreenedCapture)
        .where(Capture.case_id == case_id, Capture.state.in_((CaptureState.REJECTED, CaptureState.QUARANTINED)))
        .order_by(Capture.path_text)
    ).mappings()
    captures = []
    for row in rows:
        state, code = CaptureState(row["state"]), row["reject_code"]
        captures.append(UnscreenedCapture(**{**row, "state": state, "reject_code": code and RejectCode(code)}))
    return tuple(captures)


def _conflicts(connection: Connection, case_id: int) -> tuple[IdentityConflict, ...]:
    of_case = select(CONFLICTS).where(CONFLICTS.c.case_id == case_id, CONFLICTS.c.settled == 0)
    shown = of_case.order_by(CONFLICTS.c.path).limit(CONFLICTS_SHOWN)
    return tuple(IdentityConflict(**row) for row in connection.execute(shown).mappings())


def _moved_to(connection: Connection, case_id: int) -> tuple[MovedTo, ...]:
    """Where the captures of the result that a case without captures withdraws lie now, byte for byte."""
    earlier = (
        select(PatientWithoutCaptures.earlier_case_id).join(Case, HAS_CASE).where(Case.id == case_id).scalar_subquery()
    )
    captures = func.count(CONFLICTS.c.capture_id.distinct())
    cases = (
        select(CONFLICTS.c.other_patient, CONFLICTS.c.other_case_id, captures)
        .where(CONFLICTS.c.case_id == connection.execute(select(earlier)).scalar())
        .group_by(CONFLICTS.c.other_patient, CONFLICTS.c.other_case_id)
        .order_by(captures.desc(), CONFLICTS.c.other_case_id)
        .limit(CONFLICTS_SHOWN)
    )
    return tuple(MovedTo(*row) for row in connection.execute(cases))


def _history(connection: Connection, case_id: int) -> tuple[ReviewRow, ...]:
    rows = connection.execute(
        _columns(Review, ReviewRow).where(Review.case_id == case_id).order_by(Review.id)
    ).mappings()
    history = []
    for row in rows:
        action, verdict = ReviewAction(row["action"]), row["verdict"]
        history.append(ReviewRow(**{**row, "action": action, "verdict": verdict and Verdict(verdict)}))
    return tuple(history)
