"""A client that has begun a transaction on SQLite and not ended it: who waits for it is told, and by whose doing."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contract.errors import DatabaseUnavailable, ExitCode
from db import engine as engines
from db.engine import open_engine, writing
from db.schema import upgrade
from db.write_lock import write_lock_sentence
from tests.support.commands import Environment

KEPT = "has had the database's write lock for more than"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "screening.db"


@pytest.fixture
def lite(file: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_S", 1)
    database = open_engine(f"sqlite:///{file}")
    upgrade(database)
    return database


@pytest.fixture
def client(lite: Engine, file: Path) -> Iterator[sqlite3.Connection]:
    """Of another program, as far as SQLite is concerned."""
    connection = sqlite3.connect(file, isolation_level=None)
    yield connection
    connection.close()


def test_who_keeps_the_lock_is_named_and_who_waits_for_it_told(
    lite: Engine, file: Path, client: sqlite3.Connection
) -> None:
    assert write_lock_sentence(lite) is None
    client.execute("BEGIN")
    client.execute("SELECT count(*) FROM run").fetchall()
    assert write_lock_sentence(lite) is None, "who only reads blocks nobody"
    client.execute("ROLLBACK")
    client.execute("BEGIN IMMEDIATE")
    sentence = write_lock_sentence(lite)
    assert sentence is not None
    assert f"another program (process {os.getpid()}, " in sentence
    assert "Nothing was written to it since" in sentence
    assert "end its transaction" in sentence
    with pytest.raises(DatabaseUnavailable, match=KEPT), writing(lite):
        raise AssertionError("it was given the lock")
    shown = Environment(file.parent, f"sqlite:///{file}", "redis://127.0.0.1:1/0").screen("status", "--json")
    assert (shown.code, shown.json) == (ExitCode.OK, [])
    assert KEPT in shown.err
    client.execute("ROLLBACK")
    assert write_lock_sentence(lite) is None


def test_a_server_has_no_such_lock(postgres_url: str) -> None:
    assert write_lock_sentence(open_engine(postgres_url)) is None
