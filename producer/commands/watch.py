"""`screen watch`."""

import click

from contract.errors import ExitCode
from contract.settings import get_settings
from db.schema import open_database
from producer.output import ID
from producer.watching import watch_run


@click.command()
@click.argument("run", type=ID)
def watch(run: int) -> ExitCode:
    """Follow RUN until it is finished, with its rate and the time left. Ctrl-C stops watching, not the run.

    Exits 1 if captures were rejected or quarantined, the run was cancelled, or most captures of most patients do not
    count; it then begins with what to do.
    """
    database = open_database(get_settings().database_url)
    return watch_run(database, run)
