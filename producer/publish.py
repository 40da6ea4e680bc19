"""Sending chunk ids to Redis, after the rows are committed."""

from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine

from contract.errors import BrokerUnavailable
from contract.messages import QUEUE, SCREEN_CHUNK, celery_config
from db.chunks import mark_published

_RETRY = {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.5}


def publish_chunks(redis_url: str, database: Engine, chunk_ids: Sequence[int]) -> None:
    """Send a message for each chunk and note in the database that it was sent.

    Raises BrokerUnavailable; then the chunks stay pending, and a worker's sweeper sends them when Redis is back.
    """
    if not chunk_ids:
        return
    app = Celery("slide-screen", set_as_current=False)
    app.config_from_object(celery_config(redis_url))
    try:
        with app.producer_or_acquire() as producer:
            for chunk_id in chunk_ids:
                app.send_task(
                    SCREEN_CHUNK, kwargs={"chunk": chunk_id}, queue=QUEUE, producer=producer, retry_policy=_RETRY
                )
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis is out of reach ({error}); check SCREEN_REDIS_URL and that it is up") from error
    finally:
        app.close()
    mark_published(database, chunk_ids)
