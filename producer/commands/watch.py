"""`screen watch`."""

import click

from contract.errors import ExitCode
from contract.settings import get_settings
from db.progress import this_run
from db.schema import open_database
from producer.output import RunNumber
from producer.watching import watch_run


@click.command()
@click.argument("run", type=RunNumber())
def watch(run: int) -> ExitCode:
    """Follow RUN, a number or `latest`, until it is finished or held, with its rate and the time left. Ctrl-C stops
    watching, not the run.

    On a terminal it shows a bar, otherwise a line each minute.

    Exits 1 if captures were rejected, quarantined or held, the run was cancelled, or most captures of most patients do
    not count; it then begins with what to do.
    """
    database = open_database(get_settings().database_url)
    return watch_run(database, this_run(database, run))
