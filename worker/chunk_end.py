"""How a chunk in hand ends: its outcome is written, or the chunk is given back, with or without counting the attempt.

An attempt counts only where the chunk itself may be the cause: a chunk whose attempts are used up is not tried again.
"""

import time

import structlog
from sqlalchemy import Engine

from contract.errors import (
    BundleError,
    DatabaseVersionError,
    EngineError,
    LeaseLost,
    ScreeningError,
    StorageFault,
    Unavailable,
)
from contract.outcomes import ChunkOutcome
from db.chunks import HOPELESS, release
from db.lease import Lease
from db.results import finish_chunk

log = structlog.get_logger(__name__)


class Stopping(Unavailable):
    """The worker must stop; the chunk is given back."""


class EngineNotOpened(EngineError):
    """The engine refused before it saw a capture, so no capture is the cause."""


class MemoryUsedUp(ScreeningError):
    """The process ran out of memory outside decoding and inference, so no capture is the cause."""

    def __init__(self) -> None:
        super().__init__(
            "a worker ran out of memory while it put a chunk's results together; give it more with SCREEN_MEMORY_MIB"
        )


def end_chunk(database: Engine, lease: Lease, result: ChunkOutcome | Exception, claim_s: float) -> Exception | None:
    """Write the outcome, or give the chunk back. `claim_s` are the seconds that its claim took, for the log.

    Returns the error that Celery must see, if there is one.
    """
    try:
        if isinstance(result, Exception):
            raise result
        began = time.perf_counter()
        finish_chunk(database, lease, result)
        seconds = {
            "claim": round(claim_s, 4), **result.seconds, "write": round(time.perf_counter() - began, 4)
        }  # fmt: skip
    except LeaseLost as error:
        log.warning("lease lost", error=str(error))
    except Stopping:
        _release(database, lease, None, count_attempt=False)
    except DatabaseVersionError as error:  # a worker of the database's release will screen it
        log.error("chunk given back", error=str(error))
        _release(database, lease, None, count_attempt=False)
    except StorageFault as error:  # counts: otherwise one bad sector would hold the run up for ever
        _give_back(database, lease, error, count_attempt=True)
    except (Unavailable, BundleError, EngineNotOpened) as error:
        _give_back(database, lease, error, count_attempt=False)
    except MemoryError:  # Celery must not see one: it would end the whole worker, and the next one, for ever
        _give_back(database, lease, MemoryUsedUp(), count_attempt=False)
    except Exception as error:
        _give_back(database, lease, error, count_attempt=True)
        return error
    else:
        log.info("chunk done", screened=len(result.screened), rejected=len(result.rejected), seconds=seconds)
    return None


def _give_back(database: Engine, lease: Lease, error: Exception, *, count_attempt: bool) -> None:
    # The text of an error that is not our own could contain anything, for example a path, so only its class is named.
    reason = str(error) if isinstance(error, ScreeningError) else f"{type(error).__name__} in the worker; see its log"
    if not count_attempt and not getattr(error, "retryable", False):
        reason += HOPELESS
    log.error("chunk given back", error=reason)
    _release(database, lease, reason, count_attempt=count_attempt)


def _release(database: Engine, lease: Lease, reason: str | None, *, count_attempt: bool) -> None:
    try:
        release(database, lease, reason=reason, count_attempt=count_attempt)
    except Unavailable as error:
        log.warning("chunk not given back; its lease will end by itself", error=str(error))
