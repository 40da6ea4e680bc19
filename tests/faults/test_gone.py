"""Faults 30, 31, 33 and 34: chunks that end each worker, a machine that is gone, a cache of two, a lock that stays."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import reading
from db.models import Chunk
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, QUICK, SLOW, Lab
from tests.integration.test_clock_back import times_were
from tests.support.commands import Environment
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until


def test_a_child_that_dies_in_each_commit_of_one_patients_chunks(lab: Lab, counted: Callable[..., None]) -> None:
    calm = lab.without_faults()
    run = lab.submit("--all")
    with lab.worker(HOSTILE, LAST_FOR_PATIENT="P003"):
        wait_until(lambda: lab.progress(run).only_held, 240, what="all but the held chunks to be done")
    now = lab.progress(run)
    with reading(lab.database) as connection:
        held = connection.execute(select(Chunk.deaths, Chunk.captures).where(Chunk.state == "held")).all()
        alone = connection.execute(select(Chunk.id).where(Chunk.run_id == run, Chunk.captures == 1)).all()
    assert (now.rejected, now.quarantined, len(alone)) == (0, 0, 0), "nobody is blamed"
    assert lab.environment.screen("fsck", run).code == ExitCode.OK
    assert lab.environment.screen("resume", run).code == ExitCode.OK
    with lab.worker():
        lab.finish(run)
    lab.check(run, against=calm)
    counted(30, "a worker that dies in each commit of one patient's chunks", deaths=sum(row.deaths for row in held),
            captures_held=sum(row.captures for row in held), captures=now.submitted, quarantined=0)  # fmt: skip


def test_the_machine_gone_redis_emptied_and_the_clock_an_hour_back_simulated(
    lab: Lab, redis_server: RedisServer, size: Size, counted: Callable[..., None]
) -> None:
    """What is stored of times lies an hour ahead then."""
    calm = lab.without_faults()
    run, slowest, times = lab.submit("--all"), 0.0, size.times(5, 1)
    for _ in range(times):
        with lab.worker(HOSTILE, **SLOW) as worker:
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            worker.kill()
        redis_server.client.flushall()
        times_were(lab.database, "chunk", "lease_until", "published_at")
        began, before = time.monotonic(), lab.progress(run).ended
        with lab.worker(HOSTILE, **SLOW):
            wait_until(lambda before=before: lab.progress(run).ended > before, 120, what="work to go on")
            slowest = max(slowest, time.monotonic() - began)
    with lab.worker():
        now = lab.finish(run)
    lab.check(run, against=calm)
    counted(31, "the machine gone, Redis emptied, the clock an hour back, simulated", times=times,
            captures=now.submitted, seconds_until_work_went_on_at_most=round(slowest, 1))  # fmt: skip


def test_two_databases_with_one_cache_folder(
    lab: Lab, tmp_path: Path, archive: Path, bundle: Bundle, size: Size, counted: Callable[..., None]
) -> None:
    """Their runs, chunks and captures have the same numbers, and their workers are killed in turn."""
    beside = Environment(tmp_path / "beside", f"sqlite:///{tmp_path}/beside.db", lab.environment.redis_url[:-1] + "1")
    beside.folder.mkdir()
    cache = ("SCREEN_CACHE_DIR", str(tmp_path / "shared"))
    labs = [replace(lab, environment=replace(lab.environment, more=(cache,))),
            Lab.open(replace(beside, more=(cache,)), archive, bundle)]  # fmt: skip
    runs = [one.submit("--all") for one in labs]
    kills = size.times(20, 4)
    with labs[0].worker(HOSTILE, **SLOW) as first, labs[1].worker(HOSTILE, **SLOW) as second:
        for number in range(kills):
            which = number % 2
            wait_until(labs[which].in_the_middle(runs[which]), what="the worker to be in the middle of a chunk")
            (first, second)[which].kill_child()
        for one, run in zip(labs, runs, strict=True):
            assert one.finish(run).quarantined == 0
    for one, run in zip(labs, runs, strict=True):
        one.check(run)
    counted(33, "two databases with one cache folder, their workers killed in turn", kills=kills,
            captures=2 * labs[0].progress(runs[0]).submitted, quarantined=0)  # fmt: skip


@pytest.fixture
def lite(tmp_path: Path, redis_server: RedisServer, archive: Path, bundle: Bundle) -> Lab:
    return Lab.open(Environment(tmp_path, f"sqlite:///{tmp_path}/screening.db", redis_server.url), archive, bundle)


def test_a_clients_open_transaction_on_sqlite(lite: Lab, size: Size, counted: Callable[..., None]) -> None:
    """As a database browser with unsaved changes keeps it."""
    calm = lite.without_faults()
    run, seconds = lite.submit("--all"), size.times(120, 12)
    with lite.worker(HOSTILE, **SLOW) as worker:
        wait_until(lite.in_the_middle(run), what="the worker to be in the middle of a chunk")
        with closing(sqlite3.connect(lite.environment.folder / "screening.db", isolation_level=None)) as client:
            client.execute("BEGIN IMMEDIATE")
            told = lite.environment.screen("status", run, **QUICK)
            time.sleep(seconds)
            assert not lite.progress(run).finished
            client.execute("ROLLBACK")
        now = lite.finish(run)
        assert worker.process.poll() is None
    assert "write lock" in told.err + told.out
    lite.check(run, against=calm)
    assert (now.rejected, now.quarantined) == (0, 0)
    counted(34, "a client's open transaction", on="sqlite", seconds=seconds, captures=now.submitted,
            quarantined=now.quarantined)  # fmt: skip
