"""`screen db backup` and `restore`: what is restored is whole, and another database.

tests/faults takes backups in the middle of a run, on both databases.
"""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from contract.bundle import Bundle
from db import schema
from db.engine import migrating, open_engine, reading
from db.incarnation import incarnation
from db.models import Capture, Event
from tests.support.commands import Environment
from tests.support.earlier import RUN, write_at
from tests.support.runs import claimed, submitted


@pytest.fixture
def lite(tmp_path: Path, bundle: Bundle) -> Environment:
    """A SQLite database with a run of two chunks."""
    environment = Environment(tmp_path, f"sqlite:///{tmp_path}/screening.db", "")
    engine = open_engine(environment.database_url)
    schema.upgrade(engine)
    submitted(engine, bundle, 2, 4)
    engine.dispose()
    return environment


def backed_up(lite: Environment, name: str = "backup.db") -> Path:
    done = lite.screen("db", "backup", name)
    assert (done.code, done.out) == (0, ""), done.err
    return lite.folder / name


def captures(lite: Environment) -> int:
    engine = open_engine(lite.database_url)
    try:
        with reading(engine) as connection:
            return connection.execute(select(func.count()).select_from(Capture)).scalar_one()
    finally:
        engine.dispose()


def test_a_restore_brings_back_what_the_backup_holds_as_another_database(lite: Environment, bundle: Bundle) -> None:
    file = backed_up(lite)
    assert sorted(one.name for one in lite.folder.glob("*backup*")) == ["backup.db"], "it is complete alone"
    engine = open_engine(lite.database_url)
    before = incarnation(engine)
    submitted(engine, bundle, 3, 5)
    engine.dispose()
    assert captures(lite) == 8 + 15
    done = lite.screen("db", "restore", file)
    assert done.code == 0, done.err
    assert captures(lite) == 8
    after = incarnation(engine)
    assert after in done.err
    assert after != before
    with reading(engine) as connection:
        kinds = connection.execute(select(Event.kind, Event.detail).order_by(Event.id.desc())).all()
    assert tuple(kinds[0]) == ("restored", {"database": after, "before": before})
    assert lite.screen("db", "check").code == 0
    engine.dispose()


def test_what_a_killed_process_left_beside_the_database_harms_no_restore(lite: Environment) -> None:
    """A copy over the file would leave its write-ahead log there, of another database."""
    file = backed_up(lite)
    program = (
        f"import sqlite3, os; c = sqlite3.connect({str(lite.folder / 'screening.db')!r});"
        "c.execute('DELETE FROM capture'); c.commit(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert (lite.folder / "screening.db-wal").stat().st_size > 0
    assert lite.screen("db", "restore", file).code == 0
    assert captures(lite) == 8
    with closing(sqlite3.connect(lite.folder / "screening.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_database_that_another_process_has_open_is_not_replaced(lite: Environment, bundle: Bundle) -> None:
    file = backed_up(lite)
    engine = open_engine(lite.database_url)
    (first,) = submitted(engine, bundle, 3, 4).chunk_ids
    claimed(engine, first)  # its connection stays open in the pool, as a worker's does
    done = lite.screen("db", "restore", file)
    assert done.code == 3
    assert "another process has the database" in done.err
    assert captures(lite) == 12
    engine.dispose()
    assert lite.screen("db", "restore", file).code == 0
    assert captures(lite) == 8


def test_a_backup_of_an_earlier_schema_is_upgraded(lite: Environment) -> None:
    old = open_engine(f"sqlite:///{lite.folder}/old.db")
    with migrating(old) as connection:
        write_at(connection, "0008", RUN)
    old.dispose()
    done = replace(lite, database_url=f"sqlite:///{lite.folder}/old.db").screen("db", "backup", "backup.db")
    assert (done.code, "schema 0008" in done.err) == (0, True)
    assert lite.screen("db", "restore", "backup.db").code == 0
    assert lite.screen("db", "check").code == 0
    assert captures(lite) == 1


def spoilt(lite: Environment, how: str) -> str:
    """The name of a file that is no backup."""
    file = lite.folder / "file"
    if how == "text":
        file.write_text("no database at all, but long enough to be looked at " * 100)
    elif how == "another":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE t (x)")
    elif how == "newer":
        backed_up(lite, "file")
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.commit()
    elif how == "torn":
        backed_up(lite, "file")
        with file.open("r+b") as stream:
            stream.seek(4096 * 6)
            stream.write(b"\xaa" * 4096 * 20)
    elif how == "itself":
        return "screening.db"
    return "file"


@pytest.mark.parametrize(
    ("how", "why"),
    [("missing", "there is no file"), ("text", "not a database"), ("another", "no database of slide-screen"),
     ("newer", "newer one"), ("torn", "damaged"), ("itself", "the database itself")],
)  # fmt: skip
def test_what_is_no_backup_is_refused_and_the_database_left_alone(lite: Environment, how: str, why: str) -> None:
    name = spoilt(lite, how)
    engine = open_engine(lite.database_url)
    before = incarnation(engine)
    engine.dispose()
    done = lite.screen("db", "restore", name)
    assert done.code == 2, done.err
    assert why in done.err
    assert "Traceback" not in done.err
    assert captures(lite) == 8
    assert incarnation(engine) == before
    assert not list(lite.folder.glob(".*"))
    engine.dispose()


def test_a_backup_replaces_no_file_and_makes_no_database(lite: Environment) -> None:
    file = backed_up(lite)
    was = file.read_bytes()
    done = lite.screen("db", "backup", file)
    assert (done.code, "exists already" in done.err) == (2, True)
    assert file.read_bytes() == was
    done = replace(lite, database_url=f"sqlite:///{lite.folder}/none.db").screen("db", "backup", "none.backup")
    assert (done.code, "there is no database" in done.err) == (2, True)
    assert not list(lite.folder.glob("none*"))


def test_a_backup_can_be_restored_where_no_database_is(lite: Environment) -> None:
    file = backed_up(lite)
    shutil.move(lite.folder / "screening.db", lite.folder / "lost.db")
    assert lite.screen("db", "restore", file).code == 0
    assert captures(lite) == 8


@pytest.mark.parametrize("subcommand", ["backup", "restore"])
def test_for_postgresql_its_own_tools_are_named(tmp_path: Path, subcommand: str) -> None:
    environment = Environment(tmp_path, "postgresql://nobody@127.0.0.1:1/none", "")
    (tmp_path / "there").write_bytes(b"")
    done = environment.screen("db", subcommand, "new" if subcommand == "backup" else "there")
    assert done.code == 2
    for word in ("pg_dump", "pg_restore", "screen db restored"):
        assert word in done.err
