"""What reviewers do with a case. Every action is one row of `review`, written once; where a case stands is a view.

An action is one transaction that locks the case's row first, so two reviewers' actions on it come one after the other,
and what other systems must be told is written in that same transaction.

`next_case` hands a case to one reviewer at a time. The hold is a convenience with an end, not a record: it keeps two
reviewers from doing the same work, and what counts are the rows.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, case, func, insert, or_, select, update

from contract.bundle import Manifest
from contract.errors import CaseHeld, NoSuchCase, UsageError
from contract.states import CaseState, ReportCause, ReviewAction, ReviewState, Verdict
from db.clock import db_now
from db.engine import writing
from db.models import BundleRow, Case, ReportQueue, Review, Run
from db.opinions import CASE_REVIEW, OPINIONS
from db.report_queue import queue_result


@dataclass(frozen=True)
class Reviewer:
    """Who acts, and with which version of slide-screen: part of every row. The name is taken on trust.

    Raises UsageError where the name is blank or holds what a terminal would act on.
    """

    name: str
    software_version: str

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise UsageError("a reviewer needs a name that can be printed; give --reviewer or SCREEN_REVIEWER")


@dataclass(frozen=True)
class Opinion:
    """What an override says: a verdict and, for ALL, one of the bundle's subtypes, or None where it is not known."""

    verdict: Verdict
    subtype: str | None = None


def act(
    engine: Engine,
    case_id: int,
    action: ReviewAction,
    reviewer: Reviewer,
    *,
    opinion: Opinion | None = None,
    comment: str | None = None,
) -> dict[str, Any]:
    """Write one action; returns the case's row of the view case_review after it.

    A confirm keeps the verdict and subtype that it confirms. An override must have an `opinion` and a comment. Whatever
    it is ends the reviewer's hold, but for a comment: that may come from anybody, before anything else.

    Raises NoSuchCase; CaseHeld where the case is in another reviewer's hands; UsageError where the case has no result
    yet, or for an action that makes no sense.
    """
    comment = _readable(comment)
    if comment is None and action in (ReviewAction.OVERRIDE, ReviewAction.COMMENT):
        raise UsageError("say why: --comment TEXT" if action == ReviewAction.OVERRIDE else "a comment needs its text")
    with writing(engine) as connection:
        found = _locked(connection, case_id)
        if action != ReviewAction.COMMENT:
            _refuse_what_another_holds(found, reviewer.name)
        before = review_of(connection, case_id)
        if action == ReviewAction.DEFER and before["state"] == ReviewState.CLOSED:
            raise UsageError(
                f"case {case_id} is closed already; `screen review second-opinion {case_id}` opens it again"
            )
        reported = _reported(connection, found, before)
        signed = _signed(found, action, opinion)
        connection.execute(
            insert(Review).values(
                case_id=case_id,
                action=action,
                reviewer=reviewer.name,
                verdict=signed and signed.verdict,
                subtype=signed and signed.subtype,
                comment=comment,
                bundle_digest=found.bundle_digest,
                software_version=reviewer.software_version,
            )
        )
        if action != ReviewAction.COMMENT:
            connection.execute(update(Case).where(Case.id == case_id).values(_NOT_HELD))
        after = review_of(connection, case_id)
        _report(connection, found, reported, after)
        return after


_NOT_HELD: dict[str, Any] = {"review_holder": None, "review_held_until": None}


def review_of(connection: Connection, case_id: int) -> dict[str, Any]:
    """The case's row of the view case_review."""
    row = connection.execute(select(*CASE_REVIEW.c).where(CASE_REVIEW.c.case_id == case_id)).mappings().one()
    return dict(row)


def _locked(connection: Connection, case_id: int) -> Any:
    found = connection.execute(
        select(
            Case.id, Case.run_id, Case.state, Case.verdict, Case.subtype, Case.review_holder, Case.review_held_until,
            (Case.review_held_until > db_now()).label("is_held"), Run.bundle_digest, Run.report_at_sign_off,
            BundleRow.manifest,
        )
        .join(Run, Run.id == Case.run_id)
        .join(BundleRow, BundleRow.digest == Run.bundle_digest)
        .where(Case.id == case_id)
        .with_for_update(of=Case)
    ).first()  # fmt: skip
    if found is None:
        raise NoSuchCase(f"there is no case {case_id}; `screen review list` lists what waits for review")
    if found.state != CaseState.AGGREGATED:
        raise UsageError(f"case {case_id} has no result yet; `screen watch {found.run_id}` follows its run")
    return found


def _refuse_what_another_holds(found: Any, reviewer: str) -> None:
    if found.is_held and found.review_holder != reviewer:
        raise CaseHeld(
            f"{found.review_holder} has case {found.id} in hand until {found.review_held_until:%H:%M} UTC; "
            "`screen review next` hands out another"
        )


def _readable(comment: str | None) -> str | None:
    """Without blanks around it; None where nothing is left. What a terminal would act on is refused."""
    text = (comment or "").strip()
    if not text.replace("\n", "").isprintable():
        raise UsageError("the comment holds characters that cannot be printed; write it without them")
    return text or None


def _signed(found: Any, action: ReviewAction, opinion: Opinion | None) -> Opinion | None:
    """What the action says of the result; None where it says nothing."""
    if action == ReviewAction.CONFIRM:
        return Opinion(Verdict(found.verdict), found.subtype)
    if action != ReviewAction.OVERRIDE:
        return None
    if opinion is None:
        raise UsageError("an override needs a verdict")
    manifest = Manifest.model_validate(found.manifest)
    subtypes = [label for label in manifest.labels if label != manifest.benign_label]
    if opinion.subtype is None:
        only = subtypes[0] if opinion.verdict == Verdict.ALL and len(subtypes) == 1 else None
        return Opinion(opinion.verdict, only)
    if opinion.verdict != Verdict.ALL:
        raise UsageError(f"a case that is {opinion.verdict} has no subtype; leave --subtype out")
    if opinion.subtype not in subtypes:
        raise UsageError(f"the bundle has no subtype {opinion.subtype!r}; it has {', '.join(subtypes)}")
    return opinion


# What other systems are told


def _to_report(found: Any, now: dict[str, Any]) -> tuple[str, str | None] | None:
    """Verdict and subtype that other systems should have by now; None where they should have none yet."""
    if now["state"] == ReviewState.CLOSED:
        return now["final_verdict"], now["final_subtype"]
    return None if found.report_at_sign_off else (now["verdict"], now["subtype"])


def _reported(connection: Connection, found: Any, now: dict[str, Any]) -> tuple[str, str | None] | None:
    """Verdict and subtype that were reported last. Where that waits for the sign-off, it is whatever closed the case
    then: the last opinion before the row in the queue.
    """
    if not found.report_at_sign_off:
        return _to_report(found, now)
    reported_at = select(func.max(ReportQueue.created_at)).where(ReportQueue.case_id == found.id).scalar_subquery()
    opinion = connection.execute(
        select(Review.verdict, Review.subtype)
        .where(Review.case_id == found.id, Review.action.in_((ReviewAction.CONFIRM, ReviewAction.OVERRIDE)))
        .where(Review.created_at <= reported_at)
        .order_by(Review.id.desc())
        .limit(1)
    ).first()
    return None if opinion is None else (opinion.verdict, opinion.subtype)


def _report(connection: Connection, found: Any, reported: tuple[str, str | None] | None, after: dict[str, Any]) -> None:
    """Tell other systems, in the action's own transaction, if what they have is no longer what they should have.

    By the run's policy they have every result as soon as it is screened, or the first when reviewers have closed the
    case. From then on each change is a correction.
    """
    wanted = _to_report(found, after)
    if wanted is not None and wanted != reported:
        closed = after["state"] == ReviewState.CLOSED
        queue_result(connection, found.run_id, found.id, correction=ReportCause.OVERRIDE, closed=closed)


# Handing out


def next_case(engine: Engine, reviewer: Reviewer, *, hold_s: float, run_id: int | None = None) -> int | None:
    """Hand a case to the reviewer for `hold_s` seconds: its id, or None where nothing is left for her.

    The one that she has in hand comes first, then the most urgent, then what was deferred, the longest ago first. Not
    handed out are cases of cancelled runs, what another reviewer has in hand, what she has an opinion on that counts,
    and what she has just asked a second opinion for.
    """
    with writing(engine) as connection:
        # What is locked is being handed out, and passed over; or its run is recomputed, which is waited for.
        for skip_locked in (True, False):
            candidate = _candidates(reviewer.name, run_id).limit(1).with_for_update(of=Case, skip_locked=skip_locked)
            while (case_id := connection.execute(candidate).scalar()) is not None:
                # The lock came after the look: somebody may have closed it in between.
                still = _candidates(reviewer.name, run_id).where(Case.id == case_id)
                if connection.execute(still).first():
                    hold = {"review_holder": reviewer.name, "review_held_until": db_now(hold_s)}
                    connection.execute(update(Case).where(Case.id == case_id).values(hold))
                    return case_id
    return None


def _candidates(reviewer: str, run_id: int | None) -> Select[int]:
    """Cases for this reviewer, in the order in which they are handed out."""
    deferred = CASE_REVIEW.c.state == ReviewState.DEFERRED
    is_hers = and_(Case.review_holder == reviewer, Case.review_held_until > db_now())
    opinion = select(OPINIONS.c.review_id).where(OPINIONS.c.case_id == Case.id, OPINIONS.c.reviewer == reviewer)
    wanted: list[ColumnElement[bool]] = [
        Run.cancelled_at.is_(None),
        CASE_REVIEW.c.state != ReviewState.CLOSED,
        or_(Case.review_holder.is_(None), Case.review_held_until <= db_now(), Case.review_holder == reviewer),
        or_(
            CASE_REVIEW.c.last_action.is_distinct_from(ReviewAction.SECOND_OPINION),
            CASE_REVIEW.c.last_reviewer != reviewer,
        ),
        ~opinion.exists(),
    ]
    if run_id is not None:
        wanted.append(Case.run_id == run_id)
    return (
        select(Case.id)
        .join(Run, Run.id == Case.run_id)
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
        .where(*wanted)
        .order_by(
            case((is_hers, 0), else_=1),
            case((deferred, CASE_REVIEW.c.last_action_at)).nulls_first(),
            Case.priority.desc(),
            Case.id,
        )
    )


def release(engine: Engine, case_id: int, reviewer: Reviewer) -> bool:
    """Give a case back that the reviewer has in hand; False where nobody had it. Raises NoSuchCase, CaseHeld."""
    with writing(engine) as connection:
        found = _locked(connection, case_id)
        _refuse_what_another_holds(found, reviewer.name)
        connection.execute(update(Case).where(Case.id == case_id).values(_NOT_HELD))
        return bool(found.is_held)
