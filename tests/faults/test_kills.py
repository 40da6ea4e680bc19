"""Faults 1, 2, 14 and 18: processes that are killed or told to stop, and several submits at once."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import func, select

from db.engine import reading
from db.models import Capture, Case, Chunk, Run
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, SLOW, Lab, Worker
from tests.support.waiting import wait_until

WORKING_AGAIN_S = 120
CHUNK_SIZE = 64


def test_a_worker_killed_in_the_middle_of_chunks(
    lab: Lab, size: Size, tmp_path: Path, counted: Callable[..., None]
) -> None:
    """Child and parent in turn. A kill may cost one chunk of work, and no more.

    Chunk and batch are smaller than usual in the same proportion: decoding runs ahead by some batches.
    """
    calm = lab.without_faults()
    reads = tmp_path / "reads"
    reads.touch()
    runs = [lab.submit("--all", SCREEN_CHUNK_SIZE=str(CHUNK_SIZE))]
    kills, slowest, rng = 0, 0.0, random.Random(1)

    def start() -> Worker:
        return lab.start_worker(HOSTILE, READS_FILE=str(reads), SCREEN_BATCH_SIZE="4", **SLOW)

    worker = start()
    try:
        while kills < size.times(50, 4):
            began = time.monotonic()
            wait_until(lab.in_the_middle(runs[-1]), WORKING_AGAIN_S, what="the worker to be in the middle of a chunk")
            slowest = max(slowest, time.monotonic() - began)
            if lab.progress(runs[-1]).finished:
                runs.append(lab.submit("--all", SCREEN_CHUNK_SIZE=str(CHUNK_SIZE)))
                continue
            time.sleep(rng.uniform(0, 0.2))
            kills += 1
            if kills % 2:
                worker.kill_child()
            else:
                worker.kill()
                worker = start()
        lab.finish(runs[-1])
    finally:
        worker.kill()
    for run in runs:
        lab.check(run, against=calm)
    submitted = sum(lab.progress(run).submitted for run in runs)
    assert sum(lab.progress(run).quarantined for run in runs) == 0
    again = reads.stat().st_size - submitted
    assert again <= kills * CHUNK_SIZE
    counted(1, "SIGKILL of child, or of parent and child, in the middle of chunks", kills=kills, captures=submitted,
            quarantined=0, captures_read_again=again, chunk_size=CHUNK_SIZE,
            seconds_until_working_again_at_most=round(slowest, 1))  # fmt: skip


def test_submit_killed_and_run_again(lab: Lab, size: Size, counted: Callable[..., None]) -> None:
    """At random moments, from its start to after its end."""
    began = time.monotonic()
    expected = lab.progress(lab.submit("--all")).submitted
    takes = time.monotonic() - began
    kills, rng = size.times(20, 5), random.Random(2)
    for _ in range(kills):
        process = lab.environment.start("submit", lab.archive, "--bundle", lab.bundle.path, "--all", log="submit.log")
        time.sleep(rng.uniform(0.3, 1.05) * takes)
        process.kill()
        process.wait()
    with reading(lab.database) as connection:
        runs = connection.execute(select(Run.id, Run.submitted).order_by(Run.id)).all()
        for run, submitted in runs:
            rows = connection.execute(select(func.count()).where(Capture.run_id == run)).scalar_one()
            assert submitted == rows == expected, "a run is there with all its captures, or not at all"
        for table in (Case, Chunk):
            orphans = connection.execute(select(func.count()).where(table.run_id.not_in(select(Run.id)))).scalar_one()
            assert orphans == 0, table.__tablename__
    with lab.worker():
        for run, _ in runs:
            lab.finish(run)
            lab.check(run)
    counted(2, "SIGKILL of screen submit at random moments", kills=kills, captures=expected,
            runs_left_half_written=0, runs_complete=len(runs))  # fmt: skip


def test_four_submits_of_one_folder_at_once(lab: Lab, counted: Callable[..., None]) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = set(pool.map(lambda _: lab.submit(), range(4)))
    assert len(runs) == 1, "three of them find that nothing is new"
    (run,) = runs
    with lab.worker():
        now = lab.finish(run)
    lab.check(run)
    with reading(lab.database) as connection:
        captures = connection.execute(select(func.count()).select_from(Capture)).scalar_one()
    assert captures == now.submitted
    counted(14, "four submits of one folder at once", captures=now.submitted, rows=captures, runs=1)


def test_workers_told_to_stop_one_after_another(lab: Lab, size: Size, counted: Callable[..., None]) -> None:
    calm = lab.without_faults()
    run = lab.submit("--all")
    stops, slowest = size.times(50, 3), 0.0
    for _ in range(stops):
        with lab.worker(HOSTILE, **SLOW) as worker:
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            began = time.monotonic()
            assert worker.terminate() == 0
            slowest = max(slowest, time.monotonic() - began)
        assert lab.progress(run).chunks_leased == 0, "chunks are finished or go back"
        if lab.progress(run).finished:
            lab.check(run, against=calm)
            run = lab.submit("--all")
    attempts = lab.attempts(run)
    with lab.worker():
        now = lab.finish(run)
    lab.check(run, against=calm)
    assert now.quarantined == 0
    counted(18, "SIGTERM to workers, one after another", stops=stops, captures=now.submitted,
            seconds_to_stop_at_most=round(slowest, 1), attempts_before_the_last_worker=attempts)  # fmt: skip
