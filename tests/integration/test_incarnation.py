"""Numbers that other systems see are given once, and a restored backup is another database."""

import base64
import json
import re
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, text, update

from contract.bundle import Bundle
from contract.messages import QUEUE
from contract.settings import Settings
from db import schema
from db.chunks import attempts_so_far, claim, mark_published, sweep
from db.clock import db_now
from db.columns import Base
from db.engine import migrating, open_engine, reading, writing
from db.fsck import fsck
from db.incarnation import incarnation, restored
from db.models import Capture, Case, Chunk, Event, ReportQueue, Review, Run
from db.progress import progress
from db.purge import purge
from db.report_queue import acknowledge, take, waiting_rows
from db.results import finish_chunk
from db.review import ReviewAction, Reviewer, act
from db.run_report import read_run
from db.submission import submit
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.earlier import RUN, write_at
from tests.support.runs import claimed, found, outcome, request, submitted
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from worker.process import WorkerProcess

NUMBERED = (Run, Case, Chunk, Capture, Review, ReportQueue)
OTHER = "00000000-0000-4000-8000-000000000000"


def numbers(database: Engine) -> dict[str, set[int]]:
    with reading(database) as connection:
        return {one.__tablename__: set(connection.execute(select(one.id)).scalars()) for one in NUMBERED}


def finished(database: Engine, bundle: Bundle) -> int:
    """A run of one patient, screened and signed."""
    run = submit(database, request(bundle, found("P1", "1.jpg", "2.jpg"), everything=True))
    assert run.run_id is not None
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease))
    with reading(database) as connection:
        case = connection.execute(select(Case.id).where(Case.run_id == run.run_id)).scalar_one()
    act(database, case, ReviewAction.CONFIRM, Reviewer("anna", "1.2.3"))
    return run.run_id


def purged(database: Engine, run: int) -> None:
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == run).values(created_at=db_now(-800 * 86_400)))
    assert purge(database, run, 365, force=True, actor="anna") is not None


def test_no_number_of_a_purged_run_is_given_again(database: Engine, bundle: Bundle) -> None:
    finished(database, bundle)
    newest = finished(database, bundle)
    before = numbers(database)
    purged(database, newest)
    finished(database, bundle)
    for name, given in numbers(database).items():
        assert given - before[name], name
        assert min(given - before[name]) > max(before[name]), name


def test_on_sqlite_every_table_that_should_gives_its_numbers_once(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/x.db")
    schema.upgrade(engine)
    with reading(engine) as connection:
        tables = dict(connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'table'")).all())
    once = {name for name, sql in tables.items() if re.search(r"PRIMARY KEY\b.*\bAUTOINCREMENT", sql)}
    assert once == {
        name for name, one in Base.metadata.tables.items() if one.dialect_options["sqlite"]["autoincrement"]
    }
    assert once == {one.__tablename__ for one in NUMBERED}


def test_an_upgrade_keeps_all_rows_and_goes_on_after_the_numbers_that_the_audit_names(database_url: str) -> None:
    engine = open_engine(database_url)
    with migrating(engine) as connection:
        write_at(connection, "0008", RUN)
        connection.execute(
            text("INSERT INTO event (kind, run_id, case_id, capture_id, actor, detail)"
                 " VALUES ('purged', 7, 70, 700, 'anna', '{}')")
        )  # fmt: skip
        connection.execute(text("INSERT INTO report_queue (run_id, case_id, cause) VALUES (1, 1, 'screened')"))
    schema.upgrade(engine)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT patient, verdict, score FROM case_results")).one() == ("P1", "all", 0.9)
        (row,) = connection.execute(text("SELECT database, queue_id FROM reporting_queue")).all()
        assert row[0] == incarnation(engine)
        if engine.dialect.name == "sqlite":
            last = dict(connection.execute(text("SELECT name, seq FROM sqlite_sequence")).all())
            assert last == {"run": 7, "case": 70, "capture": 700, "chunk": 0, "review": 0, "report_queue": row[1]}


def test_a_restored_database_is_another_one_for_all_who_see_its_numbers(database: Engine, bundle: Bundle) -> None:
    run = finished(database, bundle)
    before, ids = incarnation(database), {row.queue_id for row in waiting_rows(database, limit=9)}
    assert {row.database for row in waiting_rows(database, limit=9)} == {before}
    after = restored(database, actor="anna")
    assert after != before
    assert str(UUID(after)) == after == incarnation(database)
    assert {(row.database, row.queue_id) for row in waiting_rows(database, limit=9)} == {(after, id_) for id_ in ids}
    assert read_run(database, run).database == after, "FHIR ids are made from it"
    with reading(database) as connection:
        event = connection.execute(
            select(Event.kind, Event.actor, Event.run_id, Event.detail).order_by(Event.id.desc())
        )
        assert event.first() == ("restored", "anna", None, {"database": after, "before": before})


def test_chunks_that_wait_are_sent_again_at_once_after_a_restore(database: Engine, bundle: Bundle) -> None:
    ids = submitted(database, bundle, 2, 4).chunk_ids
    mark_published(database, ids)
    assert sweep(database, waiting_messages=9, republish_seconds=600) == []
    restored(database, actor="anna")
    assert sorted(sweep(database, waiting_messages=9, republish_seconds=600)) == ids


def test_a_message_of_another_database_claims_nothing_and_one_of_an_earlier_release_works(
    database: Engine, bundle: Bundle
) -> None:
    first, second = submitted(database, bundle, 2, 4).chunk_ids
    uuid = incarnation(database)
    how = {"worker": "w", "lease_seconds": 60.0, "max_attempts": 3}
    assert attempts_so_far(database, first, OTHER) is None
    assert claim(database, first, incarnation=OTHER, **how) is None  # type: ignore[arg-type]
    with reading(database) as connection:
        assert connection.execute(select(func.sum(Chunk.attempts))).scalar_one() == 0
    assert attempts_so_far(database, first, uuid) == 0
    assert claim(database, first, incarnation=uuid, **how) is not None  # type: ignore[arg-type]
    assert claim(database, second, **how) is not None  # type: ignore[arg-type]


def test_a_worker_drops_a_message_of_another_database(database: Engine, bundle: Bundle, tmp_path: Path) -> None:
    (chunk,) = submitted(database, bundle, 1, 2).chunk_ids
    url = database.url.render_as_string(hide_password=False)
    process = WorkerProcess(Settings(database_url=url, cache_dir=tmp_path / "cache"))
    try:
        process.screen_chunk(chunk, OTHER)
    finally:
        process.close()
    assert claimed(database, chunk).attempt == 1, "it was never claimed before"


def test_messages_of_before_a_restore_are_dropped_and_the_run_goes_on(
    environment: Environment, redis_server: RedisServer, bundle: Bundle, tmp_path: Path
) -> None:
    """As commands and a worker, which sends the chunks again itself."""
    assert environment.screen("db", "upgrade").code == 0
    database = open_engine(environment.database_url)
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=4)
    assert environment.screen("submit", archive, "--bundle", bundle.path).code == 0
    before = incarnation(database)
    assert [sent_by(message) for message in redis_server.client.lrange(QUEUE, 0, -1)] == [before]
    done = environment.screen("db", "restored")
    assert (done.code, incarnation(database) in done.err) == (0, True)
    worker = environment.start("worker", log="worker.log", SCREEN_SWEEP_SECONDS="0.5")
    try:
        wait_until(lambda: progress(database, 1).finished, 120, what="the result")
    finally:
        worker.terminate()
        worker.wait(60)
    assert all(finding.holds for finding in fsck(database, 1, grace_s=0))
    with reading(database) as connection:
        assert connection.execute(select(Chunk.attempts)).scalars().all() == [1]
    database.dispose()


def sent_by(message: bytes) -> str:
    """The database that a message in Redis names."""
    named: dict[str, str] = json.loads(base64.b64decode(json.loads(message)["body"]))[1]
    return named["database"]


@pytest.mark.parametrize("output", ["json", "csv"])
def test_queue_rows_name_their_database(environment: Environment, bundle: Bundle, output: str) -> None:
    database = open_engine(environment.database_url)
    schema.upgrade(database)
    finished(database, bundle)
    acknowledge(database, "x", [row.queue_id for row in take(database, "x", limit=1, hold_s=60)])
    done = environment.screen("queue", "list", f"--{output}")
    if output == "json":
        assert {row["database"] for row in done.json} == {incarnation(database)}
    else:
        head, *rows = done.out.splitlines()
        assert head.split(",")[-1] == "database"
        assert {row.split(",")[-1] for row in rows} == {incarnation(database)}
    database.dispose()
