"""`screen worker`: the short way to start a worker on this machine."""

import os
import secrets

import click
from celery.utils.nodenames import host_format

from contract.printable import refuse_unprintable
from contract.settings import get_settings


@click.command()
@click.option("--name", default=None, help="Use this name in the logs instead of one that is unique to the process.")
def worker(name: str | None) -> int:
    """Start a worker: it screens chunks from Redis until you stop it.

    After SIGTERM or Ctrl-C it finishes the chunk in hand, then ends. It also sends chunks of killed workers again.
    """
    from worker.app import app  # reads the settings

    # Not by `celery -A worker.app`: it looks for the application in the current folder first.
    name = name or f"screen-{os.getpid()}-{secrets.token_hex(4)}"  # containers of one host name have the same pids
    refuse_unprintable("the worker's name", name)
    started = app.Worker(hostname=host_format(f"{name}@%h"), loglevel=get_settings().log_level)
    started.start()
    return int(started.exitcode or 0)
