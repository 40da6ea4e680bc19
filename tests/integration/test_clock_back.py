"""The database's clock steps back: reviews, and what other systems are told, go by the order of the rows."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete, select, text, update

from contract.bundle import Bundle
from contract.errors import CaseHeld
from contract.states import ReviewAction, Verdict
from db import chain
from db.chunks import claim, heartbeat, mark_published, sweep
from db.clock import db_now
from db.engine import reading, writing
from db.fsck import fsck
from db.models import AuditChain, Chunk, ReportQueue
from db.report_queue import take, waiting_rows
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act, next_case
from db.run_report import read_run
from db.submission import submit
from tests.support.owner import as_owner
from tests.support.runs import claimed, digest, found, outcome, request
from tests.support.waiting import wait_until

ANNA, BEN = Reviewer("anna", "1.2.3"), Reviewer("ben", "1.2.3")
CONFIRM, OVERRIDE, DEFER = ReviewAction.CONFIRM, ReviewAction.OVERRIDE, ReviewAction.DEFER
TOLD = "the last queue row of a closed case reports its sign-off"
HOUR = {"sqlite": "strftime('%Y-%m-%d %H:%M:%f000', {0}, '+1 hour')", "postgresql": "{0} + interval '1 hour'"}


def clock_steps_back(database: Engine) -> None:
    """By an hour: what was written so far lies in the future, and was chained so."""
    later = HOUR[database.dialect.name]
    times = {"review": "created_at", "report_queue": "created_at", "event": "at"}
    with as_owner(database) as connection:
        for table, time in times.items():
            unchained = "chain_position = NULL, chain_hash = NULL"
            connection.execute(text(f"UPDATE {table} SET {time} = {later.format(time)}, {unchained}"))
        connection.execute(delete(AuditChain))
        chain.chain_all(connection)


def times_were(database: Engine, table: str, *columns: str) -> None:
    """These times were written before the clock stepped back by an hour."""
    later = HOUR[database.dialect.name]
    with writing(database) as connection:
        for column in columns:
            connection.execute(text(f"UPDATE {table} SET {column} = {later.format(column)}"))


def test_a_lease_of_the_future_ends_after_its_own_length_and_a_living_worker_keeps_it(
    database: Engine, bundle: Bundle
) -> None:
    first, second = begun(database, bundle)
    living = claimed(database, first, lease_seconds=0.5)
    claimed(database, second, worker="dead", lease_seconds=0.5)
    times_were(database, "chunk", "lease_until")
    assert swept(database) == [], "they have their own length from now on"
    heartbeat(database, living, 60)
    wait_until(lambda: swept(database) == [second], what="the dead worker's lease to end")
    assert claim(database, first, worker="w", lease_seconds=60, max_attempts=3) is None
    finish_chunk(database, living, outcome(living, 0.9))


def test_a_lease_is_cut_to_its_own_length_and_not_to_that_of_who_looks(database: Engine, bundle: Bundle) -> None:
    first, second = begun(database, bundle)
    claimed(database, first, lease_seconds=3000)
    claimed(database, second, lease_seconds=5)
    times_were(database, "chunk", "lease_until")
    swept(database)
    with reading(database) as connection:
        left = select(Chunk.id).where(Chunk.lease_until > db_now(2000), Chunk.lease_until < db_now(3001))
        assert connection.execute(left).scalars().all() == [first]
        left = select(Chunk.id).where(Chunk.lease_until < db_now(6))
        assert connection.execute(left).scalars().all() == [second]


def test_a_message_of_the_future_counts_as_never_sent(database: Engine, bundle: Bundle) -> None:
    """Redis is empty, and no message of these chunks will come."""
    ids = begun(database, bundle)
    mark_published(database, ids)
    assert swept(database) == []
    times_were(database, "chunk", "published_at")
    assert sorted(swept(database)) == ids
    assert swept(database) == [], "now they are sent"


def test_rows_that_a_consumer_took_are_free_again_after_its_time(database: Engine, bundle: Bundle) -> None:
    for chunk_id in begun(database, bundle):
        finish(database, chunk_id, 0.9)
    assert len(take(database, "gone", limit=1, hold_s=0.3)) == 1
    assert len(take(database, "slow", limit=1, hold_s=3000)) == 1
    times_were(database, "report_queue", "taken_until")
    wait_until(lambda: take(database, "other", limit=9, hold_s=60), what="the row of the consumer that is gone")
    with reading(database) as connection:
        rows = connection.execute(
            select(ReportQueue.taken_by).where(ReportQueue.taken_until < db_now(3001)).order_by(ReportQueue.id)
        ).scalars()
        assert rows.all() == ["other", "slow"]


def test_a_case_that_a_reviewer_has_in_hand_is_free_again_after_their_time(database: Engine, bundle: Bundle) -> None:
    finish(database, begun(database, bundle)[0], 0.9)
    assert next_case(database, ANNA, hold_s=0.3) == 1
    times_were(database, '"case"', "review_held_until")
    wait_until(lambda: next_case(database, BEN, hold_s=600) == 1, what="Anna's hold to end")
    times_were(database, '"case"', "review_held_until")
    with pytest.raises(CaseHeld):
        act(database, 1, CONFIRM, ANNA)
    assert act(database, 1, CONFIRM, BEN).state == "closed"


def swept(database: Engine) -> list[int]:
    return sweep(database, waiting_messages=9, republish_seconds=600)


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
    """What does not hold; but for the audit, which harm by the owner breaks in any case (test_audit.py)."""
    findings = [one for one in fsck(database, 1, grace_s=0) if not one.holds]
    return [one.invariant for one in findings if not one.invariant.startswith("the audit")]


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
    with as_owner(database) as connection:
        connection.execute(update(ReportQueue).where(ReportQueue.review_id == 2).values(review_id=1))
    assert broken(database) == [TOLD]
