"""`screen db upgrade|check|backup|restore|restored`."""

from pathlib import Path

import click
from rich.text import Text

from contract.names import first_of
from contract.outputs import OutputFile
from contract.settings import get_settings
from db import backup as backups
from db import roles, schema
from db.engine import open_engine
from db.incarnation import restored as draw_new_uuid
from producer.output import login_name, say, stdout, table


@click.group(name="db")
def database() -> None:
    """Create, upgrade, check, back up or restore the database named by SCREEN_DATABASE_URL."""


@database.command()
def upgrade() -> None:
    """Upgrade the database to this release's schema, or create it if there is none."""
    before, now = schema.upgrade(open_engine(get_settings().database_url))
    say(f"schema {now}: " + ("nothing to do" if before == now else f"upgraded from {before or 'nothing'}"))


@database.command()
def check() -> None:
    """Exit 0 if the database has this release's schema, otherwise say what to do. On PostgreSQL it says what the role
    that is connected may do, and what it lacks for the rest (`deploy/roles.sql`).
    """
    engine = open_engine(get_settings().database_url)
    say(f"schema {schema.check(engine)}: the one that this release needs")
    duties = roles.duties_of(engine)
    if not duties:
        return
    shown = table(None, ("role", "commands", "this role may"), fold=("commands", "this role may"))
    for duty, lacking in duties:
        may = Text("yes", "green") if not lacking else Text(f"no: it lacks {first_of(lacking, 3)}", "yellow")
        shown.add_row(duty.role, duty.commands, may)
    owns = Text("yes", "green") if roles.owns(engine) else Text("no: it does not own the tables", "yellow")
    shown.add_row("owner", "db upgrade, db restored, purge", owns)
    stdout.print(shown)


@database.command()
@click.argument("file", type=OutputFile())
def backup(file: Path) -> None:
    """Write the whole SQLite database into a new FILE, while workers and commands go on."""
    version = backups.backup(open_engine(get_settings().database_url), file)
    say(f"{file} holds the database, with schema {version}; `screen db restore` puts it back")


@database.command()
@click.argument("file", type=click.Path(path_type=Path))
def restore(file: Path) -> None:
    """Put the backup in FILE in the place of the SQLite database, which must not be in use.

    All that was written since the backup is gone. The database gets this release's schema and a new UUID, as by
    `screen db restored`.
    """
    uuid = backups.restore(open_engine(get_settings().database_url), file, actor=login_name())
    say(f"the database is now what {file} held, as {uuid}; start the workers again, then `screen fsck RUN`")


@database.command()
def restored() -> None:
    """Say that a backup was restored: from now on numbers given again are told from those given before.

    The database gets a new UUID, which queue rows, messages and FHIR ids carry. Messages of before are dropped; chunks
    that wait are sent again.
    """
    uuid = draw_new_uuid(schema.open_database(get_settings().database_url), actor=login_name())
    say(f"the database is now {uuid}: other systems tell its rows from those of before by that")
