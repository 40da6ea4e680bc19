"""The database's clock steps back: reviews, and what other systems are told, go by the order of the rows."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, text, update

from contract.bundle import Bundle
from contract.states import ReviewAction, Verdict
from db import append_only
from db.engine import reading, writing
from db.fsck import fsck
from db.models import ReportQueue
from db.report_queue import waiting_rows
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act, next_case
from db.run_report import read_run
from db.submission import submit
from tests.support.runs import claimed, digest, found, outcome, request

ANNA, BEN = Reviewer("anna", "1.2.3"), Reviewer("ben", "1.2.3")
CONFIRM, OVERRIDE, DEFER = ReviewAction.CONFIRM, ReviewAction.OVERRIDE, ReviewAction.DEFER
TOLD = "the last queue row of a closed case reports its sign-off"
HOUR = {"sqlite": "strftime('%Y-%m-%d %H:%M:%f000', {0}, '+1 hour')", "postgresql": "{0} + interval '1 hour'"}


def clock_steps_back(database: Engine) -> None:
    """By an hour: what was written so far lies in the future."""
    later = HOUR[database.dialect.name]
    with writing(database) as connection:
        append_only.unprotect(connection)
        for table in ("review", "report_queue"):
            connection.execute(text(f"UPDATE {table} SET created_at = {later.format('created_at')}"))
        connection.execute(text(f"UPDATE event SET at = {later.format('at')}"))
        append_only.protect(connection)


def begun(database: Engine, bundle: Bundle, *, sign_off: bool = False, reviewers: int = 1) -> list[int]:
    files = [one for name in ("P1", "P2") for one in found(name, "0.jpg", "1.jpg")]
    wanted = request(bundle, files, chunk_size=2)
    return submit(database, replace(wanted, report_at_sign_off=sign_off, reviewers_required=reviewers)).chunk_ids


def finish(database: Engine, chunk_id: int, p_all: float, same: str | None = None) -> None:
    lease = claimed(database, chunk_id)
    ended = outcome(lease, p_all)
    if same is not None:
        ended.screened[-1] = replace(ended.screened[-1], sha256=same)
    finish_chunk(database, lease, ended)


def causes(database: Engine) -> list[tuple[str, int | None]]:
    with reading(database) as connection:
        rows = connection.execute(select(ReportQueue.cause, ReportQueue.review_id).order_by(ReportQueue.id))
        return [(row.cause, row.review_id) for row in rows]


def broken(database: Engine) -> list[str]:
    return [one.invariant for one in fsck(database, 1, grace_s=0) if not one.holds]


def test_two_reviewers_who_override_what_they_signed_are_reported(database: Engine, bundle: Bundle) -> None:
    finish(database, begun(database, bundle, sign_off=True, reviewers=2)[0], 0.1)
    for reviewer in (ANNA, BEN):
        act(database, 1, CONFIRM, reviewer)
    clock_steps_back(database)
    for reviewer in (ANNA, BEN):
        act(database, 1, OVERRIDE, reviewer, opinion=Opinion(Verdict.ALL, "Pro"), comment="blasts")
    assert causes(database) == [("signed_off", 2), ("override", 4)]
    assert [row.verdict for row in waiting_rows(database, limit=9)] == [Verdict.ALL] * 2
    assert broken(database) == []


def test_a_case_that_is_reopened_and_signed_again_is_reported_as_signed(database: Engine, bundle: Bundle) -> None:
    first, second = begun(database, bundle, sign_off=True)
    finish(database, first, 0.9, digest(b"both"))
    act(database, 1, CONFIRM, ANNA)
    finish(database, second, 0.9, digest(b"both"))
    assert causes(database) == [("signed_off", 1), ("recomputed", None)]
    act(database, 1, CONFIRM, ANNA)
    assert causes(database)[2:] == [("signed", 2)]
    assert broken(database) == []


def test_a_confirm_from_before_a_mix_up_does_not_count(database: Engine, bundle: Bundle) -> None:
    first, second = begun(database, bundle)
    finish(database, first, 0.9, digest(b"both"))
    assert act(database, 1, CONFIRM, ANNA).state == "closed"
    clock_steps_back(database)
    finish(database, second, 0.9, digest(b"both"))
    (case,) = [one for one in read_run(database, 1).cases if one.patient == "P1"]
    assert case.review is not None
    assert (case.review.state, case.changed_after_sign_off) == ("waiting", True)
    assert act(database, 1, CONFIRM, ANNA).state == "closed"
    assert broken(database) == []


def test_the_case_that_was_deferred_first_comes_first(database: Engine, bundle: Bundle) -> None:
    for chunk_id in begun(database, bundle):
        finish(database, chunk_id, 0.9)
    act(database, 2, DEFER, ANNA)
    clock_steps_back(database)
    act(database, 1, DEFER, ANNA)
    assert next_case(database, BEN, hold_s=60) == 2


@pytest.mark.parametrize("sign_off", [True, False])
def test_fsck_sees_a_closed_case_whose_sign_off_was_not_reported(
    database: Engine, bundle: Bundle, sign_off: bool
) -> None:
    finish(database, begun(database, bundle, sign_off=sign_off)[0], 0.1)
    act(database, 1, CONFIRM, ANNA)
    act(database, 1, OVERRIDE, ANNA, opinion=Opinion(Verdict.ALL, "Pro"), comment="blasts")
    assert broken(database) == []
    with writing(database) as connection:
        connection.execute(update(ReportQueue).where(ReportQueue.review_id == 2).values(review_id=1))
    assert broken(database) == [TOLD]
