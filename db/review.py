"""What reviewers do with a case. Every action is one row of `review`, written once; a view shows where a case stands.

An action is one transaction. It locks the case's row first, so two reviewers' actions on a case come one after the
other. The same transaction writes what other systems must know.

`next_case` hands a case to one reviewer at a time. The hold ends by itself and is no record: it only prevents that two
reviewers do the same work, and only the rows count.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, case, func, or_, select, update

from contract.bundle import Manifest
from contract.errors import CaseHeld, NoSuchCase, UsageError
from contract.people import person
from contract.states import CaseState, ReportCause, ReviewAction, ReviewState, Verdict
from contract.words import local_clock
from db import chain
from db.clock import db_now, shorten
from db.engine import writing
from db.models import BundleRow, Case, ReportQueue, Review, Run
from db.opinions import CASE_REVIEW, DONE_WITH, OPINIONS, CaseReview
from db.report_queue import queue_result


@dataclass(frozen=True)
class Reviewer:
    """Who acts, and with which version of slide-screen: part of every row. Nothing checks that the name is true.

    Raises UsageError if the name is blank or contains characters that cannot be printed.
    """

    name: str
    software_version: str
    os_user: str | None = None
    """The user of the operating system who acts."""

    @property
    def person(self) -> str:
        """The name as it is compared with others (contract/people.py)."""
        return person(self.name)

    def __post_init__(self) -> None:
        if not self.person or not self.name.isprintable():
            raise UsageError("a reviewer needs a name that can be printed; give --reviewer or SCREEN_REVIEWER")


@dataclass(frozen=True)
class Opinion:
    """What an override says: a verdict and, for ALL, one of the bundle's subtypes, or None if it is not known."""

    verdict: Verdict
    subtype: str | None = None


class _Reported(NamedTuple):
    """A result as other systems have it."""

    verdict: str
    subtype: str | None
    signed: bool


@dataclass(frozen=True)
class LockedCase:
    """A case that has its result, locked until the commit, with its run's bundle."""

    id: int
    run_id: int
    state: str
    verdict: str
    subtype: str | None
    result_version: int
    superseded_by: int | None
    review_holder: str | None
    review_held_until: datetime | None
    is_held: bool
    bundle_digest: str
    report_at_sign_off: bool
    manifest: dict[str, Any]


def act(
    engine: Engine,
    case_id: int,
    action: ReviewAction,
    reviewer: Reviewer,
    *,
    opinion: Opinion | None = None,
    comment: str | None = None,
) -> CaseReview:
    """Write one action; returns where the case's review stands after it. For SETTLE_IDENTITY there is db/settling.py.

    A confirm stores the verdict and subtype that it confirms. An override must have an `opinion` and a comment. Every
    action except a comment ends the reviewer's hold; anybody may comment at any time.

    Raises NoSuchCase; CaseHeld if another reviewer has the case in hand; UsageError if the case has no result yet, if
    a newer case took its place and the action is no comment, or if the action makes no sense.
    """
    comment = readable(comment)
    if comment is None and action in (ReviewAction.OVERRIDE, ReviewAction.COMMENT):
        raise UsageError("say why: --comment TEXT" if action == ReviewAction.OVERRIDE else "a comment needs its text")
    with writing(engine) as connection:
        shorten(connection, Case.review_held_until, Case.review_held_seconds, Case.id == case_id)
        locked = locked_case(connection, case_id)
        if action != ReviewAction.COMMENT:
            refuse_if_superseded(locked)
            refuse_if_held(locked, reviewer.name)
        before = review_of(connection, case_id)
        if action == ReviewAction.DEFER and before.state == ReviewState.CLOSED:
            raise UsageError(
                f"case {case_id} is closed already; `screen review second-opinion {case_id}` opens it again"
            )
        reported = _reported(connection, locked, before)
        signed = _signed(locked, action, opinion)
        opinion_of = signed and {"verdict": signed.verdict, "subtype": signed.subtype}
        write_action(connection, locked, action, reviewer, comment=comment, **(opinion_of or {}))
        if action != ReviewAction.COMMENT:
            connection.execute(update(Case).where(Case.id == case_id).values(_NOT_HELD))
        after = review_of(connection, case_id)
        _report(connection, locked, reported, after)
        return after


_NOT_HELD: dict[str, Any] = {"review_holder": None, "review_held_until": None, "review_held_seconds": None}


def write_action(
    connection: Connection, locked: LockedCase, action: ReviewAction, reviewer: Reviewer, **said: str | None
) -> int:
    """Write a row of `review`, with what the reviewer `said`; returns its id."""
    row = {
        "case_id": locked.id, "action": action, "reviewer": reviewer.name, "person": reviewer.person,
        "os_user": reviewer.os_user, "result_version": locked.result_version, "bundle_digest": locked.bundle_digest,
        "software_version": reviewer.software_version, **said,
    }  # fmt: skip
    return chain.add(connection, Review, [row])[0]


def review_of(connection: Connection, case_id: int) -> CaseReview:
    """Where the review of a case that has its result stands."""
    row = connection.execute(select(*CASE_REVIEW.c).where(CASE_REVIEW.c.case_id == case_id)).mappings().one()
    return CaseReview(**row)


def locked_case(connection: Connection, case_id: int) -> LockedCase:
    """Lock a case that has its result. Raises NoSuchCase, and UsageError if it has none yet."""
    row = connection.execute(
        select(
            Case.id, Case.run_id, Case.state, Case.verdict, Case.subtype, Case.result_version, Case.superseded_by,
            Case.review_holder, Case.review_held_until,
            (Case.review_held_until > db_now()).label("is_held"), Run.bundle_digest, Run.report_at_sign_off,
            BundleRow.manifest,
        )
        .join(Run, Run.id == Case.run_id)
        .join(BundleRow, BundleRow.digest == Run.bundle_digest)
        .where(Case.id == case_id)
        .with_for_update(of=Case)
    ).first()  # fmt: skip
    if row is None:
        raise NoSuchCase(f"there is no case {case_id}; `screen review list` lists what waits for review")
    if row.state != CaseState.AGGREGATED:
        raise UsageError(f"case {case_id} has no result yet; `screen watch {row.run_id}` follows its run")
    return LockedCase(**{**row._mapping, "is_held": bool(row.is_held)})


def refuse_if_superseded(locked: LockedCase) -> None:
    """Raise UsageError if a newer case of the patient took this one's place."""
    if locked.superseded_by is not None:
        newer = locked.superseded_by
        raise UsageError(
            f"case {locked.id} was superseded by case {newer}, a newer one of the same patient; review that one: "
            f"`screen review show {newer}`"
        )


def refuse_if_held(locked: LockedCase, reviewer: str) -> None:
    """Raise CaseHeld if another reviewer has the case in hand."""
    if locked.is_held and person(locked.review_holder or "") != person(reviewer):
        until = local_clock(locked.review_held_until) if locked.review_held_until else "then"
        raise CaseHeld(
            f"{locked.review_holder} has case {locked.id} in hand until {until}; `screen review next` hands out another"
        )


def readable(comment: str | None) -> str | None:
    """Remove surrounding blanks; None if nothing is left. Raises UsageError for characters that cannot be printed."""
    text = (comment or "").strip()
    if not text.replace("\n", "").isprintable():
        raise UsageError("the comment holds characters that cannot be printed; write it without them")
    return text or None


def _signed(locked: LockedCase, action: ReviewAction, opinion: Opinion | None) -> Opinion | None:
    """What the action says about the result; None if it says nothing."""
    if action == ReviewAction.CONFIRM:
        return Opinion(Verdict(locked.verdict), locked.subtype)
    if action != ReviewAction.OVERRIDE:
        return None
    if opinion is None:
        raise UsageError("an override needs a verdict")
    manifest = Manifest.model_validate(locked.manifest)
    subtypes = [label for label in manifest.labels if label != manifest.benign_label]
    if opinion.subtype is None:
        only_subtype = subtypes[0] if opinion.verdict == Verdict.ALL and len(subtypes) == 1 else None
        return Opinion(opinion.verdict, only_subtype)
    if opinion.verdict != Verdict.ALL:
        raise UsageError(f"a case that is {opinion.verdict} has no subtype; leave --subtype out")
    if opinion.subtype not in subtypes:
        raise UsageError(f"the bundle has no subtype {opinion.subtype!r}; it has {', '.join(subtypes)}")
    return opinion


# What other systems get


def _to_report(locked: LockedCase, review: CaseReview) -> _Reported | None:
    """The result that other systems should have now; None if they should have none yet."""
    if review.final_verdict is not None:
        return _Reported(review.final_verdict, review.final_subtype, signed=True)
    return None if locked.report_at_sign_off else _Reported(review.verdict, review.subtype, signed=False)


def _reported(connection: Connection, locked: LockedCase, review: CaseReview) -> _Reported | None:
    """The result that was reported last. If results wait for the sign-off, the last row in the queue names the opinion
    that it reports; a row that names none reports the proposal.
    """
    if not locked.report_at_sign_off:
        return _to_report(locked, review)
    last = connection.execute(
        select(ReportQueue.review_id, Review.verdict, Review.subtype)
        .outerjoin(Review, Review.id == ReportQueue.review_id)
        .where(ReportQueue.case_id == locked.id)
        .order_by(ReportQueue.id.desc())
        .limit(1)
    ).first()
    if last is None:
        return None
    if last.review_id is None:
        return _Reported(review.verdict, review.subtype, signed=False)
    return _Reported(last.verdict, last.subtype, signed=True)


def _report(connection: Connection, locked: LockedCase, reported: _Reported | None, review: CaseReview) -> None:
    """Queue a new result for other systems, in the transaction of the action, if they have an outdated one.

    By the run's policy they get every result as soon as it is screened, or the first one when reviewers have closed the
    case. After that each change is a correction. That it was signed is a change, too.
    """
    result = _to_report(locked, review)
    if result is not None and result != reported:
        closed = review.state == ReviewState.CLOSED
        is_the_same = reported is not None and reported[:2] == result[:2]
        cause = ReportCause.SIGNED if closed and is_the_same else ReportCause.OVERRIDE
        queue_result(connection, locked.id, correction=cause, closed=closed)


# Handing out


def next_case(engine: Engine, reviewer: Reviewer, *, hold_s: float, run_id: int | None = None) -> int | None:
    """Hand a case to the reviewer for `hold_s` seconds: returns its id, or None if nothing is left for them.

    The case that they have in hand comes first, then the most urgent, then deferred ones, the longest ago first. They
    do not get cases that a newer one superseded, cases that another reviewer has in hand, cases on which their own
    opinion counts, and cases for which they have just asked for a second opinion. If the database's clock has stepped
    back, a case is in hand for the seconds for which it was handed out, counted from now on.
    """
    with writing(engine) as connection:
        shorten(connection, Case.review_held_until, Case.review_held_seconds, Case.review_holder.is_not(None))
        # A locked case is being handed out, so skip it; or its run is recomputed: then the second round waits for it.
        for skip_locked in (True, False):
            candidate = _candidates(reviewer, run_id).limit(1).with_for_update(of=Case, skip_locked=skip_locked)
            while (case_id := connection.execute(candidate).scalar()) is not None:
                # The query read the case before it locked it: another reviewer may have closed it in between.
                still_free = _candidates(reviewer, run_id).where(Case.id == case_id)
                if connection.execute(still_free).first():
                    hold = {
                        "review_holder": reviewer.name,
                        "review_held_until": db_now(hold_s),
                        "review_held_seconds": hold_s,
                    }
                    connection.execute(update(Case).where(Case.id == case_id).values(hold))
                    return case_id
    return None


def _candidates(reviewer: Reviewer, run_id: int | None) -> Select[int]:
    """Cases for this reviewer, in the order in which they are handed out."""
    deferred = CASE_REVIEW.c.state == ReviewState.DEFERRED
    last_action = select(func.max(Review.id)).where(Review.case_id == Case.id).scalar_subquery()
    is_in_hand = and_(Case.review_holder == reviewer.name, Case.review_held_until > db_now())
    opinion = select(OPINIONS.c.review_id).where(OPINIONS.c.case_id == Case.id, OPINIONS.c.person == reviewer.person)
    conditions: list[ColumnElement[bool]] = [
        CASE_REVIEW.c.state.not_in(DONE_WITH),
        or_(Case.review_holder.is_(None), Case.review_held_until <= db_now(), Case.review_holder == reviewer.name),
        or_(
            CASE_REVIEW.c.last_action.is_distinct_from(ReviewAction.SECOND_OPINION),
            CASE_REVIEW.c.last_person != reviewer.person,
        ),
        ~opinion.exists(),
    ]
    if run_id is not None:
        conditions.append(Case.run_id == run_id)
    return (
        select(Case.id)
        .join(CASE_REVIEW, CASE_REVIEW.c.case_id == Case.id)
        .where(*conditions)
        .order_by(
            case((is_in_hand, 0), else_=1),
            case((deferred, last_action)).nulls_first(),
            Case.priority.desc(),
            Case.id,
        )
    )


def release(engine: Engine, case_id: int, reviewer: Reviewer) -> bool:
    """Give back a case that the reviewer has in hand; False if nobody had it. Raises NoSuchCase, CaseHeld."""
    with writing(engine) as connection:
        locked = locked_case(connection, case_id)
        refuse_if_held(locked, reviewer.name)
        connection.execute(update(Case).where(Case.id == case_id).values(_NOT_HELD))
        return locked.is_held
