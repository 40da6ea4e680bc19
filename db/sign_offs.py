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

from contract.states import ReviewAction, Verdict
from db.models import Case, Review, Run

_OPINIONS = (ReviewAction.CONFIRM, ReviewAction.OVERRIDE)


@dataclass(frozen=True)
class SignOff:
    """The result with which reviewers closed a case, when, and which version of its result they had before them."""

    verdict: Verdict
    subtype: str | None
    at: datetime
    result_version: int


class Act(NamedTuple):
    """What of a row of `review` matters here."""

    action: str
    reviewer: str
    verdict: str | None
    subtype: str | None
    created_at: datetime
    result_version: int
    person: str


def sign_offs(acts: Sequence[Act], required: int) -> tuple[SignOff, ...]:
    """Each time that a case was closed, or closed with another result, from what reviewers did in its order.

    `required` reviewers must agree, two once a second opinion was asked for. A confirm of an earlier version of the
    result no longer counts: its reviewer did not know, for example, that patients may have been mixed up.
    """
    closings: list[SignOff] = []
    opinions: dict[str, Act] = {}
    is_closed = False
    wanted = required
    for act in acts:
        if act.action == ReviewAction.SECOND_OPINION:
            wanted = max(required, 2)
        elif act.action in _OPINIONS:
            opinions.pop(act.person, None)
            opinions[act.person] = act
        counting = [one for one in opinions.values() if not _is_outdated(one, act.result_version)]
        latest = counting[-1] if counting else None
        agreeing = sum(latest is not None and _result(one) == _result(latest) for one in counting)
        if latest is None or agreeing < wanted:
            is_closed = False
            continue
        assert latest.verdict is not None
        signed = SignOff(Verdict(latest.verdict), latest.subtype, act.created_at, act.result_version)
        if not is_closed or (closings[-1].verdict, closings[-1].subtype) != (signed.verdict, signed.subtype):
            closings.append(signed)
        is_closed = True
    return tuple(closings)


def _is_outdated(opinion: Act, result_version: int) -> bool:
    return opinion.action == ReviewAction.CONFIRM and opinion.result_version < result_version


def _result(act: Act) -> tuple[str | None, str]:
    return act.verdict, act.subtype or ""


@dataclass(frozen=True)
class SignedHistory:
    """How a case was closed so far, and the version that its result has now."""

    sign_offs: tuple[SignOff, ...] = ()
    result_version: int = 0


def signed_histories(connection: Connection, run_id: int) -> dict[int, SignedHistory]:
    """By case, for the cases of a run on which reviewers have acted."""
    required = connection.execute(select(Run.reviewers_required).where(Run.id == run_id)).scalar_one()
    rows = connection.execute(
        select(
            Review.case_id, Case.result_version.label("version_now"), *(getattr(Review, name) for name in Act._fields)
        )
        .join(Case, Case.id == Review.case_id)
        .where(Case.run_id == run_id)
        .order_by(Review.case_id, Review.id)
    )
    histories = {}
    for (case_id, version), acts in groupby(rows, key=lambda row: (row.case_id, row.version_now)):
        histories[case_id] = SignedHistory(sign_offs([Act(*row[2:]) for row in acts], required), version)
    return histories
