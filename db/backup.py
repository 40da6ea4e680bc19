"""Backups of a SQLite database while it is in use, and putting one back; PostgreSQL has tools of its own for that.

Copying the file is not enough: what was written last lies in the file beside it (FILE-wal), and a copy over a database
beside the wrong one of those is corrupt, in silence. SQLite's backup API copies one moment of both.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine

from contract.errors import DatabaseUnavailable, DatabaseUnsuitable, StorageFull, UsageError
from contract.files import create_private
from db import schema
from db.engine import check_place, open_engine
from db.incarnation import restored

OTHER_TOOLS = (
    "this is for SQLite; for PostgreSQL use `pg_dump` and `pg_restore`, then `screen db restored`: docs/operations.md, "
    '"Backups", has the lines'
)
WAIT_S = 5
"""How long a restore waits for commands that are about to end."""


def backup(engine: Engine, file: Path) -> str:
    """Write the database of this moment into a new `file`, complete or not at all; returns its schema's version.

    Others go on reading and writing meanwhile. Raises UsageError for PostgreSQL, or if the file exists;
    DatabaseVersionError if there is no database; DatabaseUnavailable; StorageFull; OSError.
    """
    source = _file_of(engine)
    if file.exists():
        raise UsageError(f"{file} exists already and was left as it is; name another file")
    schema.refuse_to_create(engine)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.absolute().parent) as folder:
        part = Path(folder) / "part.db"
        with _opened(source) as of_source:
            _copy(of_source, part)
        version = _checked(part)
        part.rename(file)
    return version


def restore(engine: Engine, file: Path, *, actor: str) -> str:
    """Put the database of a backup in the place of this one, as another incarnation of it, with this release's schema;
    returns its new UUID. The database changes as a whole or not at all, and at the very end.

    Raises UsageError for PostgreSQL, or if `file` is no backup; DatabaseVersionError if it is of a newer release;
    DatabaseUnavailable if another process has the database open.
    """
    place = _file_of(engine)
    check_place(engine)
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    if place.exists() and place.samefile(file):
        raise UsageError(f"{file} is the database itself; name a backup of it")
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.absolute().parent) as folder:
        made = Path(folder) / "restored.db"
        with _opened(file, read_only=True) as of_file:
            _copy(of_file, made)
        _checked(made)
        uuid = _renewed(made, actor)
        with _alone(place) as of_place, _opened(made) as of_made:
            of_made.backup(of_place)
    return uuid


def _file_of(engine: Engine) -> Path:
    if engine.dialect.name != "sqlite":
        raise UsageError(OTHER_TOOLS)
    return Path(str(engine.url.database))


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """Copy into a new file that is complete without any other beside it."""
    with _opened(target) as of_target:
        source.backup(of_target)
        of_target.execute("PRAGMA journal_mode=DELETE")


def _checked(file: Path) -> str:
    """The schema's version of a copy that is whole. Raises UsageError if it is damaged, or not of this system."""
    with _opened(file) as connection:
        faults = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if faults != ["ok"]:
            raise UsageError(f"it is damaged: {'; '.join(faults)[:200]}; take another backup")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "capture"} <= tables:
            raise UsageError("this is no database of slide-screen; name a file that `screen db backup` has written")
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(version)


def _renewed(file: Path, actor: str) -> str:
    """Bring a copy to this release's schema, and give it a UUID of its own."""
    engine = open_engine(f"sqlite:///{file.absolute()}", pooled=False)
    schema.upgrade(engine)
    uuid = restored(engine, actor=actor)
    with _opened(file) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return uuid


@contextmanager
def _alone(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the database that nobody else can open. Raises DatabaseUnavailable if somebody has.

    SQLite leaves WAL only for a process that is alone, and empties the file beside the database first.
    """
    with _opened(file) as connection:
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # the lock stays
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(
                f"another process has the database {file} open ({error}); stop workers, commands and SQL clients, then "
                "run the same command again"
            ) from error
        yield connection


@contextmanager
def _opened(file: Path, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection of its own, without SQLAlchemy. Raises the system's own errors instead of the driver's."""
    try:
        mode = "ro" if read_only else "rwc"
        if not read_only:
            create_private(file)
        uri = f"file:{quote(str(file.absolute()))}?mode={mode}"
        with closing(sqlite3.connect(uri, WAIT_S, isolation_level=None, uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise StorageFull(f"no room left where {file} lies; make room and run the command again") from error
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise DatabaseUnsuitable(
                f"{file} is not a database of SQLite, or damaged ({error}). If it is yours: move it and the files "
                f"{file.name}-wal and {file.name}-shm away, then `screen db restore` a backup"
            ) from error
        raise DatabaseUnavailable(f"the file {file} cannot be used ({error})") from error
