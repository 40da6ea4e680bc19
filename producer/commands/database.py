"""`screen db upgrade|check`."""

import click

from contract.settings import get_settings
from db import schema
from db.engine import open_engine
from producer.output import say


@click.group(name="db")
def database() -> None:
    """Create, upgrade or check the database named by SCREEN_DATABASE_URL."""


@database.command()
def upgrade() -> None:
    """Upgrade the database to this release's schema, or create it if there is none."""
    before, now = schema.upgrade(open_engine(get_settings().database_url))
    say(f"schema {now}: " + ("nothing to do" if before == now else f"upgraded from {before or 'nothing'}"))


@database.command()
def check() -> None:
    """Exit 0 if the database has this release's schema, otherwise say what to do."""
    say(f"schema {schema.check(open_engine(get_settings().database_url))}: the one that this release needs")
