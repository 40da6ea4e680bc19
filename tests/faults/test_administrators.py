"""Faults 22, 23, 25, 26 and 32: what administrators do to a database while workers work."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from contract.bundle import Bundle
from contract.errors import ExitCode
from db import schema
from db.engine import open_engine, writing
from db.recompute import bundle_policy, recompute
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, SLOW, Lab
from tests.integration.test_postgresql import set_default
from tests.support.commands import Environment
from tests.support.restores import backed_up_and_restored
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until


@pytest.fixture
def role(postgres_url: str) -> str:
    """A role that lives as long as the server of the tests, which they alone use."""
    return f"worker_{uuid.uuid4().hex[:12]}"


def done_to(database: Engine, *statements: str) -> None:
    with writing(database) as connection:
        for statement in statements:
            connection.execute(text(statement))


def upgraded(database: Engine) -> None:
    """To a newer release's schema. Like a migration it waits for the transactions of workers, and they for it."""
    is_server = database.dialect.name == "postgresql"
    lock = ["LOCK TABLE chunk, capture IN ACCESS EXCLUSIVE MODE"] if is_server else []
    done_to(database, *lock, "UPDATE alembic_version SET version_num = '9000'")


def test_a_role_without_a_right_for_a_while(
    postgres_url: str, role: str, tmp_path: Path, redis_server: RedisServer, archive: Path, bundle: Bundle, size: Size,
    counted: Callable[..., None],
) -> None:  # fmt: skip
    """The right to write outcomes, then the right to give a chunk back as well."""
    url = make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
    lab = Lab.open(Environment(tmp_path, postgres_url, redis_server.url), archive, bundle)
    calm = lab.without_faults()
    done_to(
        lab.database, f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )  # fmt: skip
    run = lab.submit("--all")
    seconds = size.times(80, 8)
    with lab.worker(HOSTILE, SCREEN_DATABASE_URL=url, **SLOW) as worker:
        for tables in ("capture", "capture, chunk"):
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            done_to(lab.database, f"REVOKE UPDATE ON {tables} FROM {role}")
            wait_until(lambda: "permission denied" in lab.log, 60, what="it to show")
            time.sleep(seconds)
            assert not lab.progress(run).finished
            done_to(lab.database, f"GRANT UPDATE ON {tables} TO {role}")
        now = lab.finish(run)
        assert worker.process.poll() is None
    done_to(lab.database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    lab.check(run, against=calm)
    assert (now.rejected, now.quarantined) == (0, 0)
    counted(22, "the worker's role without the right to write, twice", on="postgresql", seconds_each=seconds,
            captures=now.submitted, quarantined=now.quarantined)  # fmt: skip


def test_the_schema_upgraded_under_a_working_worker(lab: Lab, counted: Callable[..., None]) -> None:
    """To a schema that this release does not know; then this release's worker comes back."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    with lab.worker(HOSTILE, **SLOW) as worker:
        wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
        upgraded(lab.database)
        written = lab.progress(run).ended
        assert worker.process.wait(90) == ExitCode.USAGE
    said = lab.log
    assert f"the database has schema 9000 now, and this worker knows {schema.RELEASE}" in said
    assert "Traceback" not in said
    assert lab.progress(run).ended == written, "nothing is written to a schema that it does not know"
    done_to(lab.database, f"UPDATE alembic_version SET version_num = '{schema.RELEASE}'")
    with lab.worker():
        now = lab.finish(run)
    lab.check(run, against=calm)
    chunks = -(-now.submitted // 25)
    assert lab.attempts(run) == chunks, "what was given back is not counted"
    counted(23, "the schema upgraded under a working worker", captures=now.submitted, rejected=now.rejected,
            written_afterwards=0)  # fmt: skip


@pytest.mark.both_databases
def test_backups_restored_elsewhere_in_the_middle_of_a_run(
    lab: Lab, size: Size, request: pytest.FixtureRequest, counted: Callable[..., None]
) -> None:
    """Each goes on from there to the same results, and no message of the lost future is believed."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    admin = request.getfixturevalue("postgres") if lab.database.dialect.name == "postgresql" else None
    restored: list[Environment] = []
    with lab.worker(HOSTILE, SLOW_READ_S="0.15"):  # a backup takes some seconds
        for number in range(size.times(5, 1)):
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            restored.append(backed_up_and_restored(lab.environment, admin, f"restored_{number}"))
    with lab.worker():
        lab.finish(run)
    lab.check(run, against=calm)
    for environment in restored:
        again = replace(lab, environment=environment, database=open_engine(environment.database_url))
        lost = lab.progress(run).ended - again.progress(run).ended
        assert lost > 0, "the backup is of the middle of the run"
        with again.worker():
            again.finish(run)
        again.check(run, against=calm)
        again.database.dispose()
    counted(25, "backups restored elsewhere in the middle of a run", backups=len(restored),
            captures=lab.progress(run).submitted, results_that_differ=0)  # fmt: skip


def test_recompute_while_workers_finish_cases(
    postgres_url: str, tmp_path: Path, redis_server: RedisServer, archive: Path, bundle: Bundle, size: Size,
    counted: Callable[..., None],
) -> None:  # fmt: skip
    """Again and again, for one run that is finished and for the run in work."""
    environment = Environment(tmp_path, postgres_url, redis_server.url)
    lab = Lab.open(environment, archive, bundle)
    calm = lab.without_faults()
    run, recomputed, policy = lab.submit("--all"), 0, bundle_policy(lab.database, calm)
    with lab.worker(HOSTILE, **SLOW), lab.worker(HOSTILE, **SLOW):
        until = time.monotonic() + size.times(120, 10)
        while time.monotonic() < until:
            if lab.progress(run).finished:
                lab.check(run, against=calm)
                run = lab.submit("--all")
            for one in (calm, run):
                recompute(lab.database, one, policy, apply=True, actor="test")
                recomputed += 1
        now = lab.finish(run)
    lab.check(run, against=calm)
    with writing(lab.database) as connection:
        own = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        deadlocks = connection.execute(text(own)).scalar_one()
    assert deadlocks == 0
    assert now.quarantined == 0
    counted(26, "recompute --apply while two workers finish cases", on="postgresql", times=recomputed,
            deadlocks=deadlocks)  # fmt: skip


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_another_default_isolation(
    postgres_url: str, tmp_path: Path, redis_server: RedisServer, archive: Path, bundle: Bundle, isolation: str,
    counted: Callable[..., None],
) -> None:  # fmt: skip
    """Four submits at once, then two workers, in a database whose administrator chose another default."""
    lab = Lab.open(Environment(tmp_path, postgres_url, redis_server.url), archive, bundle)
    set_default(postgres_url, default_transaction_isolation=isolation)
    lab.database.dispose()
    with ThreadPoolExecutor(4) as pool:
        runs = set(pool.map(lambda _: lab.submit(), range(4)))
    assert len(runs) == 1, "three of the four find that nothing is new"
    (calm,) = runs
    with lab.worker(HOSTILE, **SLOW), lab.worker(HOSTILE, **SLOW):
        lab.finish(calm)
        run = lab.submit("--all")
        now = lab.finish(run)
    lab.check(run, against=calm)
    counted(32, f"{isolation} as the default isolation", on="postgresql", runs_of_four_submits=len(runs),
            captures=now.submitted, cases_without_a_result=now.cases - now.cases_finished)  # fmt: skip
