"""The Celery task. It has no logic: Celery passes a message's arguments, and the process screens the chunk."""

from typing import Any

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown

from contract.messages import SCREEN_CHUNK
from contract.settings import get_settings
from worker.app import app
from worker.chunk_end import NOT_THE_CHUNKS, in_words
from worker.limits import limit_memory
from worker.process import get_process

log = structlog.get_logger(__name__)


@app.task(name=SCREEN_CHUNK)
def screen_chunk(chunk: int, database: str | None = None) -> None:
    """Screen the chunk of this id, if the message is of this database; one of an earlier release does not say."""
    try:
        get_process().screen_chunk(chunk, database)
    except NOT_THE_CHUNKS as error:  # nothing was claimed: the chunk is sent again
        log.warning("chunk not claimed", chunk=chunk, error=in_words(error))
    except SoftTimeLimitExceeded:
        get_process().abandon(f"screening took longer than the time limit of {get_settings().chunk_seconds} s")
    except MemoryError:  # Celery would end the whole worker for it
        log.error("no memory left", chunk=chunk)
        if get_process.cache_info().currsize:  # else nothing was claimed: the chunk is sent again
            get_process().abandon("a worker ran out of memory outside decoding", blame=False)


@worker_process_init.connect
def _limit_memory(**_: Any) -> None:
    """Limit this process's memory, so a hostile file cannot make a decoder take memory that other processes need."""
    limit_memory(get_settings().memory_mib)


@worker_process_shutdown.connect
def _close(**_: Any) -> None:
    if get_process.cache_info().currsize and not get_process().close():
        get_process().abandon("the worker was told to stop and hung")
