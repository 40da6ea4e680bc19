"""Real workers on a real Redis, on SQLite and PostgreSQL: started, killed and started again."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from contract.bundle import Bundle
from db.engine import open_engine, reading
from db.models import Capture, Case, Chunk, ReportQueue
from db.progress import progress
from db.run_report import read_run
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

PATIENTS = {"P-ben": "Benign", "P-early": "Early", "P-pre": "Pre", "P-pro": "Pro"}
QUICK = {"SCREEN_LEASE_SECONDS": "3", "SCREEN_SWEEP_SECONDS": "0.5", "SCREEN_REPUBLISH_SECONDS": "2"}
REPORTED = {"SCREEN_REPORT_AT": "screening"}
"""Each result has its queue row at once, so that `check_invariants` can count them."""


@contextmanager
def worker(environment: Environment, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = environment.start("worker", log="worker.log", **{**QUICK, **variables})
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL parent and child, as a power cut would."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def is_finished(environment: Environment, run: int) -> Callable[[], bool]:
    database = open_engine(environment.database_url)
    return lambda: progress(database, run).finished


def check_invariants(environment: Environment, run: int) -> None:
    """submitted = screened + rejected + quarantined, and exactly one result and, of a run that was
    submitted with REPORTED, one queue row per case.
    """
    database = open_engine(environment.database_url)
    now = progress(database, run)
    assert now.finished
    assert now.accounted_for
    with reading(database) as connection:
        cases = connection.execute(select(func.count()).where(Case.run_id == run)).scalar_one()
        queued = connection.execute(select(ReportQueue.case_id).where(ReportQueue.run_id == run)).scalars().all()
        assert len(queued) == len(set(queued)) == cases
        paths = connection.execute(select(Capture.path).where(Capture.run_id == run)).scalars().all()
        assert len(paths) == len(set(paths)) == now.submitted


def submit(environment: Environment, archive: Path, bundle: Bundle, **variables: str) -> int:
    assert environment.screen("db", "upgrade").code == 0
    done = environment.screen("submit", archive, "--bundle", bundle.path, **{**REPORTED, **variables})
    assert done.code == 0, done.err
    return int(done.out)


def test_submit_worker_and_report_call_every_patient_by_colour(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=10)
    run = submit(environment, archive, bundle, SCREEN_CHUNK_SIZE="16")
    with worker(environment):
        watched = environment.screen("watch", run)
        assert watched.code == 0, watched.err
        assert "submitted 40 = screened 40 + rejected 0 + quarantined 0" in watched.err
    report = environment.screen("report", run, "--json").json
    called = {case["patient"]: (case["verdict"], case["subtype"]) for case in report["cases"]}
    assert called == {
        "P-ben": ("benign", None), "P-early": ("all", "Early"), "P-pre": ("all", "Pre"), "P-pro": ("all", "Pro"),
    }  # fmt: skip
    check_invariants(environment, run)


def test_a_worker_killed_in_the_middle_of_chunks_loses_and_doubles_nothing(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", {f"P{i:02d}": "Pro" for i in range(10)}, captures=20)
    run = submit(environment, archive, bundle, SCREEN_CHUNK_SIZE="10")
    database = open_engine(environment.database_url)

    def is_working(done_before: int) -> Callable[[], bool]:
        def look() -> bool:
            with reading(database) as connection:
                leased = connection.execute(select(func.count()).where(Chunk.state == "leased")).scalar_one()
            return (leased > 0 and progress(database, run).ended > done_before) or progress(database, run).finished

        return look

    for _ in range(3):
        before = progress(database, run).ended
        with worker(environment):
            wait_until(is_working(before), 60, what="the worker to be in the middle of a chunk")
    with worker(environment):
        wait_until(is_finished(environment, run), 90, what="the run to finish")
    check_invariants(environment, run)
    assert {case.verdict for case in read_run(database, run).cases} == {"all"}


def test_the_run_goes_on_when_redis_comes_back_empty(
    environment: Environment, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=25)
    run = submit(environment, archive, bundle, SCREEN_CHUNK_SIZE="10")
    redis_server.kill()
    redis_server.start()
    assert redis_server.client.dbsize() == 0
    with worker(environment):
        wait_until(is_finished(environment, run), 60, what="the run to finish")
    check_invariants(environment, run)


def test_submit_without_redis_keeps_the_run_and_a_worker_finds_it_later(
    environment: Environment, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=5)
    environment.screen("db", "upgrade")
    redis_server.kill()
    done = environment.screen("submit", archive, "--bundle", bundle.path, **REPORTED)
    assert done.code == 3
    assert "SCREEN_REDIS_URL" in done.err
    assert "do not submit again" in done.err
    run = int(done.out)
    redis_server.start()
    with worker(environment):
        wait_until(is_finished(environment, run), 60, what="the run to finish")
    check_invariants(environment, run)


def test_term_ends_a_worker_after_its_chunk(environment: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=25)
    run = submit(environment, archive, bundle, SCREEN_CHUNK_SIZE="10")
    database = open_engine(environment.database_url)
    with worker(environment) as process:
        wait_until(lambda: progress(database, run).ended > 0, 60, what="a first chunk")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    with reading(database) as connection:
        assert connection.execute(select(func.count()).where(Chunk.state == "leased")).scalar() == 0


def test_what_travels_over_redis_is_a_chunk_id_alone(
    environment: Environment, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    archive = write_archive(tmp_path / "archive", {"Canary-Patient": "Pro"}, captures=3)
    submit(environment, archive, bundle)
    (message,) = redis_server.client.lrange("chunks", 0, -1)
    assert b"Canary" not in message
    assert str(archive).encode() not in message
    with worker(environment):
        wait_until(is_finished(environment, 1), 60)
    assert "Canary" not in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_damaged_bundle_pauses_the_run_and_blames_no_capture(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, copy)
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=5)
    assert environment.screen("db", "upgrade").code == 0
    run = int(environment.screen("submit", archive, "--bundle", copy, **REPORTED).out)
    model = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    database = open_engine(environment.database_url)
    with worker(environment, SCREEN_MAX_ATTEMPTS="1"):
        log = tmp_path / "worker.log"
        wait_until(lambda: log.read_text().count("does not match its digest") >= 3, 60, what="three refusals")
        assert progress(database, run).ended == 0
        assert "model.onnx does not match its digest" in environment.screen("status").out.replace("\n", " ")
        (copy / "model.onnx").write_bytes(model)
        wait_until(is_finished(environment, run), 60, what="the run to finish")
    check_invariants(environment, run)
    assert progress(database, run).screened == 20
