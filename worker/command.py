"""`screen worker`: the short way to start a worker on this machine."""

import os
import sys

import click
import structlog

from contract.errors import BrokerUnavailable
from contract.queue_check import check_queue
from contract.settings import get_settings
from contract.shared_locks import check_shared_locks
from db.schema import open_database

log = structlog.get_logger(__name__)


@click.command()
@click.option("--name", default=None, help="Use this name in the logs instead of one that is unique to the process.")
def worker(name: str | None) -> None:
    """Start a worker: it screens chunks from Redis until you stop it.

    After SIGTERM or Ctrl-C it finishes the chunk in hand, then ends. It also sends chunks of killed workers again. The
    same as `celery -A worker.app worker`.
    """
    settings = get_settings()
    check_shared_locks()
    open_database(settings.database_url, pooled=False)
    _check_redis()
    name = name or f"screen-{os.getpid()}"
    arguments = ["-A", "worker.app", "worker", "--hostname", f"{name}@%h"]
    os.execv(  # noqa: S606 - our own interpreter, no shell wanted
        sys.executable, [sys.executable, "-m", "celery", *arguments, "--loglevel", settings.log_level]
    )


def _check_redis() -> None:
    """Raise BrokerForbids for a Redis that cannot serve a worker. One that does not answer is waited for, later."""
    from worker.app import app

    try:
        for warning in check_queue(app.connection_for_write(), receives=True):
            log.warning(warning)
    except BrokerUnavailable as error:
        log.warning(str(error))
