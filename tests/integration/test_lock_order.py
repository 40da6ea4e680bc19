"""Transactions that lock several things take them in one order (db.mix_ups.one_at_a_time), so none waits in a circle.

On PostgreSQL alone: SQLite has one writer at a time.
"""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine

from contract.bundle import Bundle
from contract.states import CaptureState
from db import aggregation, control
from db import recompute as recomputing
from db.chunks import sweep
from db.control import cancel, resume, retry
from db.fsck import fsck
from db.mix_ups import one_at_a_time
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.run_report import read_run
from tests.support.runs import claimed, outcome, submitted

PATIENTS = 12


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """PostgreSQL alone."""
    return postgres_url


def at_once(*works: Callable[[], object]) -> list[BaseException]:
    """Run all of them in threads of their own; returns what they raised."""
    raised: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return raised


@pytest.mark.parametrize("other", ["recompute", "cancel"])
def test_a_worker_that_waits_for_its_turn_stands_in_nobodys_way(
    database: Engine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The worker has locked its open case when the other transaction gets its turn."""
    run = submitted(database, bundle, patients=2, captures=2, chunk_size=2)
    leases = [claimed(database, chunk_id) for chunk_id in run.chunk_ids]
    finish_chunk(database, leases[0], outcome(leases[0]))
    has_case, has_turn = threading.Event(), threading.Event()

    def of_worker(connection: Connection) -> None:
        has_case.set()
        assert has_turn.wait(30)
        one_at_a_time(connection)

    def of_other(connection: Connection) -> None:
        assert has_case.wait(30)
        one_at_a_time(connection)
        has_turn.set()

    monkeypatch.setattr(aggregation, "one_at_a_time", of_worker)
    monkeypatch.setattr(recomputing, "one_at_a_time", of_other)
    monkeypatch.setattr(control, "one_at_a_time", of_other)
    run_id, policy = run.run_id or 0, bundle_policy(database, run.run_id or 0)
    works = {
        "recompute": lambda: recompute(database, run_id, policy, apply=True, actor="test"),
        "cancel": lambda: cancel(database, run_id, actor="test"),
    }
    assert at_once(lambda: finish_chunk(database, leases[1], outcome(leases[1])), works[other]) == []
    assert [case.verdict for case in read_run(database, run_id).cases] == ["all", "all"]


def test_workers_recompute_retry_cancel_and_resume_at_once(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=PATIENTS, captures=4, chunk_size=3)
    run_id, policy = run.run_id or 0, bundle_policy(database, run.run_id or 0)
    leases = [claimed(database, chunk_id) for chunk_id in run.chunk_ids]
    done = threading.Event()

    def work(mine: int) -> None:
        for lease in leases[mine::2]:
            finish_chunk(database, lease, outcome(lease, rejected=lease.chunk_id % 2))

    def meddle() -> None:
        while not done.is_set():
            recompute(database, run_id, policy, apply=True, actor="test")
            cancel(database, run_id, actor="test")
            resume(database, run_id, actor="test")
            retry(database, run_id, states=[CaptureState.REJECTED], case_id=None, chunk_size=2, actor="test")

    def works() -> None:
        try:
            assert at_once(lambda: work(0), lambda: work(1)) == []
        finally:
            done.set()

    assert at_once(works, meddle) == []
    for chunk_id in sweep(database, waiting_messages=0, republish_seconds=0):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease))
    assert [one.invariant for one in fsck(database, run_id, grace_s=0) if not one.holds] == []
