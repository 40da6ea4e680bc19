"""Brings a database to this release's schema, and refuses a database that has another one."""

from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Engine, String, column, inspect, select, table, text

from contract.errors import DatabaseVersionError
from db import append_only, chain
from db.engine import check_place, migrating, open_engine, reading
from db.views import VIEWS

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x51DE5C12
"""Key of PostgreSQL's advisory lock: two upgrades at once must not race."""


def revisions() -> list[str]:
    """The schema versions that this release knows, oldest first: the numbers at the beginning of its migration files.

    Alembic is not used here: it would cost every command a third of a second.
    """
    return sorted(file.name.split("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def head_revision() -> str:
    """The schema version that this release works with."""
    return revisions()[-1]


RELEASE = head_revision()
"""The schema that the code of this process works with. Read once, when the process starts: an installation of a newer
release lays its migrations beside the code of a worker that goes on.
"""
_VERSION = table("alembic_version", column("version_num", String))


def is_of_this_release() -> ColumnElement[bool]:
    """The condition that the database has the schema that this process works with, for a statement that writes."""
    return select(_VERSION.c.version_num).where(_VERSION.c.version_num == RELEASE).exists()


def refuse_other(connection: Connection) -> None:
    """Raise DatabaseVersionError if the database has another schema than this process works with: one statement."""
    current = connection.execute(select(_VERSION.c.version_num)).scalar()
    if current != RELEASE:
        raise DatabaseVersionError(
            f"the database has schema {current} now, and this worker knows {RELEASE}: it claims and writes nothing "
            "more; stop it, install the database's release here, and start it again"
        )


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema up to date in one transaction; returns (revision before, revision now).

    Raises DatabaseVersionError if the schema is from a newer release, and then changes nothing; DatabaseForbids.
    """
    from alembic import command
    from alembic.config import Config

    check_place(engine)
    with migrating(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '30s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _current(connection)
        _refuse_newer(before)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        if before != head_revision():
            _drop_views(connection)
            append_only.unprotect(connection)
            command.upgrade(config, "head")
            for name, query in VIEWS.items():
                connection.execute(text(f"CREATE VIEW {name} AS {query}"))
            chain.chain_all(connection)
            append_only.protect(connection)
        return before, head_revision()


def _drop_views(connection: Connection) -> None:
    """Drop our own views: SQLite renames no table that a view mentions, PostgreSQL changes no column that one shows."""
    existing = set(inspect(connection).get_view_names())
    for name in reversed(VIEWS):
        if name in existing:
            connection.execute(text(f"DROP VIEW {name}"))


def open_database(url: str, *, pooled: bool = True) -> Engine:
    """Open the database at this URL (db.engine.open_engine), and check that it has this release's schema.

    Raises SettingsError, DatabaseUnavailable, DatabaseVersionError.
    """
    engine = open_engine(url, pooled=pooled)
    check(engine)
    return engine


def check(engine: Engine) -> str:
    """The schema's revision if it is this release's; otherwise raises DatabaseVersionError with the next step."""
    refuse_to_create(engine)
    with reading(engine) as connection:
        current = _current(connection)
    _refuse_newer(current)
    if current is None:
        raise DatabaseVersionError("the database has no tables yet; run `screen db upgrade`")
    if current != head_revision():
        raise DatabaseVersionError(
            f"the database has schema {current}, this release wants {head_revision()}; run `screen db upgrade`"
        )
    return current


def refuse_to_create(engine: Engine) -> None:
    """Raise DatabaseVersionError if SQLite's file is not there, because SQLite would create it, and leave it behind. If
    its folder is not there either, SQLite fails by itself.
    """
    file = Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None
    if file is not None and file.parent.is_dir() and not file.exists():
        raise DatabaseVersionError(
            f"there is no database {file} here; go to its folder or name it in SCREEN_DATABASE_URL, or make one with "
            "`screen db upgrade`"
        )


def _refuse_newer(current: str | None) -> None:
    if current is not None and current not in revisions():
        raise DatabaseVersionError(
            f"the database has schema {current}, which this release does not know: it was upgraded by a newer one; "
            "install that release here too"
        )
