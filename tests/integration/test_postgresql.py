"""PostgreSQL as administrators set it up: other encodings, other defaults, a standby's answer, several hosts."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, select, text

from contract.bundle import Bundle
from contract.errors import DatabaseReadOnly, DatabaseUnsuitable, ExitCode
from db import schema
from db.chunks import heartbeat
from db.clock import db_now
from db.engine import NEEDED, open_engine, reading, writing
from db.results import finish_chunk
from db.run_report import read_run
from tests.support.commands import Environment
from tests.support.runs import claimed, outcome, submitted
from tests.support.servers import empty_database, free_port

Make = Callable[[str], str]

STRANGE = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "lc_numeric": "C",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_deferrable": "on",
    "statement_timeout": "45s",
    "lock_timeout": "45s",
    "idle_in_transaction_session_timeout": "45s",
    "synchronous_commit": "off",
    "client_encoding": "LATIN1",
    "search_path": '"$user", public, pg_catalog',
}
"""What a server, a database or a role may have as defaults."""


@pytest.fixture
def make_database(postgres: str) -> Iterator[Make]:
    """Creates a database with these words after CREATE DATABASE name; returns its URL."""
    with ExitStack() as databases:
        yield lambda options="": databases.enter_context(empty_database(postgres, f"test_{uuid.uuid4().hex}", options))


def set_default(url: str, **defaults: str) -> None:
    """Give the database these defaults, for every connection from now on."""
    admin = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for name, value in defaults.items():
            value = value if name == "search_path" else f"'{value}'"
            connection.execute(text(f"ALTER DATABASE {admin.url.database} SET {name} = {value}"))
    admin.dispose()


def shown(connection: Connection, name: str) -> str:
    value: str = connection.execute(text(f"SHOW {name}")).scalar_one()
    return value


def in_encoding(make_database: Make, encoding: str) -> str:
    return make_database(f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
def test_a_database_of_another_encoding_is_refused_and_left_empty(make_database: Make, encoding: str) -> None:
    engine = open_engine(in_encoding(make_database, encoding))
    for refuse in (schema.upgrade, schema.check):
        with pytest.raises(DatabaseUnsuitable, match=encoding):
            refuse(engine)


def test_the_encoding_is_asked_for_where_a_pooler_does_not_pass_it_on_faked(
    make_database: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = psycopg.ConnectionInfo.parameter_status
    monkeypatch.setattr(
        psycopg.ConnectionInfo,
        "parameter_status",
        lambda info, name: None if name == "server_encoding" else said(info, name),
    )
    with pytest.raises(DatabaseUnsuitable, match="LATIN1"):
        schema.check(open_engine(in_encoding(make_database, "LATIN1")))
    engine = open_engine(make_database(""))
    schema.upgrade(engine)
    assert schema.check(engine) == schema.head_revision()


@pytest.mark.parametrize("command", [("db", "upgrade"), ("db", "check"), ("status",), ("worker",)])
def test_every_command_names_the_command_that_makes_a_right_database(
    make_database: Make, tmp_path: Path, command: tuple[str, ...]
) -> None:
    url = in_encoding(make_database, "SQL_ASCII")
    done = Environment(tmp_path, url, "redis://127.0.0.1:1/0").screen(*command)
    assert done.code == ExitCode.USAGE, done.err
    assert "SQL_ASCII" in done.err
    assert "createdb --encoding=UTF8 --template=template0" in done.err
    assert "Traceback" not in done.err


def test_names_of_every_script_are_kept_where_client_and_cluster_prefer_another_encoding(
    make_database: Make, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_database("ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    set_default(url, client_encoding="SQL_ASCII")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = open_engine(url)
    schema.upgrade(engine)
    for name in ("Müller", "Иванов", "病人"):
        with writing(engine) as connection:
            connection.execute(
                text("INSERT INTO patient (root, external_id, pseudonymous) VALUES (:root, :name, FALSE)"),
                {"root": b"/a", "name": name},
            )
    with reading(engine) as connection:
        stored = connection.execute(text("SELECT external_id FROM patient ORDER BY id")).scalars().all()
    assert stored == ["Müller", "Иванов", "病人"]


def test_each_transaction_has_the_settings_that_it_needs_and_leaves_none(make_database: Make) -> None:
    url = make_database("")
    set_default(url, **STRANGE)
    engine = open_engine(url)
    with writing(engine) as connection:
        assert {name: shown(connection, name) for name in NEEDED} == NEEDED
        assert shown(connection, "transaction_isolation") == "read committed"
        assert shown(connection, "idle_in_transaction_session_timeout") == "20s"
        assert shown(connection, "synchronous_commit") == "on"
    with reading(engine) as connection:
        assert {name: shown(connection, name) for name in NEEDED} == NEEDED
        assert shown(connection, "transaction_isolation") == "repeatable read"
        assert shown(connection, "transaction_read_only") == "on"
        assert shown(connection, "idle_in_transaction_session_timeout") == "0"
    with engine.connect() as connection:  # the same connection of the pool, as a pooler would give it to others
        driver = connection.connection.driver_connection
        assert driver is not None
        rest = {name: driver.execute(f"SHOW {name}").fetchone()[0] for name in STRANGE if name != "client_encoding"}
        assert rest == {name: value for name, value in STRANGE.items() if name != "client_encoding"}


def test_a_stricter_commit_than_ours_stays(make_database: Make) -> None:
    url = make_database("")
    set_default(url, synchronous_commit="remote_apply")
    with writing(open_engine(url)) as connection:
        assert shown(connection, "synchronous_commit") == "remote_apply"


def results(engine: Engine, bundle: Bundle) -> list[object]:
    """What a run gives: every figure of every case, from submit to report."""
    for number, chunk_id in enumerate(submitted(engine, bundle, patients=3, captures=4).chunk_ids):
        lease = claimed(engine, chunk_id)
        heartbeat(engine, lease, 60)
        finish_chunk(engine, lease, outcome(lease, 1 / 3 + number / 7))
    report = read_run(engine, 1)
    assert all(case.verdict for case in report.cases)
    return [
        (case.patient, case.verdict, case.subtype, case.score, case.score_low, case.score_high) for case in report.cases
    ]


def test_a_run_gives_the_same_figures_under_strange_defaults(make_database: Make, bundle: Bundle) -> None:
    usual, strange = make_database(""), make_database("")
    set_default(strange, **STRANGE)
    figures = []
    for url in (usual, strange):
        engine = open_engine(url)
        schema.upgrade(engine)
        figures.append(results(engine, bundle))
        with reading(engine) as connection:
            now = connection.execute(select(db_now())).scalar_one()
        assert now.utcoffset().total_seconds() == 0
    assert figures[0] == figures[1]


def test_a_database_that_is_set_to_read_only_is_read_and_named_where_it_must_be_written(
    make_database: Make, bundle: Bundle, tmp_path: Path
) -> None:
    """An administrator's lock, for example while a server is replaced: what is written then would be lost."""
    url = make_database("")
    engine = open_engine(url)
    schema.upgrade(engine)
    submitted(engine, bundle, patients=1, captures=1)
    set_default(url, default_transaction_read_only="on")
    environment = Environment(tmp_path, url, "redis://127.0.0.1:1/0")
    assert environment.screen("status", 1).code == ExitCode.OK
    done = environment.screen("cancel", 1)
    assert done.code == ExitCode.UNAVAILABLE, done.err
    assert "default_transaction_read_only" in done.err
    with pytest.raises(DatabaseReadOnly), writing(open_engine(url)) as connection:
        connection.execute(text("DELETE FROM run"))
    lifted = environment.screen(
        "cancel", 1, SCREEN_DATABASE_URL=f"{url}&options=-c%20default_transaction_read_only%3Doff"
    )
    assert lifted.code == ExitCode.OK, lifted.err


def test_a_search_path_that_leads_nowhere_is_a_sentence(make_database: Make, tmp_path: Path) -> None:
    url = make_database("")
    set_default(url, search_path="nowhere")
    done = Environment(tmp_path, url, "redis://127.0.0.1:1/0").screen("db", "upgrade")
    assert done.code == ExitCode.USAGE, done.err
    assert "no schema" in done.err


def test_of_several_hosts_the_first_that_takes_writes_is_used(postgres_url: str) -> None:
    """The first is not there; the second is a socket's folder, which libpq takes as a host too."""
    url = make_url(postgres_url)
    folder = quote(str(url.query["host"]), safe="")
    engine = open_engine(f"postgresql://postgres@127.0.0.1:{free_port()},{folder}/{url.database}")
    schema.upgrade(engine)
    assert schema.check(engine) == schema.head_revision()
