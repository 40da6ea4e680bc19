"""Sends chunks again whose message, lease or worker was lost: a timer in the worker's parent process.

Redis forgets messages (a restart, a worker killed between receiving and noting one); the database does not. Every
worker sweeps, so work goes on as long as one worker lives; several at once are harmless (db.chunks.sweep).

A process of this machine that is gone needs no lease to run out: what its flight recorder says is acted on at once.
"""

from typing import Any

import structlog
from celery import Celery, bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from contract.errors import Unavailable
from contract.messages import QUEUE, SCREEN_CHUNK
from contract.settings import get_settings
from db.chunks import give_back_of, sweep
from db.engine import open_engine
from worker.cache import cache_folder
from worker.recorder import last_records

log = structlog.get_logger(__name__)


class SweeperStep(bootsteps.StartStopStep):
    """Runs `sweep_once` on the consumer's timer, once at start and then every SCREEN_SWEEP_SECONDS."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        settings = get_settings()
        # No pool: the parent forks its child anew now and then, and must hand it no open connection.
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
            self._bury()
            with app.connection_for_write() as connection:
                waiting = connection.default_channel.client.llen(QUEUE)
            chunk_ids = sweep(self._database, waiting_messages=waiting, republish_seconds=self._republish_seconds)
            for chunk_id in chunk_ids:
                app.send_task(SCREEN_CHUNK, kwargs={"chunk": chunk_id}, queue=QUEUE)
            if chunk_ids:
                log.info("chunks sent again", chunks=len(chunk_ids))
        except (Unavailable, OperationalError, RedisError, OSError) as error:  # the next sweep tries again
            log.warning("sweep failed", error=str(error))
        except Exception:  # a fault of ours must not end the worker, which screens all the same
            log.exception("sweep failed")

    def _bury(self) -> None:
        """Give back what processes of this machine held that are gone."""
        for record in last_records(cache_folder(get_settings())):
            chunk_ids = give_back_of(
                self._database, record.name, record.suspects, reason=record.reason,
                count_attempt=record.crashed and not record.suspects,
            )  # fmt: skip
            record.forget()
            if chunk_ids:
                log.warning("a process ended with chunks in hand", worker=record.name, reason=record.reason,
                            suspects=sorted(record.suspects), given_back=chunk_ids)  # fmt: skip
