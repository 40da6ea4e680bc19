"""A worker that nobody stopped before `screen db upgrade`."""

import os
import signal
from pathlib import Path

from sqlalchemy import Engine, select, text

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.errors import ExitCode
from db import schema
from db.engine import open_engine, reading, writing
from db.fsck import fsck
from db.models import Chunk
from db.progress import progress
from db.submission import submit
from producer.publish import publish_chunks
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.runs import request
from tests.support.waiting import wait_until

QUICK = {"SCREEN_CHUNK_SIZE": "2", "SCREEN_SWEEP_SECONDS": "0.5", "SCREEN_REPUBLISH_SECONDS": "2",
         "SCREEN_REPORT_AT": "screening"}  # fmt: skip


def upgraded_to(database: Engine, version: str) -> None:
    """All that a newer release's upgrade is to a worker of this one."""
    with writing(database) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def chunks(database: Engine) -> list[tuple[str, int]]:
    with reading(database) as connection:
        return [tuple(row) for row in connection.execute(select(Chunk.state, Chunk.attempts).order_by(Chunk.id))]


def test_a_plain_celery_worker_ends_with_a_sentence_when_the_database_is_upgraded_while_it_waits(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    """Then, as by a command of the newer release, a run is stored. In the middle of a chunk: tests/faults."""
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=10)
    assert environment.screen("db", "upgrade").code == 0
    database = open_engine(environment.database_url)
    log = tmp_path / "worker.log"
    worker = environment.start_celery("worker.app", log=log.name, **{**QUICK, "SCREEN_SWEEP_SECONDS": "8"})
    try:
        wait_until(lambda: " ready" in log.read_text(), 90, what="the worker to wait")
        upgraded_to(database, "9000")
        submit_of_9000(environment, database, archive, bundle)
        assert worker.wait(90) == ExitCode.USAGE
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    said = log.read_text()
    assert f"the database has schema 9000 now, and this worker knows {schema.RELEASE}" in said
    assert "Traceback" not in said
    assert set(chunks(database)) == {("pending", 0)}, "given back, and not counted"
    upgraded_to(database, schema.RELEASE)
    again = environment.start("worker", log="again.log", **QUICK)
    try:
        wait_until(lambda: progress(database, 1).finished, 90, what="the run to go on")
    finally:
        again.terminate()
        again.wait(60)
    assert progress(database, 1).screened == 20
    assert all(finding.holds for finding in fsck(database, 1, grace_s=0))
    database.dispose()


def submit_of_9000(environment: Environment, database: Engine, archive: Path, bundle: Bundle) -> None:
    """A run whose messages are on their way: its submit does not look at the schema."""
    found = walk_archive(archive)
    run = submit(database, request(bundle, found.captures, chunk_size=2, root=found.root))
    publish_chunks(environment.redis_url, database, run.chunk_ids)
