"""What Celery makes of our settings: it takes a misspelt option in silence, so the effective ones are looked at."""

import inspect
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app.defaults import DEFAULTS
from celery.app.task import Task
from kombu import Producer
from kombu.exceptions import ContentDisallowed
from kombu.transport.redis import Channel
from kombu.utils.url import parse_url

from contract.messages import CHUNK_SECONDS, GRACE_S, QUEUE, SCREEN_CHUNK, celery_config, chunk_message
from contract.settings import Settings

URL = "redis://user:secret@127.0.0.1:1/3"


@pytest.fixture
def app() -> Iterator[Celery]:
    """An application with our settings, whose broker is in memory."""
    made = Celery("test", set_as_current=False, fixups=[])
    made.config_from_object({**celery_config(URL), "broker_url": "memory://", "broker_transport_options": {}})
    yield made
    made.close()


@pytest.fixture
def task(app: Celery) -> Task:
    @app.task(name=SCREEN_CHUNK, shared=False)
    def screen_chunk(chunk: int) -> None:
        """Nothing: only its options are looked at."""

    app.finalize()
    return app.tasks[SCREEN_CHUNK]


def test_every_option_is_one_that_celery_knows() -> None:
    assert set(celery_config(URL)) - set(DEFAULTS) == set()


def test_every_transport_option_is_one_that_the_redis_transport_takes() -> None:
    given = celery_config(URL)["broker_transport_options"]
    assert set(given) - set(Channel.from_transport_options) == set()


def test_each_effective_setting_is_ours() -> None:
    config = celery_config(URL)
    made = Celery("test", set_as_current=False)
    made.config_from_object(config)
    assert {name: made.conf[name] for name in config} == config
    made.close()


def test_time_limits_leave_time_to_give_chunks_back() -> None:
    config = celery_config(URL)
    assert config["task_soft_time_limit"] < config["task_time_limit"]


def test_nothing_is_noted_in_redis_about_messages_in_hand() -> None:
    """Whoever can write there could forge such notes; the database knows which chunks are in hand."""
    assert celery_config(URL)["broker_transport_options"]["ack_emulation"] is False


def test_the_task_is_done_when_its_chunk_is(task: Task) -> None:
    assert task.acks_late is True
    assert task.reject_on_worker_lost is True
    assert task.acks_on_failure_or_timeout is not False
    assert task.acks_on_failure is True
    assert task.acks_on_timeout is True
    assert task.ignore_result is True
    assert task.store_errors_even_if_ignored is False


def test_the_time_limits_are_those_of_the_contract(app: Celery, task: Task) -> None:
    assert (app.conf.task_soft_time_limit, app.conf.task_time_limit) == (CHUNK_SECONDS, CHUNK_SECONDS + GRACE_S)
    assert task.soft_time_limit in (None, CHUNK_SECONDS)
    assert task.time_limit in (None, CHUNK_SECONDS + GRACE_S)


def test_one_child_takes_one_message_at_a_time(app: Celery) -> None:
    assert (app.conf.worker_pool, app.conf.worker_concurrency, app.conf.worker_prefetch_multiplier) == ("prefork", 1, 1)


def test_there_is_no_result_backend(app: Celery) -> None:
    assert app.conf.result_backend is None
    assert type(app.backend).__name__ == "DisabledBackend"


def test_a_lost_broker_is_looked_for_without_end(app: Celery) -> None:
    assert app.conf.broker_connection_retry_on_startup is True
    assert app.conf.broker_connection_max_retries is None
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_the_url_of_the_settings_reaches_the_transport() -> None:
    made = Celery("test", set_as_current=False)
    made.config_from_object(celery_config(URL))
    with made.connection_for_write() as connection:
        assert (connection.hostname, connection.port, connection.virtual_host) == ("127.0.0.1", 1, "3")
        assert (connection.userid, connection.password) == ("user", "secret")
    assert parse_url(Settings().redis_url)["transport"] == "redis"
    made.close()


def sent(app: Celery, publish: Any) -> list[Any]:
    """The messages that `publish` leaves in the queue, received as our worker receives them."""
    received: list[Any] = []
    with app.connection_for_write() as connection:
        channel = connection.channel()
        queue = app.amqp.queues[QUEUE](channel)
        queue.declare()
        queue.purge()
        publish(Producer(channel))
        consumer = app.amqp.TaskConsumer(channel, accept=app.conf.accept_content, on_message=received.append)
        consumer.consume()
        while not received:
            connection.drain_events(timeout=5)
    return received


def test_a_message_holds_a_chunks_id_and_the_databases_and_nothing_else(app: Celery) -> None:
    arguments = chunk_message(41, "3b1b6a3c-0000-4000-8000-000000000000")
    (message,) = sent(app, lambda producer: app.send_task(SCREEN_CHUNK, kwargs=arguments, producer=producer))
    assert message.content_type == "application/json"
    positional, named, embedded = json.loads(message.body)
    assert (positional, named) == ([], {"chunk": 41, "database": "3b1b6a3c-0000-4000-8000-000000000000"})
    assert not any(embedded.values())
    assert message.headers["task"] == SCREEN_CHUNK
    message.decode()


@pytest.mark.parametrize("kind", ["application/x-python-serialize", "application/x-yaml", "application/x-msgpack"])
def test_only_json_is_accepted(app: Celery, kind: str) -> None:
    def publish(producer: Producer) -> None:
        body = pickle.dumps([[41], {}, {}])
        producer.publish(body, content_type=kind, content_encoding="binary", routing_key=QUEUE, exchange=QUEUE)

    (message,) = sent(app, publish)
    with pytest.raises(ContentDisallowed):
        message.decode()


def test_the_workers_task_is_called_as_the_producer_calls_it_and_takes_what_it_sends() -> None:
    from worker.tasks import screen_chunk

    assert screen_chunk.name == SCREEN_CHUNK
    signature = inspect.signature(screen_chunk.run)
    assert list(signature.parameters) == list(chunk_message(41, "x"))
    signature.bind(chunk=41)  # as an earlier release sends it
    effective = screen_chunk.app.conf
    config = celery_config(Settings().redis_url)
    assert {name: effective[name] for name in config if name != "broker_url"} == {
        name: value for name, value in config.items() if name != "broker_url"
    }
    assert (screen_chunk.acks_late, screen_chunk.reject_on_worker_lost, screen_chunk.ignore_result) == (True,) * 3
