"""`screen worker`: the short way to start a worker on this machine."""

import os
import secrets
import sys

import click

from contract.settings import get_settings


@click.command()
@click.option("--name", default=None, help="Use this name in the logs instead of one that is unique to the process.")
def worker(name: str | None) -> None:
    """Start a worker: it screens chunks from Redis until you stop it.

    After SIGTERM or Ctrl-C it finishes the chunk in hand, then ends. It also sends chunks of killed workers again. The
    same as `celery -A worker.app worker`.
    """
    name = name or f"screen-{os.getpid()}-{secrets.token_hex(4)}"  # containers of one host name have the same pids
    arguments = ["-A", "worker.app", "worker", "--hostname", f"{name}@%h"]
    os.execv(  # noqa: S606 - our own interpreter, no shell wanted
        sys.executable, [sys.executable, "-m", "celery", *arguments, "--loglevel", get_settings().log_level]
    )
