"""What the database refuses is a sentence without SQL, with the exit code of its kind: numbers that it never gave, a
standby or a server that only reads, and errors that nobody expected.
"""

import re
import sqlite3

import click
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import open_engine
from db.results import finish_chunk
from db.schema import upgrade
from db.submission import submit
from producer import cli
from tests.support.commands import Environment
from tests.support.runs import claimed, found, outcome, request

NUMBER = "NUMBER"
"""Stands for the number; without it the number is the last word."""
LARGE = (3_000_000_000, 2**63 - 1, 10**30)
BY_NUMBER = [
    ("status",), ("watch",), ("report",), ("cancel",), ("resume",), ("retry",), ("retry", 1, "--case"), ("recompute",),
    ("compare-runs", 1), ("fsck",), ("fsck", 1, "--against"), ("review", "list", "--run"), ("review", "next", "--run"),
    ("review", "show"), ("review", "confirm"), ("review", "defer"), ("review", "release"), ("review", "export"),
    ("review", "comment", NUMBER, "x"), ("review", "second-opinion"), ("queue", "ack"), ("queue", "release"),
    ("pseudonyms",),
]  # fmt: skip
EMPTY_IS_FINE = {("review", "list", "--run"), ("review", "next", "--run"), ("pseudonyms",)}


@pytest.fixture
def one_run(environment: Environment, bundle: Bundle) -> Environment:
    database = open_engine(environment.database_url)
    upgrade(database)
    for chunk_id in submit(database, request(bundle, found("Anna-Secret", "0.jpg"))).chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease))
    database.dispose()
    return environment


def run(arguments: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli._exit_code([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def test_a_number_that_was_never_given_is_named(
    one_run: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (one_run.variables | {"SCREEN_REVIEWER": "anna"}).items():
        if name.startswith("SCREEN_"):
            monkeypatch.setenv(name, value)
    for words in BY_NUMBER:
        for number in LARGE:
            with_it = [number if word == NUMBER else word for word in words]
            code, err = run(tuple(with_it if NUMBER in words else [*words, number]), capsys)
            says = f"{' '.join(map(str, words))} {number}: exit {code}, {err}"
            assert code == ExitCode.USAGE or (words in EMPTY_IS_FINE and code == ExitCode.OK), says
            assert not re.search(r"SELECT|UPDATE|Traceback|parameters|this program failed|No such option", err), says


READS = [
    ("status",), ("status", 1), ("report", 1), ("fsck", 1), ("watch", 1), ("review", "list"), ("review", "show", 1),
    ("queue", "list"), ("db", "check"),
]  # fmt: skip
WRITES = [
    ("cancel", 1, "--yes"), ("resume", 1), ("retry", 1), ("recompute", 1, "--apply"),
    ("purge", "--older-than", "1d", "--yes"), ("review", "next"), ("review", "confirm", 1),
    ("review", "comment", 1, "x"), ("queue", "take"), ("queue", "ack", 1), ("queue", "release", 1),
    ("db", "restored"),
]  # fmt: skip


def test_a_server_that_only_reads_serves_who_reads_and_tells_who_writes(
    one_run: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A standby answers in the same way, with the same code (25006)."""
    url = make_url(one_run.database_url)
    if url.get_backend_name() == "sqlite":
        pytest.skip("a file has no standby")
    admin = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on"))
    admin.dispose()
    for name, value in (one_run.variables | {"SCREEN_REVIEWER": "anna"}).items():
        if name.startswith("SCREEN_"):
            monkeypatch.setenv(name, value)
    for words in READS:
        code, err = run(words, capsys)
        assert code == ExitCode.OK, f"{words}: exit {code}, {err}"
    for words in WRITES:
        code, err = run(words, capsys)
        assert not re.search(r"SELECT|UPDATE|Traceback", err), (words, err)
        assert code == ExitCode.UNAVAILABLE or "nothing" in err or "no capture" in err, (words, code, err)
        if code == ExitCode.UNAVAILABLE:
            assert "the database takes no writes now" in err, (words, err)


SQL = "INSERT INTO patient (external_id) VALUES (?)"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (IntegrityError(SQL, ("Anna-Secret",), sqlite3.IntegrityError("UNIQUE: Anna-Secret")), 70, "IntegrityError"),
        (ProgrammingError(SQL, (), sqlite3.OperationalError("no such table: run")), 2, "`screen db check`"),
        (DataError(SQL, (), OverflowError("Anna-Secret")), 2, "check the numbers"),
    ],
)
def test_an_error_that_nobody_expected_shows_no_statement_and_no_value(
    error: Exception, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setitem(cli.SECTIONS, "Broken", {"broken": cli.Lazy(f"{__name__}:broken", "")})
    monkeypatch.setattr("tests.acceptance.test_database_refuses.broken", broken, raising=False)
    assert cli._exit_code(["broken"]) == code
    err = capsys.readouterr().err
    assert says in err
    assert "Secret" not in err
    assert "INSERT" not in err
