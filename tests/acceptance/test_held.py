"""A chunk that ends every worker that finishes it: it is held, nobody is blamed for it, and all others are screened."""

from pathlib import Path

from sqlalchemy import select

from contract.bundle import Bundle
from contract.errors import ExitCode
from contract.states import EventKind
from db.engine import open_engine, reading
from db.fsck import fsck
from db.models import Capture, Chunk, Event
from db.progress import progress
from tests.acceptance.test_worker import QUICK, REPORTED, check_invariants, kill_group, worker
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.waiting import wait_until

PATIENTS = {"P0": "Benign", "P1": "Early", "P2": "Pre", "P3": "Pro"}


def test_a_chunk_whose_worker_dies_in_each_commit_is_held_and_the_run_goes_on_without_it(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    """P1 has two chunks. The worker claims ahead, so it decodes captures of others whenever it dies."""
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=8)
    assert environment.screen("db", "upgrade").code == ExitCode.OK
    database = open_engine(environment.database_url)
    submitted = environment.screen("submit", archive, "--bundle", bundle.path, SCREEN_CHUNK_SIZE="4", **REPORTED)
    assert submitted.code == ExitCode.OK, submitted.err
    hostile = {**QUICK, "LAST_FOR_PATIENT": "P1", "SLOW_READ_S": "0.02"}
    process = environment.start_celery("tests.faults.hostile_worker", log="worker.log", **hostile)
    try:
        watched = environment.screen("watch", 1)
    finally:
        kill_group(process)
    assert watched.code == ExitCode.SOME_ENDED_BADLY, watched.err
    sentence = "8 captures are held: worker after worker ended while it claimed or finished their chunk"
    assert sentence in watched.err
    assert "`screen resume 1`, or the same `screen run`, tries them again" in watched.err
    assert "submitted 32 = screened 24 + rejected 0 + quarantined 0 + 8 pending (8 of them held)" in watched.err
    (status,) = environment.screen("status", "--json").json
    assert (status["held"], status["pending"], status["cases_finished"]) == (8, 8, 3)
    assert sentence in status["trouble"]
    with reading(database) as connection:
        held = connection.execute(select(Chunk.deaths).where(Chunk.state == "held")).all()
        assert [row.deaths for row in held] == [3] * 2
        events = connection.execute(select(Event.kind, Event.detail).where(Event.kind != EventKind.SUBMITTED)).all()
        assert [(kind, detail["captures"], detail["deaths"]) for kind, detail in events] == [("held", 4, 3)] * 2
    assert all(finding.holds for finding in fsck(database, 1, grace_s=30))
    assert environment.screen("fsck", 1).code == ExitCode.OK
    # Released, to a worker that lives.
    assert environment.screen("resume", 1).code == ExitCode.OK
    with worker(environment):
        wait_until(lambda: progress(database, 1).finished, what="the run to finish")
    check_invariants(environment, 1)
    with reading(database) as connection:
        assert set(connection.execute(select(Capture.state)).scalars()) == {"screened"}
        kinds = connection.execute(select(Event.kind).order_by(Event.id)).scalars().all()
    assert kinds == ["submitted", "held", "held", "released"]


def test_who_waits_for_held_chunks_is_told_and_screen_run_tries_them_again(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=8)
    assert environment.screen("db", "upgrade").code == ExitCode.OK
    database = open_engine(environment.database_url)
    submitted = environment.screen("submit", archive, "--bundle", bundle.path, SCREEN_CHUNK_SIZE="8", **REPORTED)
    assert submitted.code == ExitCode.OK
    process = environment.start_celery("tests.faults.hostile_worker", log="worker.log", **QUICK, LAST_FOR_PATIENT="P1")
    try:
        wait_until(lambda: progress(database, 1).only_held, what="the chunk to be held")
    finally:
        kill_group(process)
    again = environment.screen("submit", archive, "--bundle", bundle.path, "--watch")
    assert again.code == ExitCode.SOME_ENDED_BADLY
    assert "8 captures are held" in again.err
    done = environment.screen("run", archive, "--bundle", bundle.path)
    assert done.code == ExitCode.OK, done.err
    assert progress(database, 1).finished
