"""Keeps a chunk's lease alive from a thread while the chunk is screened."""

import threading
from types import TracebackType

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from contract.errors import LeaseLost, Unavailable, UsageError
from db.chunks import heartbeat
from db.lease import Lease

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """`with LeaseKeeper(...) as keeper:` sends three heartbeats per lease; `keeper.check()` raises once it is lost."""

    def __init__(self, engine: Engine, lease: Lease, lease_seconds: float) -> None:
        self._engine = engine
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._stop = threading.Event()
        self._lost: LeaseLost | None = None
        self._thread = threading.Thread(target=self._beat, name=f"lease-{lease.chunk_id}", daemon=True)

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise LeaseLost where another worker has the chunk by now."""
        if self._lost is not None:
            raise self._lost

    def _beat(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            try:
                heartbeat(self._engine, self._lease, self._lease_seconds)
            except LeaseLost as error:
                self._lost = error
                return
            except (Unavailable, UsageError) as error:  # the next may succeed; if all fail, the outcome is refused
                log.warning("heartbeat failed", chunk=self._lease.chunk_id, error=str(error))
            except SQLAlchemyError as error:
                log.warning("heartbeat failed", chunk=self._lease.chunk_id, error=type(error).__name__)
