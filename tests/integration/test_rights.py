"""A role of the database that loses a right while its worker works: no capture is to blame, and none is quarantined."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy.exc import IntegrityError

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.outcomes import ChunkOutcome
from contract.settings import Settings
from db.chunks import sweep
from db.engine import reading, writing
from db.lease import Lease
from db.models import Chunk
from db.progress import progress
from db.results import finish_chunk
from db.submission import submit
from tests.support.archives import write_archive
from tests.support.runs import request
from worker.process import WorkerProcess

ROUNDS = 4
"""More than the attempts that a chunk has."""


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """PostgreSQL alone."""
    return postgres_url


@pytest.fixture
def role(database: Engine) -> Iterator[str]:
    name = f"worker_{uuid.uuid4().hex[:12]}"
    with writing(database) as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}"))
        connection.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"))
    yield name
    with writing(database) as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def process(postgres_url: str, role: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    url = make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
    settings = Settings(database_url=url, cache_dir=tmp_path / "cache", max_attempts=2, decoders=2, chunks_ahead=1)
    made = WorkerProcess(settings)
    yield made
    made.close()


@pytest.fixture
def run(database: Engine, bundle: Bundle, tmp_path: Path) -> int:
    found = walk_archive(write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=3))
    return submit(database, request(bundle, found.captures, chunk_size=8, root=found.root)).run_id or 0


def screen(database: Engine, process: WorkerProcess, rounds: int) -> None:
    for _ in range(rounds):
        for chunk_id in sweep(database, waiting_messages=0, republish_seconds=0):
            process.screen_chunk(chunk_id)


def chunk(database: Engine) -> tuple[str, int, str]:
    with reading(database) as connection:
        row = connection.execute(select(Chunk.state, Chunk.attempts, Chunk.last_error)).one()
    return row.state, row.attempts, row.last_error or ""


def test_a_right_that_is_missing_for_a_while_costs_no_attempt(
    database: Engine, role: str, process: WorkerProcess, run: int
) -> None:
    with writing(database) as connection:
        connection.execute(text(f"REVOKE UPDATE ON capture FROM {role}"))
    screen(database, process, ROUNDS)
    state, attempts, reason = chunk(database)
    assert (state, attempts) == ("pending", 0)
    assert "permission denied" in reason
    assert "ask its administrator for the right" in reason
    with writing(database) as connection:
        connection.execute(text(f"GRANT UPDATE ON capture TO {role}"))
    screen(database, process, 1)
    now = progress(database, run)
    assert (now.screened, now.quarantined, now.finished) == (3, 0, True)


def test_a_chunk_that_cannot_even_be_given_back_is_given_back_later(
    database: Engine, role: str, process: WorkerProcess, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the right is gone when the outcome is to be written, and back when the next lease has ended."""

    def without_right(of_worker: Engine, lease: Lease, outcome: ChunkOutcome) -> None:
        with writing(database) as connection:
            connection.execute(text(f"REVOKE UPDATE ON capture, chunk FROM {role}"))
        finish_chunk(of_worker, lease, outcome)

    monkeypatch.setattr("worker.chunk_end.finish_chunk", without_right)
    for _ in range(ROUNDS):
        screen(database, process, 1)
        assert chunk(database)[:2] == ("leased", 1)
        with writing(database) as connection:
            connection.execute(text(f"GRANT UPDATE ON capture, chunk TO {role}"))
            connection.execute(text("UPDATE chunk SET lease_until = now() - interval '1 minute'"))
    monkeypatch.undo()
    screen(database, process, 1)
    now = progress(database, run)
    assert (now.screened, now.quarantined, now.finished) == (3, 0, True)


def test_any_other_error_of_the_database_costs_no_attempt_either(
    database: Engine, process: WorkerProcess, run: int
) -> None:
    """A constraint that refuses every screened capture stands for what nobody foresaw."""
    rule = "ALTER TABLE capture ADD CONSTRAINT nothing CHECK (state <> 'screened')"
    with writing(database) as connection:
        connection.execute(text(rule))
    screen(database, process, ROUNDS)
    state, attempts, reason = chunk(database)
    assert (state, attempts) == ("pending", 0)
    assert f"({IntegrityError.__name__} 23514)" in reason
    with writing(database) as connection:
        connection.execute(text("ALTER TABLE capture DROP CONSTRAINT nothing"))
    screen(database, process, 1)
    now = progress(database, run)
    assert (now.screened, now.quarantined, now.finished) == (3, 0, True)
