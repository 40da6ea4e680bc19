"""`screen db upgrade|check|restored`."""

import click

from contract.settings import get_settings
from db import schema
from db.engine import open_engine
from db.incarnation import restored as draw_new_uuid
from producer.output import login_name, say


@click.group(name="db")
def database() -> None:
    """Create, upgrade, check or restore the database named by SCREEN_DATABASE_URL."""


@database.command()
def upgrade() -> None:
    """Upgrade the database to this release's schema, or create it if there is none."""
    before, now = schema.upgrade(open_engine(get_settings().database_url))
    say(f"schema {now}: " + ("nothing to do" if before == now else f"upgraded from {before or 'nothing'}"))


@database.command()
def check() -> None:
    """Exit 0 if the database has this release's schema, otherwise say what to do."""
    say(f"schema {schema.check(open_engine(get_settings().database_url))}: the one that this release needs")


@database.command()
def restored() -> None:
    """Say that a backup was restored: from now on numbers given again are told from those given before.

    The database gets a new UUID, which queue rows, messages and FHIR ids carry. Messages of before are dropped; chunks
    that wait are sent again.
    """
    uuid = draw_new_uuid(schema.open_database(get_settings().database_url), actor=login_name())
    say(f"the database is now {uuid}: other systems tell its rows from those of before by that")
