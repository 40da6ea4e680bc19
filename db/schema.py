"""Bringing a database to this release's schema, and refusing one that is not there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from contract.errors import DatabaseVersionError
from db.engine import reading, writing

_LOCK = 0x51DE5C12
"""Key of PostgreSQL's advisory lock: two upgrades at once must not race."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def head_revision() -> str:
    """The schema version that this release works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _is_known(revision: str) -> bool:
    return any(script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema up to date in one transaction; returns (revision before, revision now).

    Raises DatabaseVersionError where the schema is of a newer release: nothing is touched then.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '30s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _current(connection)
        _refuse_newer(before)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, head_revision()


def check(engine: Engine) -> str:
    """The schema's revision, if it is this release's. Raises DatabaseVersionError with the next step."""
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


def _refuse_newer(current: str | None) -> None:
    if current is not None and not _is_known(current):
        raise DatabaseVersionError(
            f"the database has schema {current}, which this release does not know: it was upgraded by a newer one; "
            "install that release here too"
        )
