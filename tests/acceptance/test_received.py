"""What the installed release of Celery sends is exactly what a worker reads (the rest: tests/unit/test_received.py)."""

import json
from typing import Any

from celery import Celery
from kombu import Connection

from contract.messages import QUEUE, SCREEN_CHUNK, celery_config, chunk_message
from contract.received import ChunkMessage, read_message
from tests.support.servers import RedisServer

UUID = "3b1b6a3c-0000-4000-8000-000000000000"


def sent(server: RedisServer, **arguments: Any) -> bytes:
    """What lies in Redis after the release of Celery that is installed here has sent a message."""
    app = Celery("test", set_as_current=False)
    app.config_from_object(celery_config(server.url))
    try:
        app.send_task(SCREEN_CHUNK, kwargs=arguments, queue=QUEUE)
    finally:
        app.close()
    message: bytes = server.client.rpop(QUEUE)
    return message


def test_what_submit_and_sweep_send_is_read(redis_server: RedisServer) -> None:
    assert read_message(sent(redis_server, **chunk_message(2**63 - 1, UUID))) == ChunkMessage(2**63 - 1, UUID)
    assert read_message(sent(redis_server, chunk=41)) == ChunkMessage(41, None), "as an earlier release sends it"


def test_what_a_worker_sends_again_is_read(redis_server: RedisServer) -> None:
    """Its application knows the task, and names the task's time limits."""
    from worker.tasks import app

    app.finalize()
    with Connection(redis_server.url) as connection:
        app.send_task(SCREEN_CHUNK, kwargs=chunk_message(41, UUID), queue=QUEUE, connection=connection)
    message = redis_server.client.rpop(QUEUE)
    assert json.loads(message)["headers"]["timelimit"] != [None, None]
    assert read_message(message) == ChunkMessage(41, UUID)
