"""When reviewers closed the cases of a run so far, also closings that a later action or result has undone.

The view case_review says where a case stands now. Whoever was told that a result is final must also learn that it was
changed since, so the rows of `review` are gone through once more, in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection, select

from contract.states import EventKind, ReviewAction, Verdict
from db.models import Case, Event, Review, Run

_OPINIONS = (ReviewAction.CONFIRM, ReviewAction.OVERRIDE)


@dataclass(frozen=True)
class SignOff:
    """The result with which reviewers closed a case, and when."""

    verdict: Verdict
    subtype: str | None
    at: datetime


class Act(NamedTuple):
    """What of a row of `review` matters here."""

    action: str
    reviewer: str
    verdict: str | None
    subtype: str | None
    created_at: datetime


def sign_offs(acts: Sequence[Act], required: int, mixed_up_at: Sequence[datetime] = ()) -> tuple[SignOff, ...]:
    """Each time that a case was closed, or closed with another result, from what reviewers did in its order.

    `required` reviewers must agree, two once a second opinion was asked for. A confirm from before one of the times
    `mixed_up_at` no longer counts: its reviewer did not know that patients may have been mixed up.
    """
    closings: list[SignOff] = []
    opinions: dict[str, Act] = {}
    is_closed = False
    wanted = required
    for act in acts:
        if act.action == ReviewAction.SECOND_OPINION:
            wanted = max(required, 2)
        elif act.action in _OPINIONS:
            opinions.pop(act.reviewer, None)
            opinions[act.reviewer] = act
        counting = [one for one in opinions.values() if not _is_outdated(one, act.created_at, mixed_up_at)]
        latest = counting[-1] if counting else None
        agreeing = sum(latest is not None and _result(one) == _result(latest) for one in counting)
        if latest is None or agreeing < wanted:
            is_closed = False
            continue
        assert latest.verdict is not None
        signed = SignOff(Verdict(latest.verdict), latest.subtype, act.created_at)
        if not is_closed or (closings[-1].verdict, closings[-1].subtype) != (signed.verdict, signed.subtype):
            closings.append(signed)
        is_closed = True
    return tuple(closings)


def _is_outdated(opinion: Act, now: datetime, mixed_up_at: Sequence[datetime]) -> bool:
    return opinion.action == ReviewAction.CONFIRM and any(opinion.created_at < at <= now for at in mixed_up_at)


def _result(act: Act) -> tuple[str | None, str]:
    return act.verdict, act.subtype or ""


@dataclass(frozen=True)
class SignedHistory:
    """How a case was closed so far, and when a capture of it was last found under another patient too, or no longer."""

    sign_offs: tuple[SignOff, ...] = ()
    mix_up_noted_at: datetime | None = None


def signed_histories(connection: Connection, run_id: int) -> dict[int, SignedHistory]:
    """By case, for the cases of a run on which reviewers have acted."""
    required = connection.execute(select(Run.reviewers_required).where(Run.id == run_id)).scalar_one()
    noted: dict[int, list[tuple[datetime, bool]]] = {}
    for event in connection.execute(
        select(Event.case_id, Event.at, Event.detail)
        .where(Event.run_id == run_id, Event.kind == EventKind.IDENTITY_CONFLICT, Event.case_id.is_not(None))
        .order_by(Event.id)
    ):
        noted.setdefault(event.case_id, []).append((event.at, bool(event.detail.get("conflict", True))))
    rows = connection.execute(
        select(Review.case_id, *(getattr(Review, name) for name in Act._fields))
        .join(Case, Case.id == Review.case_id)
        .where(Case.run_id == run_id)
        .order_by(Review.case_id, Review.id)
    )
    histories = {}
    for case_id, acts in groupby(rows, key=lambda row: row.case_id):
        events = noted.get(case_id, [])
        mixed_up_at = [at for at, found in events if found]
        signed = sign_offs([Act(*row[1:]) for row in acts], required, mixed_up_at)
        histories[case_id] = SignedHistory(signed, events[-1][0] if events else None)
    return histories
