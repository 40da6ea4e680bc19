"""Servers are real processes on free ports, started once per test session and stopped at its end.

`database` gives every test that asks for it a database of its own on SQLite and again on PostgreSQL, a copy of the one
that the real migrations made.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contract.bundle import Bundle
from contract.settings import get_settings
from db.engine import open_engine
from tests.support.bundles import colour_bundle
from tests.support.commands import Environment
from tests.support.schemas import MadeOnce
from tests.support.servers import RedisServer, empty_database, free_port, postgresql


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-faults", action="store_true", help="the tests in tests/faults at full size: an hour")


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SCREEN_") and name != "SCREEN_REAL_CAPTURES"]:
        monkeypatch.delenv(name)
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of the PostgreSQL server's maintenance database."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a Unix socket's path must be short
    try:
        with postgresql(folder) as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    with empty_database(postgres, f"test_{uuid.uuid4().hex}") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, SQLite and then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'screening.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """The schemas as the real migrations make them."""
    return MadeOnce(tmp_path_factory.mktemp("schema"))


@pytest.fixture
def database(database_url: str, made_once: MadeOnce) -> Iterator[Engine]:
    """A database with this release's schema, SQLite and then PostgreSQL."""
    engine = open_engine(database_url)
    made_once.give(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that tells captures apart by their colour."""
    return colour_bundle(tmp_path_factory.mktemp("bundle") / "colours.bundle")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, that it may kill."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, free_port()).start()
    yield server
    server.kill()


@pytest.fixture
def environment(tmp_path: Path, database_url: str, redis_server: RedisServer) -> Environment:
    """For commands as processes, on either database and a Redis of the test's own."""
    return Environment(tmp_path, database_url, redis_server.url)
