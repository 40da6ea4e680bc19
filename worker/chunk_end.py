"""How a chunk in hand ends: its outcome is written, or the chunk is given back, with or without counting the attempt.

An attempt counts only where the chunk itself may be the cause: a chunk whose attempts are used up is not tried again.
So what the database refuses never counts. If it also refuses that the chunk is given back, the worker owes it that.
"""

import time
from typing import NamedTuple

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from contract.errors import (
    DatabaseUnavailable,
    DatabaseVersionError,
    EngineError,
    LeaseLost,
    ScreeningError,
    StorageFault,
    Unavailable,
    UsageError,
)
from contract.outcomes import ChunkOutcome
from db.chunks import HOPELESS, release
from db.lease import Lease
from db.results import finish_chunk
from worker.put_off import RealPath, put_off

log = structlog.get_logger(__name__)


class Stopping(Unavailable):
    """The worker must stop; the chunk is given back."""


class DatabaseRefused(DatabaseUnavailable):
    """The database took no statement of ours, for a reason that has no name of its own."""


NOT_THE_CHUNKS = (Unavailable, UsageError, SQLAlchemyError)
"""What may go wrong around a chunk: a service, a setting, a bundle, a right that the database's role lacks."""


class Owed(NamedTuple):
    """A chunk that could not be given back, and why it should be."""

    lease: Lease
    reason: str | None


class EngineNotOpened(EngineError):
    """The engine refused before it saw a capture, so no capture is the cause."""


class MemoryUsedUp(ScreeningError):
    """The process ran out of memory outside decoding and inference, so no capture is the cause."""

    def __init__(self) -> None:
        super().__init__(
            "a worker ran out of memory while it put a chunk's results together; give it more with SCREEN_MEMORY_MIB"
        )


def end_chunk(
    database: Engine,
    lease: Lease,
    result: ChunkOutcome | Exception,
    real_path: RealPath,
    claim_s: float,
    owed: list[Owed],
) -> Exception | None:
    """Write the outcome, or give the chunk back. `real_path` gives the path on disk for a stored path, `claim_s` are
    the seconds that the claim took, for the log.

    A chunk that must be given back, and cannot be now, is added to `owed` (see `settle`). Returns the error that Celery
    must see, if there is one.
    """
    try:
        if isinstance(result, Exception):
            raise result
        began = time.perf_counter()
        outcome = put_off(database, lease, result, real_path)
        finish_chunk(database, lease, outcome)
        seconds = {
            "claim": round(claim_s, 4), **outcome.seconds, "write": round(time.perf_counter() - began, 4)
        }  # fmt: skip
    except LeaseLost as error:
        log.warning("lease lost", error=str(error))
    except Stopping:
        _release(database, Owed(lease, None), owed)
    except DatabaseVersionError as error:  # a worker of the database's release will screen it
        log.error("chunk given back", error=str(error))
        _release(database, Owed(lease, None), owed)
    except StorageFault as error:  # counts: otherwise one bad sector would hold the run up for ever
        _give_back(database, lease, error, None)
    except (EngineNotOpened, *NOT_THE_CHUNKS) as error:
        _give_back(database, lease, error, owed)
    except MemoryError:  # Celery must not see one: it would end the whole worker, and the next one, for ever
        _give_back(database, lease, MemoryUsedUp(), owed)
    except Exception as error:
        _give_back(database, lease, error, None)
        return error
    else:
        if outcome.put_off:
            log.error("captures put off", captures=len(outcome.put_off), reason=outcome.put_off_reason)
        log.info("chunk done", screened=len(outcome.screened), rejected=len(outcome.rejected), seconds=seconds)
    return None


def settle(database: Engine, owed: list[Owed]) -> None:
    """Give back the chunks that could not be given back before, so that their attempts do not count."""
    while owed:
        still_owed: list[Owed] = []
        _release(database, owed.pop(), still_owed)
        if still_owed:
            owed += still_owed
            return


def _give_back(database: Engine, lease: Lease, error: Exception, owed: list[Owed] | None) -> None:
    """Give it back because of this error; the attempt counts if there is no list `owed`."""
    if isinstance(error, SQLAlchemyError):
        log.error("the database refused a statement", exc_info=error)
        error = DatabaseRefused(in_words(error))
    # The text of an error that is not our own could contain anything, for example a path, so only its class is named.
    reason = str(error) if isinstance(error, ScreeningError) else f"{type(error).__name__} in the worker; see its log"
    if owed is not None and not getattr(error, "retryable", False):
        reason += HOPELESS
    log.error("chunk given back", error=reason)
    _release(database, Owed(lease, reason), owed)


def in_words(error: Exception) -> str:
    """The error as a sentence without values: that of another library could contain anything."""
    if not isinstance(error, SQLAlchemyError):
        return str(error)
    origin = error.orig if isinstance(error, DBAPIError) else None
    code = getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None)
    kind = f"{type(error).__name__} {code}" if code else type(error).__name__
    return f"the database refused a statement of the worker ({kind}); see the worker's log and the database's"


def _release(database: Engine, chunk: Owed, owed: list[Owed] | None) -> None:
    """Give it back; if that fails, add it to `owed`. Without this list the attempt counts."""
    try:
        release(database, chunk.lease, reason=chunk.reason, count_attempt=owed is None)
    except NOT_THE_CHUNKS as error:
        log.warning("chunk not given back", chunk=chunk.lease.chunk_id, error=in_words(error))
        if owed is not None:
            owed.append(chunk)
