"""Sending chunk ids to Redis, after the rows are committed; and looking at Redis before anything is written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine

from contract.errors import BrokerUnavailable
from contract.messages import QUEUE, SCREEN_CHUNK, celery_config, chunk_message
from contract.queue_check import check_queue
from db.chunks import mark_published
from db.incarnation import incarnation
from producer.output import say

_RETRY = {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.5}


def check_redis(redis_url: str, *, must_answer: bool = False) -> None:
    """Say what is wrong with Redis while nothing is written yet.

    Raises BrokerForbids where its user lacks rights, or it cannot carry chunk ids. With `must_answer` it raises
    BrokerUnavailable where Redis does not answer; otherwise `publish_chunks` will, once the rows are stored.
    """
    with _application(redis_url) as app:
        try:
            warnings = check_queue(app.connection_for_write(), receives=False)
        except BrokerUnavailable:
            if must_answer:
                raise
            return
    for warning in warnings:
        say(warning, "yellow")


def publish_chunks(redis_url: str, database: Engine, chunk_ids: Sequence[int]) -> None:
    """Send a message for each chunk and note in the database that it was sent.

    Raises BrokerUnavailable; then the chunks stay pending, and a worker's sweeper sends them when Redis is back.
    """
    if not chunk_ids:
        return
    uuid = incarnation(database)
    try:
        with _application(redis_url) as app, app.producer_or_acquire() as producer:
            for chunk_id in chunk_ids:
                message = chunk_message(chunk_id, uuid)
                app.send_task(SCREEN_CHUNK, kwargs=message, queue=QUEUE, producer=producer, retry_policy=_RETRY)
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis is out of reach ({error}); check SCREEN_REDIS_URL and that it is up") from error
    mark_published(database, chunk_ids)


@contextmanager
def _application(redis_url: str) -> Iterator[Celery]:
    app = Celery("slide-screen", set_as_current=False)
    app.config_from_object(celery_config(redis_url))
    try:
        yield app
    finally:
        app.close()
