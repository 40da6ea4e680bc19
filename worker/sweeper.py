"""Sends a chunk again when its message, lease or worker was lost: a timer in the worker's parent process.

Redis can lose messages (at a restart, or when a worker is killed after it received a message and before it noted it);
the database does not. Every worker sweeps, so work continues as long as one worker runs. Several sweeps at the same
time do no harm (db.chunks.sweep).

For a process of this machine that has ended, the sweeper does not wait until its leases run out. It reads the flight
record of the process and gives its chunks back at once.

It ends a worker whose database was upgraded under it: its child claims nothing more, and would only take messages away
from workers of the new release.
"""

from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.worker import state
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from contract.errors import DatabaseVersionError, Unavailable
from contract.messages import QUEUE, SCREEN_CHUNK, chunk_message
from contract.settings import get_settings
from db.chunks import HOPELESS, sweep
from db.engine import open_engine, reading
from db.held import give_back_of
from db.incarnation import incarnation
from db.schema import refuse_other
from worker.cache import cache_folder
from worker.recorder import last_records

log = structlog.get_logger(__name__)


class SweeperStep(bootsteps.StartStopStep):
    """Runs `sweep_once` on the consumer's timer, once at start and then every SCREEN_SWEEP_SECONDS."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        settings = get_settings()
        cache_folder(settings)  # before the first fork, so that a worker says only once where its cache is
        # No pool: the parent forks a new child from time to time, and must not pass an open connection to it.
        self._database = open_engine(settings.database_url, pooled=False)
        self._interval = settings.sweep_seconds
        self._republish_seconds = settings.republish_seconds
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        self._sweep(parent.app)
        self._timer = parent.timer.call_repeatedly(self._interval, self._sweep, (parent.app,))

    def stop(self, parent: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self, app: Celery) -> None:
        try:
            with reading(self._database) as connection:
                refuse_other(connection)
            self._give_back_of_ended()
            with app.connection_for_write() as connection:
                waiting = connection.default_channel.client.llen(QUEUE)
            chunk_ids = sweep(self._database, waiting_messages=waiting, republish_seconds=self._republish_seconds)
            if chunk_ids:
                uuid = incarnation(self._database)
                for chunk_id in chunk_ids:
                    app.send_task(SCREEN_CHUNK, kwargs=chunk_message(chunk_id, uuid), queue=QUEUE)
                log.info("chunks sent again", chunks=len(chunk_ids))
        except DatabaseVersionError as error:
            log.error("the worker ends", error=str(error))
            # Celery looks at it between messages, and lets the child end its task.
            state.should_stop = int(error.exit_code)
        except (Unavailable, OperationalError, RedisError, OSError) as error:  # the next sweep tries again
            log.warning("sweep failed", error=str(error))
        except Exception:  # a bug of ours must not end the worker, which can still screen
            log.exception("sweep failed")

    def _give_back_of_ended(self) -> None:
        """Give back the chunks of processes of this machine that have ended."""
        settings = get_settings()
        cache = cache_folder(settings)
        for record in last_records(cache, incarnation(self._database)) if cache is not None else ():
            chunk_ids = give_back_of(
                self._database, record.name, record.suspects,
                reason=record.reason + (HOPELESS if record.opening and record.crashed else ""),
                max_deaths=settings.max_attempts, at=record.chunks, blame=not record.opening, show=record.opening,
            )  # fmt: skip
            record.forget()
            if chunk_ids:
                log.warning("a process ended with chunks in hand", worker=record.name, reason=record.reason,
                            suspects=sorted(record.suspects), given_back=chunk_ids)  # fmt: skip
