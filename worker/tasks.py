"""The task. No logic: Celery hands over a chunk's id, the process screens the chunk."""

import os
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_shutdown

from contract.messages import SCREEN_CHUNK
from worker.app import app
from worker.process import get_process

HUNG = 75
"""Exit status of a child that had to end because something in it hung: EX_TEMPFAIL."""


@app.task(name=SCREEN_CHUNK)
def screen_chunk(chunk: int) -> None:
    """Screen the chunk of this id."""
    try:
        get_process().screen_chunk(chunk)
    except SoftTimeLimitExceeded:
        _abandon("screening took longer than the time limit")


@worker_process_shutdown.connect
def _close(**_: Any) -> None:
    if get_process.cache_info().currsize and not get_process().close():
        _abandon("the worker was told to stop and hung")


def _abandon(reason: str) -> None:
    """A thread that hangs in a read cannot be stopped; a new process can go on."""
    get_process().abandon(reason)
    os._exit(HUNG)
