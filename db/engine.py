"""Opens the database, and gives transactions that turn the driver's failures into the system's own errors.

Whatever the server, the database or the role has as defaults: each transaction sets what it needs, for itself alone.
A pooler between (PgBouncer in transaction mode) may give the connection to another client after each transaction, and
a setting that outlived it would be that client's too.

`writing` has the right to write from its beginning. On SQLite a plain BEGIN that reads first and writes later fails
with "database is locked" under load, whatever the timeout is; BEGIN IMMEDIATE waits for its turn.
"""

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool

from contract.errors import DatabaseForbids, DatabaseReadOnly, DatabaseUnavailable, DatabaseUnsuitable, StorageFull
from contract.files import check_folder, create_private
from db import chain
from db.url import read_url
from db.write_lock import held_sentence

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5
FROZEN_S = 20
"""How long a transaction may wait for its own process; normally statements follow one another in milliseconds."""
FORBIDDEN = frozenset({"42501", "3F000"})
"""PostgreSQL's insufficient_privilege, and invalid_schema_name: its search_path leads to no schema."""
READ_ONLY = "25006"
"""PostgreSQL's read_only_sql_transaction: a standby, or default_transaction_read_only."""
NEEDED = {
    "DateStyle": "ISO, YMD",  # the driver reads times in no other style
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",  # else a probability is read with fewer digits than were written
    "statement_timeout": "0",  # the submit of a million captures takes as long as it takes
    "lock_timeout": "0",
}
"""PostgreSQL's settings that every transaction of ours needs, whatever the defaults are."""
_DURABLE = "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END"
"""A commit that was answered survives a power cut. Stricter values than `on` stay as they are."""
_BEGIN = "sqlite_begin"
_READS = "reads"
_T = TypeVar("_T")
AnyRow = Row[*tuple[Any, ...]]
"""A row of a statement, with its columns as attributes."""


def open_engine(url: str, *, pooled: bool = True) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://...`, without a connection yet.

    `pooled=False` opens a connection per transaction, for a process that forks.

    Raises SettingsError for a URL of another kind, or with a mistake. A transaction raises DatabaseUnsuitable where the
    encoding of the PostgreSQL database is not UTF-8.
    """
    parsed = read_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite:
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S, "isolation_level": None}}
    else:
        options = {
            "connect_args": {
                "connect_timeout": parsed.query.get("connect_timeout", CONNECT_TIMEOUT_S),
                "client_encoding": "UTF8",  # else the driver takes the server's, and may not know it
                "prepare_threshold": None,  # a pooler gives another connection, where the statement is not prepared
            },
            "pool_pre_ping": pooled,
            # `writing` relies on it: a transaction that has waited for a lock must see what the one before it wrote.
            "isolation_level": "READ COMMITTED",
        }
    if not pooled:
        options |= {"poolclass": NullPool, "pool_pre_ping": False}
    engine = create_engine(parsed, hide_parameters=True, **options)  # an error names no patient
    if is_sqlite:
        _make_sqlite_serious(engine)
    else:
        _make_postgresql_ours(engine)
    return engine


def _make_postgresql_ours(engine: Engine) -> None:
    """Refuse other encodings than UTF-8, and let each transaction begin with the settings that it needs.

    One of these ends transactions that wait too long for their own process. One that is stopped or cut off would keep
    its locks: all others would wait for the rows of its cases, and for their turn to finish cases.
    """
    settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in NEEDED.items())

    @event.listens_for(engine, "connect")
    def _check_encoding(dbapi_connection: Any, _record: Any) -> None:
        encoding = dbapi_connection.info.parameter_status("server_encoding")
        if encoding is None:  # some poolers do not pass on what the server says when a client connects
            encoding = dbapi_connection.execute("SHOW server_encoding").fetchone()[0]
            dbapi_connection.rollback()
        if encoding != "UTF8":
            dbapi_connection.close()
            raise DatabaseUnsuitable(
                f"the database's encoding is {encoding}, which cannot hold every patient's name; make another one, "
                "`createdb --encoding=UTF8 --template=template0 screening`, and name it in SCREEN_DATABASE_URL"
            )

    @event.listens_for(engine, "do_executemany")
    def _one_by_one(cursor: Any, statement: Any, rows: Any, _context: Any) -> bool:
        """The driver would send all rows and then wait: a process that is stopped meanwhile counts as active for the
        server, which no timeout of a waiting transaction ends.
        """
        for row in rows:
            cursor.execute(statement, row)
        return True

    @event.listens_for(engine, "begin")
    def _set(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get(_READS, False)
        driver: Any = connection.connection.driver_connection
        # None, not False: default_transaction_read_only is an administrator's lock, and holds for us too. SQLAlchemy's
        # own option would leave False behind, which lifts it.
        driver.read_only = is_reading or None
        idle = 0 if is_reading else FROZEN_S  # who reads blocks nobody, and may take their time
        connection.exec_driver_sql(
            f"SELECT {settings}, set_config('idle_in_transaction_session_timeout', '{idle}s', true), {_DURABLE}"
        )


def check_place(engine: Engine) -> None:
    """Raise DatabaseForbids where SQLite's file cannot be made or written to; nothing for a server."""
    if engine.dialect.name != "sqlite":
        return
    file = Path(str(engine.url.database))
    try:
        if file.exists():
            with file.open("r+b"):
                pass
        else:
            check_folder(file.parent.resolve(strict=True))
    except OSError as error:
        raise DatabaseForbids(
            f"this user cannot write the database {file} ({error.filename}: {error.strerror}); name another place, such"
            " as SCREEN_DATABASE_URL=sqlite:////FOLDER/screening.db"
        ) from None


def _make_sqlite_serious(engine: Engine) -> None:
    @event.listens_for(engine, "do_connect")
    def _private(_dialect: Any, _record: Any, arguments: Sequence[str], _options: Any) -> None:
        """A new database is its owner's alone. Who has another mode for it keeps it, also for the files beside it."""
        with suppress(OSError):  # SQLite says it better
            create_private(Path(arguments[0]).resolve())

    @event.listens_for(engine, "connect")
    def _pragmas(dbapi_connection: Any, _record: Any) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a commit that was answered survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; at its end the rows of the audit that it has added are chained (db.chain).

    Raises DatabaseUnavailable or StorageFull instead of the driver's errors.
    """
    immediate = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
    with _translated(engine), immediate.connect() as connection, connection.begin():
        chain.begin(connection)
        yield connection
        chain.end(connection)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction that may rebuild tables, which is how SQLite alters a CHECK: copy, drop, rename.

    With foreign keys on, dropping the old table would change every row that refers to it: SET NULL, or CASCADE. So they
    are switched off, which SQLite allows only before a transaction, and checked before the commit (sqlite.org,
    lang_altertable.html, section 7). Raises AssertionError if a migration leaves a row that refers to nothing.
    """
    if engine.dialect.name != "sqlite":
        with writing(engine) as connection:
            yield connection
        return
    immediate = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
    with _translated(engine), immediate.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(3)
                assert not broken, f"rows that refer to nothing, as (table, row, referred table, key): {broken}"
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads, and sees the database at one moment: later commits are not visible.

    Otherwise counts that are read one after another would not fit together: a run could look finished with captures
    unaccounted for. SQLite's transactions always do this, and block no writer. Raises DatabaseUnavailable.
    """
    with _translated(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ", **{_READS: True})
        with connection.begin():
            yield connection


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())[:200]
        if _is_full(error):
            raise StorageFull(
                f"no room left under the database ({reason}); make room, work goes on by itself"
            ) from error
        sqlstate = getattr(error.orig, "sqlstate", None)
        if sqlstate == READ_ONLY:
            raise DatabaseReadOnly(
                "the database takes no writes now; it is a standby, or its administrator has made it "
                "read-only (default_transaction_read_only). Wait, or name the database that takes writes in "
                "SCREEN_DATABASE_URL"
            ) from error
        if _sqlite_code(error).startswith("SQLITE_READONLY"):
            raise DatabaseForbids(
                f"the database refuses this ({reason}); give this user the right to write its file and folder, or name "
                "another one in SCREEN_DATABASE_URL"
            ) from error
        if _sqlite_code(error).startswith("SQLITE_BUSY"):
            raise DatabaseUnavailable(held_sentence(engine.url, BUSY_TIMEOUT_S)) from error
        if sqlstate in FORBIDDEN:
            raise DatabaseForbids(
                f"the database refuses this ({reason}); ask its administrator for the right, or name a role that has "
                "it in SCREEN_DATABASE_URL"
            ) from error
        if isinstance(error, OperationalError | InterfaceError) or _was_let_go(error):
            raise DatabaseUnavailable(
                f"the database cannot be used ({reason}); check SCREEN_DATABASE_URL and that the server is up"
            ) from error
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull("no room left on the disk; make room, work goes on by itself") from error
        raise


def _was_let_go(error: DBAPIError) -> bool:
    """This process stopped in the middle of a transaction, and the server ended the transaction."""
    return getattr(error.orig, "sqlstate", None) == "25P03"


def _is_full(error: DBAPIError) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None)  # psycopg; 53100 is disk_full
    return sqlstate == "53100" or _sqlite_code(error) == "SQLITE_FULL"


def _sqlite_code(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", ""))


def slices(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    """Cut into consecutive slices of at most `size`: chunks, or lists that fit into one statement."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def batches(items: Iterable[_T], weight: Callable[[_T], int], enough: int) -> Iterator[list[_T]]:
    """Consecutive batches that are complete when their items weigh `enough` together; no item is divided."""
    batch: list[_T] = []
    together = 0
    for item in items:
        batch.append(item)
        together += weight(item)
        if together >= enough:
            yield batch
            batch, together = [], 0
    if batch:
        yield batch
