"""Opens the database, and gives transactions that turn the driver's failures into the system's own errors.

`writing` has the right to write from its beginning. On SQLite a plain BEGIN that reads first and writes later fails
with "database is locked" under load, whatever the timeout is; BEGIN IMMEDIATE waits for its turn.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, FromClause, Row, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool

from contract.errors import DatabaseForbids, DatabaseUnavailable, SettingsError, StorageFull

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5
FROZEN_S = 20
"""How long a transaction may wait for its own process; normally statements follow one another in milliseconds."""
FORBIDDEN = frozenset({"42501", "25006"})
"""PostgreSQL's insufficient_privilege and read_only_sql_transaction, which a standby answers."""
_BEGIN = "sqlite_begin"
_T = TypeVar("_T")
AnyRow = Row[*tuple[Any, ...]]
"""A row of a statement, with its columns as attributes."""


def open_engine(url: str, *, pooled: bool = True) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://...`, without a connection yet.

    `pooled=False` opens a connection per transaction, for a process that forks.

    Raises SettingsError for a URL of another kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError("SCREEN_DATABASE_URL is not a database URL; sqlite:///FILE or postgresql://...") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"connect_args": {"connect_timeout": CONNECT_TIMEOUT_S}, "pool_pre_ping": pooled}
    elif backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise SettingsError("SCREEN_DATABASE_URL: workers share the database, so SQLite needs a file")
        options = {"connect_args": {"timeout": BUSY_TIMEOUT_S, "isolation_level": None}}
    else:
        raise SettingsError(f"SCREEN_DATABASE_URL: {backend} is not supported; sqlite:///FILE or postgresql://...")
    if not pooled:
        options |= {"poolclass": NullPool, "pool_pre_ping": False}
    try:
        engine = create_engine(parsed, **options)
    except (NoSuchModuleError, ArgumentError) as error:
        raise SettingsError(f"SCREEN_DATABASE_URL: {error}") from None
    if backend == "sqlite":
        _make_sqlite_serious(engine)
    else:
        _let_go_of_the_frozen(engine)
    return engine


def _let_go_of_the_frozen(engine: Engine) -> None:
    """End transactions that wait too long for their process: one that is stopped or cut off would keep its locks.

    All other processes would wait for the rows of its cases, and for their turn to finish cases.
    """

    @event.listens_for(engine, "connect")
    def _limit(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_S}s'")
        dbapi_connection.commit()


def _make_sqlite_serious(engine: Engine) -> None:
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
    """A transaction that writes. Raises DatabaseUnavailable or StorageFull instead of the driver's errors."""
    immediate = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
    with _translated(), immediate.connect() as connection, connection.begin():
        yield connection


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
    with _translated(), immediate.connect() as connection:
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
    with _translated(), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":  # it blocks nobody, and may take its time
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())[:200]
        if _is_full(error):
            raise StorageFull(
                f"no room left under the database ({reason}); make room, work goes on by itself"
            ) from error
        if getattr(error.orig, "sqlstate", None) in FORBIDDEN:
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
    sqlite_code = getattr(error.orig, "sqlite_errorname", "")
    return sqlstate == "53100" or sqlite_code == "SQLITE_FULL"


def slices(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    """Cut into consecutive slices of at most `size`: chunks, or lists that fit into one statement."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def insert_many(
    connection: Connection, table: FromClause, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Insert rows of plain values in the database's fastest way: COPY on PostgreSQL, else one prepared statement."""
    names = ", ".join(columns)
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - names of our own
        connection.exec_driver_sql(statement, list(map(tuple, rows)))
        return
    statement = f"COPY {table} ({names}) FROM STDIN"
    psycopg: Any = connection.dialect.dbapi
    cursor: Any = connection.connection.cursor()
    try:
        with cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.OperationalError as error:  # the driver was called directly, so SQLAlchemy did not wrap it
        raise OperationalError(statement, None, error) from error
