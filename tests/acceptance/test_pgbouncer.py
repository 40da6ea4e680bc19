"""PgBouncer before PostgreSQL: in transaction mode each transaction may run on a connection that others have used."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import open_engine
from db.progress import progress
from tests.acceptance.test_worker import REPORTED, check_invariants, worker
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.servers import PGBOUNCER, RedisServer, pgbouncer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed (apt-get install pgbouncer)")

PATIENTS = {f"P{number}": label for number, label in enumerate(("Benign", "Early", "Pre", "Pro") * 2)}


@pytest.fixture
def pooled(
    request: pytest.FixtureRequest, postgres: str, postgres_url: str, tmp_path: Path, redis_server: RedisServer
) -> Iterator[Environment]:
    """For commands that reach their database through the pooler, in the mode that the test names."""
    with pgbouncer(postgres, pool_mode=getattr(request, "param", "transaction")) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/{make_url(postgres_url).database}"
        yield Environment(tmp_path, url, redis_server.url)


def settings_of(connection: psycopg.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())


def left_behind(connection: psycopg.Connection) -> dict[str, int]:
    """What belongs to a session and should have ended with a transaction."""
    kinds = {
        "prepared": "pg_prepared_statements",
        "cursors": "pg_cursors WHERE name <> ''",
        "advisory locks": "pg_locks WHERE locktype = 'advisory'",
        "channels": "pg_listening_channels()",
        "temporary tables": "pg_class WHERE relpersistence = 't'",
    }
    counts = {name: connection.execute(f"SELECT count(*) FROM {rows}").fetchone() for name, rows in kinds.items()}
    return {name: count[0] for name, count in counts.items() if count and count[0]}


def test_workers_through_the_pooler_finish_a_run_and_leave_nothing_set(
    pooled: Environment, postgres_url: str, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=25)
    assert pooled.screen("db", "upgrade").code == ExitCode.OK
    submitted = pooled.screen("submit", archive, "--bundle", bundle.path, SCREEN_CHUNK_SIZE="5", **REPORTED)
    assert submitted.code == ExitCode.OK, submitted.err
    database = open_engine(pooled.database_url)
    with worker(pooled), worker(pooled):
        wait_until(lambda: progress(database, 1).finished, 120, what="the run to finish")
    check_invariants(pooled, 1)
    report = pooled.screen("report", 1, "--json")
    assert report.code == ExitCode.OK, report.err
    assert {case["patient"]: case["subtype"] or "Benign" for case in report.json["cases"]} == PATIENTS
    assert report.json["run"]["screened"] == 200
    log = (tmp_path / "worker.log").read_text()
    for trouble in ("prepared statement", "given back", "Traceback"):
        assert trouble not in log

    with closing(psycopg.connect(postgres_url)) as direct:
        usual = settings_of(direct)
    with ExitStack() as stack:  # the first stays in its transaction, so the second gets the other connection
        clients = [stack.enter_context(closing(psycopg.connect(pooled.database_url))) for _ in range(2)]
        found = [settings_of(client) for client in clients]
        assert len({client.execute("SELECT pg_backend_pid()").fetchone() for client in clients}) == 2
        for client, settings in zip(clients, found, strict=True):
            assert {name: settings[name] for name, value in usual.items() if settings[name] != value} == {}
            assert left_behind(client) == {}


def test_reviews_and_the_reporting_queue_work_through_the_pooler(
    pooled: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=3)
    done = pooled.screen("run", archive, "--bundle", bundle.path)
    assert done.code == ExitCode.OK, done.err
    for command in (
        ("review", "next", "--reviewer", "anna"), ("review", "confirm", 1, "--reviewer", "anna"),
        ("queue", "take", "--json"), ("queue", "ack", 1), ("fsck", 1), ("submit", archive, "--bundle", bundle.path),
    ):  # fmt: skip
        done = pooled.screen(*command)
        assert done.code == ExitCode.OK, done.err


@pytest.mark.parametrize("pooled", ["statement"], indirect=True)
def test_a_pooler_that_forbids_transactions_is_named(pooled: Environment) -> None:
    done = pooled.screen("db", "upgrade")
    assert done.code == ExitCode.UNAVAILABLE
    assert "statement pooling" in done.err
    assert "Traceback" not in done.err
