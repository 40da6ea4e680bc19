"""Cancelling, going on, trying again; and `fsck`, which finds whatever is broken on purpose here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, delete, select, text, update

from contract.bundle import Bundle
from contract.errors import NoSuchRun, UsageError
from contract.states import CaptureState, ReviewAction
from db import append_only
from db.chunks import claim, sweep
from db.clock import db_now
from db.control import RETRIED, cancel, resume, retry
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Capture, Case, Chunk, Event, ReportQueue
from db.progress import progress
from db.report_queue import queue_result
from db.results import finish_chunk
from db.review import Reviewer, act
from db.submission import submit
from tests.support.runs import claimed, found, outcome, request, states, submitted
from tests.support.waiting import wait_until


@pytest.fixture
def finished(database: Engine, bundle: Bundle) -> int:
    """A run of 3 patients with 4 captures; the first capture of each was rejected."""
    submission = submitted(database, bundle, patients=3, captures=4)
    for chunk_id in submission.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, rejected=1))
    assert submission.run_id is not None
    return submission.run_id


def broken(database: Engine, run: int, against: int | None = None) -> list[str]:
    return [one.invariant for one in fsck(database, run, grace_s=0, against=against) if not one.holds]


def again(database: Engine, run: int, **options: object) -> list[int]:
    chosen = {"states": RETRIED, "case_id": None, "chunk_size": 2, "actor": "test"} | options
    return retry(database, run, **chosen).chunk_ids  # type: ignore[arg-type]


# Cancel and resume


def test_of_a_cancelled_run_no_chunk_is_handed_out_until_it_goes_on(database: Engine, bundle: Bundle) -> None:
    submission = submitted(database, bundle, patients=2, captures=4)
    run, (first, second) = submission.run_id, submission.chunk_ids
    assert run is not None
    in_hand = claimed(database, first)
    assert cancel(database, run, actor="test")
    assert not cancel(database, run, actor="test")
    assert claim(database, second, worker="w", lease_seconds=60, max_attempts=3) is None
    assert sweep(database, waiting_messages=0, republish_seconds=0) == []
    finish_chunk(database, in_hand, outcome(in_hand))
    assert progress(database, run).screened == 4, "what is in hand is finished"
    assert resume(database, run, actor="test") == [second]
    lease = claimed(database, second)
    finish_chunk(database, lease, outcome(lease))
    assert progress(database, run).finished
    assert broken(database, run) == []
    with reading(database) as connection:
        kinds = connection.execute(select(Event.kind).where(Event.run_id == run).order_by(Event.id)).scalars().all()
    assert kinds == ["submitted", "cancelled", "resumed"]


@pytest.mark.parametrize("change", [lambda d: cancel(d, 99, actor="t"), lambda d: resume(d, 99, actor="t")])
def test_a_run_that_is_not_there(database: Engine, change: Callable[[Engine], object]) -> None:
    with pytest.raises(NoSuchRun, match="no run 99"):
        change(database)


# Retry


def test_what_was_rejected_is_screened_again_and_the_new_result_replaces_the_old(
    database: Engine, finished: int
) -> None:
    chunk_ids = again(database, finished)
    assert len(chunk_ids) == 2
    now = progress(database, finished)
    assert (now.screened, now.rejected, now.finished) == (9, 0, False)
    assert broken(database, finished) == []
    for chunk_id in chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease))
    now = progress(database, finished)
    assert (now.screened, now.rejected, now.finished) == (12, 0, True)
    assert broken(database, finished) == []
    with reading(database) as connection:
        rows = connection.execute(select(ReportQueue).order_by(ReportQueue.id)).all()
    assert [row.cause for row in rows] == ["screened"] * 3 + ["recomputed"] * 3
    assert [row.replaces_id for row in rows[3:]] == [row.id for row in rows[:3]]


def test_only_what_was_asked_for(database: Engine, finished: int) -> None:
    assert again(database, finished, states=[CaptureState.QUARANTINED]) == []
    with reading(database) as connection:
        case = connection.execute(select(Case.id).where(Case.run_id == finished).order_by(Case.id)).scalars().first()
    assert len(again(database, finished, case_id=case)) == 1
    assert progress(database, finished).cases_finished == 2


def test_a_case_that_a_reviewer_has_signed_is_left_as_it_is(database: Engine, finished: int) -> None:
    signed = min(states(database, Case))
    act(database, signed, ReviewAction.CONFIRM, Reviewer("she", "test"))
    found = retry(database, finished, states=RETRIED, case_id=None, chunk_size=4, actor="test")
    assert (found.captures, found.cases, found.reviewed) == (2, 2, [signed])


def test_a_retry_and_a_reviewer_who_reports_a_result_do_not_wait_for_each_other(
    database: Engine, finished: int
) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")

    def is_waiting() -> bool:
        with reading(database) as connection:
            return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())

    with ThreadPoolExecutor(1) as pool:
        with writing(database) as reviewer:
            case_id = reviewer.execute(select(Case.id).order_by(Case.id).limit(1).with_for_update()).scalar_one()
            retried = pool.submit(again, database, finished)
            wait_until(is_waiting, what="the retry to wait for the case")
            queue_result(reviewer, case_id, correction="override")
        assert retried.result(60)
    assert broken(database, finished) == []


def test_what_cannot_be_retried_is_said(database: Engine, finished: int) -> None:
    with pytest.raises(UsageError, match="no case 99"):
        again(database, finished, case_id=99)
    cancel(database, finished, actor="test")
    with pytest.raises(UsageError, match="screen resume"):
        again(database, finished)


# fsck finds what is broken


def lose_a_capture(connection: Connection) -> None:
    connection.execute(delete(Capture).where(Capture.id == select(Capture.id).limit(1).scalar_subquery()))


def orphan_a_capture(connection: Connection) -> None:
    one = select(Capture.id).where(Capture.state == "rejected").limit(1).scalar_subquery()
    connection.execute(
        update(Capture).where(Capture.id == one).values(state="pending", reject_code=None, chunk_id=None)
    )


def forget_a_lease(connection: Connection) -> None:
    one = select(Chunk.id).limit(1).scalar_subquery()
    values = {"state": "leased", "lease_token": "x", "lease_until": db_now(-100)}
    connection.execute(update(Chunk).where(Chunk.id == one).values(values))


def change_a_result(connection: Connection) -> None:
    connection.execute(update(Case).values(score=0.123))


def call_it_benign(connection: Connection) -> None:
    connection.execute(update(Case).values(verdict="benign", subtype=None))


def miscount(connection: Connection) -> None:
    connection.execute(update(Case).values(screened=Case.screened + 1, rejected=Case.rejected - 1))


def forget_the_queue(connection: Connection) -> None:
    append_only.unprotect(connection)
    connection.execute(delete(ReportQueue))
    append_only.protect(connection)


HARM = {
    lose_a_capture: "submitted = ",
    orphan_a_capture: "every pending capture",
    forget_a_lease: "no lease outlives",
    change_a_result: "each result is what",
    call_it_benign: "each result is what",
    miscount: "the counts of a case",
    forget_the_queue: "exactly one result",
}


@pytest.mark.parametrize("harm", list(HARM), ids=lambda harm: harm.__name__)
def test_harm_is_found_and_named(database: Engine, finished: int, harm: Callable[[Connection], None]) -> None:
    assert broken(database, finished) == []
    with writing(database) as connection:
        harm(connection)
    assert any(one.startswith(HARM[harm]) for one in broken(database, finished))


def test_two_runs_are_compared_row_by_row(database: Engine, bundle: Bundle, finished: int) -> None:
    second = submitted_again(database, bundle)
    assert broken(database, finished, against=second) == []
    with writing(database) as connection:
        one = select(Capture.id).where(Capture.run_id == second, Capture.state == "screened").limit(1)
        connection.execute(update(Capture).where(Capture.id == one.scalar_subquery()).values(probabilities=[0.25] * 4))
    assert broken(database, finished, against=second) == [f"every capture ended as in run {second}"]


def submitted_again(database: Engine, bundle: Bundle) -> int:
    files = [one for p in range(3) for one in found(f"P{p:03d}", *(f"{c:03d}.jpg" for c in range(4)))]
    submission = submit(database, request(bundle, files, everything=True))
    for chunk_id in submission.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, rejected=1))
    assert submission.run_id is not None
    return submission.run_id
