"""Faults 5, 6, 8, 9, 13: databases that stop, workers cut off, transactions that meet, clocks that differ."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from contract.bundle import Bundle
from db import schema
from db.engine import open_engine, reading, writing
from db.models import Case, Event, ReportQueue
from db.results import finish_chunk
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, SLOW, Lab
from tests.support.commands import Environment
from tests.support.runs import claimed, found, outcome, request
from tests.support.servers import PostgresServer, RedisServer
from tests.support.waiting import wait_until

LEASE_S = 5


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, that it may kill."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        started = PostgresServer(Path(folder)).start()
        yield started
        started.stop()


@pytest.fixture
def own_lab(server: PostgresServer, tmp_path: Path, redis_server: RedisServer, archive: Path, bundle: Bundle) -> Lab:
    return Lab.open(Environment(tmp_path, server.url, redis_server.url), archive, bundle)


def test_postgresql_restarted_and_killed(
    own_lab: Lab, size: Size, server: PostgresServer, counted: Callable[..., None]
) -> None:
    """A restart lets nothing finish; a kill may come between a commit and its answer."""
    lab = own_lab
    calm = lab.without_faults()
    run = lab.submit("--all")
    rng = random.Random(5)
    restarts, kills = size.times(5, 1), size.times(20, 3)
    with lab.worker(HOSTILE, SLOW_READ_S="0.004"):
        for harm in [server.restart] * restarts + [server.kill] * kills:
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            if lab.progress(run).finished:
                lab.check(run, against=calm)
                run = lab.submit("--all")
                wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            time.sleep(rng.uniform(0, 0.2))
            harm()
            server.start()
        lab.finish(run)
    lab.check(run, against=calm)
    counted(5, "PostgreSQL restarted, and killed while chunks are committed", restarts=restarts, kills=kills,
            captures=lab.progress(run).submitted, quarantined=lab.progress(run).quarantined)  # fmt: skip


def test_a_worker_cut_off_for_longer_than_its_lease(lab: Lab, size: Size, counted: Callable[..., None]) -> None:
    """Stopped by SIGSTOP with a chunk in hand, and waking up when another worker has done it."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    refused = 0
    with lab.worker(HOSTILE, **SLOW) as sleeper:
        for _ in range(size.times(5, 1)):
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            child = sleeper.child
            assert child is not None
            os.kill(child, signal.SIGSTOP)
            time.sleep(LEASE_S + 1)
            with lab.worker():
                lab.finish(run)
            os.kill(child, signal.SIGCONT)
            refused += 1
            wait_until(partial(is_refused, lab, refused), what="the late write to be refused")
            lab.check(run, against=calm)
            run = lab.submit("--all")
        lab.finish(run)
    counted(6, "a worker cut off for longer than its lease", times=refused, late_writes=0)


def test_the_last_two_chunks_of_a_case_finished_at_the_same_instant(
    database: Engine, bundle: Bundle, size: Size, counted: Callable[..., None]
) -> None:
    from db.submission import submit

    cases = size.times(1000, 40)
    files = [one for case in range(cases) for one in found(f"P{case:04d}", "0.jpg", "1.jpg")]
    ids = submit(database, request(bundle, files, chunk_size=1)).chunk_ids
    engines = [open_engine(database.url.render_as_string(hide_password=False)) for _ in range(2)]
    barrier = Barrier(2)

    def finish(which: int) -> None:
        for case in range(cases):
            lease = claimed(engines[which], ids[2 * case + which])
            barrier.wait(60)
            finish_chunk(engines[which], lease, outcome(lease))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(finish, range(2)))
    with reading(database) as connection:
        aggregated = connection.execute(select(func.count()).where(Case.aggregated_at.is_not(None))).scalar_one()
        queued = connection.execute(select(func.count()).select_from(ReportQueue)).scalar_one()
    assert aggregated == queued == cases
    counted(8, "the last two chunks of a case finished at the same instant", cases=cases, results=aggregated,
            queue_rows=queued)  # fmt: skip


def is_refused(lab: Lab, times: int) -> bool:
    """Its lease is somebody else's; or it stood still within a transaction, which the server has ended."""
    said = lab.log
    return said.count("lease lost") + said.count("idle-in-transaction timeout") >= times


_together: Any = None
"""In a writer: the barrier at which it waits for all others."""


def _share(barrier: Any) -> None:
    global _together
    _together = barrier


def write_for(url: str, seconds: float) -> int:
    """Transactions that read and then write, for so long once all writers have started; returns how many."""
    engine, done = open_engine(url), 0
    _together.wait(120)
    until = time.time() + seconds
    while time.time() < until:
        with writing(engine) as connection:
            connection.execute(select(func.count()).select_from(Event)).scalar_one()
            connection.execute(insert(Event).values(kind="test", actor=str(os.getpid()), detail={}))
        done += 1
    return done


def test_eight_sqlite_writers_at_once(tmp_path: Path, size: Size, counted: Callable[..., None]) -> None:
    url = f"sqlite:///{tmp_path / 'busy.db'}"
    engine = open_engine(url)
    schema.upgrade(engine)
    seconds = size.times(180, 8)
    context = get_context("spawn")
    with ProcessPoolExecutor(8, context, initializer=_share, initargs=(context.Barrier(8),)) as pool:
        done = list(pool.map(write_for, [url] * 8, [seconds] * 8))
    with reading(engine) as connection:
        rows = connection.execute(select(func.count()).select_from(Event)).scalar_one()
    assert rows == sum(done)
    assert min(done) > 0, "nobody starves"
    counted(9, "eight writers at once", on="sqlite", seconds=seconds, transactions=rows,
            of_the_slowest_writer=min(done), database_is_locked=0)  # fmt: skip


@pytest.mark.parametrize("offset_s", [3600, -3600])
def test_one_worker_with_a_clock_an_hour_off_simulated(lab: Lab, offset_s: int, counted: Callable[..., None]) -> None:
    """Its Python's clock: what the operating system would say. Leases go by the database's."""
    run = lab.submit()
    with lab.worker(HOSTILE, **SLOW), lab.worker(HOSTILE, CLOCK_OFFSET_S=str(offset_s), **SLOW):
        now = lab.finish(run)
    lab.check(run)
    chunks = -(-now.submitted // 25)
    assert lab.attempts(run) == chunks, "no lease was taken from anybody"
    counted(13, f"the clock of one of two workers {offset_s:+d} s off", captures=now.submitted, leases_stolen=0)
