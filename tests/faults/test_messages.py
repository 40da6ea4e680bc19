"""Faults 3, 4 and 7: Redis that is killed, emptied or silent, and messages that come three times."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from celery import Celery

from contract.messages import QUEUE, SCREEN_CHUNK, celery_config
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, SLOW, Lab
from tests.faults.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

REPUBLISHED_S = 60


def test_redis_killed_and_started_empty_and_flushed(
    lab: Lab, size: Size, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    calm = lab.without_faults()
    run = lab.submit("--all")
    harms, slowest, rng = size.times(10, 2), 0.0, random.Random(3)
    with lab.worker(HOSTILE, **SLOW):
        for number in range(harms):
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            time.sleep(rng.uniform(0, 0.3))
            if number % 2:
                redis_server.client.flushall()
            else:
                redis_server.kill()
                redis_server.start()
            began = time.monotonic()
            wait_until(lab.in_the_middle(run), REPUBLISHED_S, what="work to go on")
            slowest = max(slowest, time.monotonic() - began)
            if lab.progress(run).finished:
                lab.check(run, against=calm)
                run = lab.submit("--all")
        lab.finish(run)
    lab.check(run, against=calm)
    counted(3, "Redis killed and started empty, or emptied", harms=harms, captures=lab.progress(run).submitted,
            seconds_until_work_went_on_at_most=round(slowest, 1))  # fmt: skip


def test_redis_silent(lab: Lab, size: Size, redis_server: RedisServer, counted: Callable[..., None]) -> None:
    """SIGSTOP: connections stay open, nothing answers."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    seconds = size.times(60, 8)
    assert redis_server.process is not None
    with lab.worker(HOSTILE, **SLOW):
        wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
        os.kill(redis_server.process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(redis_server.process.pid, signal.SIGCONT)
        lab.finish(run)
    lab.check(run, against=calm)
    counted(4, "Redis stopped with SIGSTOP", seconds=seconds, captures=lab.progress(run).submitted)


def test_a_half_open_connection_to_redis(
    lab: Lab, size: Size, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    """Through a proxy that falls silent: nothing is closed, nothing arrives."""
    calm = lab.without_faults()
    proxy = Proxy(redis_server.port)
    far = replace(lab, environment=replace(lab.environment, redis_url=f"redis://127.0.0.1:{proxy.port}/0"))
    run, seconds = lab.submit("--all"), size.times(120, 10)
    try:
        with far.worker(HOSTILE, **SLOW):
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            proxy.frozen.set()
            time.sleep(seconds)
            proxy.frozen.clear()
            lab.finish(run)
    finally:
        proxy.stop()
    lab.check(run, against=calm)
    counted(4, "a half-open connection to Redis", seconds=seconds, captures=lab.progress(run).submitted)


def test_every_message_comes_three_times(lab: Lab, redis_server: RedisServer, counted: Callable[..., None]) -> None:
    run = lab.submit()
    messages = redis_server.client.lrange(QUEUE, 0, -1)
    for _ in range(2):
        redis_server.client.rpush(QUEUE, *messages)
    assert redis_server.client.llen(QUEUE) == 3 * len(messages)
    with lab.worker(), lab.worker():
        now = lab.finish(run)
        wait_until(lambda: redis_server.client.llen(QUEUE) == 0, what="all messages to be taken")
    lab.check(run)
    claims = lab.attempts(run)
    assert claims <= 1.05 * len(messages)
    counted(7, "every message three times, two workers", messages=3 * len(messages), captures=now.submitted,
            chunks=len(messages), chunks_screened=claims)  # fmt: skip


NO_MESSAGES = (b"text", b"\xff\xfe", b"{}", b"[1]", b"7", b"null", b'{"body": 1, "properties": {}}', b"[" * 100_000)


def test_messages_that_mean_nothing_are_survived(
    lab: Lab, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    """Of other tasks, of chunks that there are not, and text in the queue that is no message at all."""
    app = Celery("stranger", set_as_current=False)
    app.config_from_object(celery_config(redis_server.url))
    for chunk in (10**9, -1, "x", None):
        app.send_task(SCREEN_CHUNK, kwargs={"chunk": chunk}, queue=QUEUE)
    app.send_task("no.such.task", queue=QUEUE)
    app.close()
    redis_server.client.rpush(QUEUE, *NO_MESSAGES)
    run = lab.submit()
    with lab.worker() as worker:
        now = lab.finish(run)
        wait_until(lambda: redis_server.client.llen(QUEUE) == 0, what="all of it to be taken")
        assert worker.process.poll() is None
    lab.check(run)
    counted(7, "messages that mean nothing, and text that is no message", texts=len(NO_MESSAGES) + 5,
            captures=now.submitted, workers_ended=0)  # fmt: skip
