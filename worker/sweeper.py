"""Sends chunks again whose message or lease was lost: a timer in the worker's parent process.

Redis forgets messages (a restart, a worker killed between receiving and noting one); the database does not. Every
worker sweeps, so work goes on as long as one worker lives; several at once are harmless (db.chunks.sweep).
"""

from typing import Any

import structlog
from celery import Celery, bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from contract.errors import Unavailable
from contract.messages import QUEUE, SCREEN_CHUNK
from contract.settings import get_settings
from db.chunks import sweep
from db.engine import open_engine

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
