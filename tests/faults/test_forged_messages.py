"""Faults 60 to 62: whoever can write to Redis forges messages, gives orders to workers, and forges kombu's notes."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

from contract.messages import QUEUE, SCREEN_CHUNK, celery_config
from tests.faults.conftest import Size
from tests.faults.lab import Lab, Worker
from tests.support.forged import forgeries
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

LARGE_MIB = 384
"""More than a worker's parent needs for all else."""
DROPPED = "is not ours, and was dropped"
MOST_MIB = 1024
"""A worker's parent that unpacks nothing and waits for nothing stays far below it."""


def peak_mib(worker: Worker) -> int:
    """The largest memory that the worker's parent has had."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def is_idle(lab: Lab, server: RedisServer) -> None:
    wait_until(lambda: server.client.llen(QUEUE) == 0, what="all of it to be taken")
    assert lab.log.count("Connected to redis://") == 1, "the worker keeps its connection"


def test_forged_messages_are_dropped_and_never_come_back(
    lab: Lab, size: Size, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    """Before, between and behind sound ones."""
    run = lab.submit()
    kinds = dict(forgeries(redis_server.client.lindex(QUEUE, 0)))
    times = size.times(20, 1)
    for number in range(times):
        (redis_server.client.rpush if number % 2 else redis_server.client.lpush)(QUEUE, *kinds.values())
    with lab.worker() as worker:
        redis_server.client.rpush(QUEUE, *kinds.values())
        now = lab.finish(run)
        is_idle(lab, redis_server)
        wait_until(lambda: lab.log.count(DROPPED) == (times + 1) * len(kinds), what="each to be dropped once")
        assert worker.process.poll() is None
        assert peak_mib(worker) < MOST_MIB
        assert redis_server.client.keys("unacked*") == []
    assert "forged" not in lab.log
    assert "\x1b]0;" not in lab.log
    assert "Traceback" not in lab.log
    assert not list(lab.environment.folder.rglob("forged.pickle"))
    lab.check(run)
    counted(60, "forged messages", kinds=len(kinds), messages=(times + 1) * len(kinds), captures=now.submitted,
            workers_ended=0, messages_that_came_back=0)  # fmt: skip


def test_a_message_of_many_megabytes_is_not_read(
    lab: Lab, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    """Redis takes half a gigabyte in one message, unless it is told otherwise."""
    run = lab.submit()
    redis_server.client.rpush(QUEUE, bytes(LARGE_MIB * 2**20))
    with lab.worker() as worker:
        now = lab.finish(run)
        wait_until(lambda: redis_server.client.llen(QUEUE) == 0, what="all of it to be taken")
        assert worker.process.poll() is None
        assert peak_mib(worker) < LARGE_MIB
    assert lab.log.count(DROPPED) == 1
    lab.check(run)
    counted(60, "a message of many megabytes", mebibytes=LARGE_MIB, captures=now.submitted, workers_ended=0)


def test_orders_to_workers_are_not_heard(lab: Lab, redis_server: RedisServer, counted: Callable[..., None]) -> None:
    app = Celery("stranger", set_as_current=False)
    app.config_from_object(celery_config(redis_server.url))
    orders = {
        "shutdown": {}, "cancel_consumer": {"queue": QUEUE}, "add_consumer": {"queue": "elsewhere"},
        "rate_limit": {"task_name": SCREEN_CHUNK, "rate_limit": "1/h"}, "pool_grow": {"n": 3}, "pool_shrink": {"n": 1},
        "pool_restart": {"reload": True}, "autoscale": {"max": 9, "min": 9}, "enable_events": {}, "dump_conf": {},
        "time_limit": {"task_name": SCREEN_CHUNK, "hard": 1, "soft": 1}, "revoke": {"task_id": "x", "terminate": True},
        "ping": {}, "stats": {},
    }  # fmt: skip
    run = lab.submit()
    try:
        with lab.worker() as worker:
            wait_until(lambda: "ready" in lab.log, what="the worker to be ready")
            for order, arguments in orders.items():
                answers = app.control.broadcast(order, arguments=arguments, reply=True, timeout=0.3)
                assert answers == [], order
            assert redis_server.client.pubsub_numpat() == 0
            lab.finish(run)
            assert worker.process.poll() is None
    finally:
        app.close()
    lab.check(run)
    counted(61, "orders of Celery's remote control", orders=len(orders), answers=0)


def test_forged_notes_about_messages_are_not_read(
    lab: Lab, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    """kombu keeps such notes in Redis: which worker has which message, and which list belongs to which queue."""
    client = redis_server.client
    run = lab.submit()
    sound = json.loads(client.lindex(QUEUE, 0))
    notes = {"deep": b"[" * 100_000, "null": b"null", "none": b"", "other": json.dumps([sound, "", "victim"]).encode(),
             "number": b"7", "wrong": json.dumps([1, 2, 3]).encode()}  # fmt: skip
    client.hset("unacked", mapping=notes)
    client.zadd("unacked_index", dict.fromkeys(notes, time.time() - 10**6))
    client.sadd("_kombu.binding.chunks", b"\xff", "x", "a\x06\x16b\x06\x16victim", "\x06\x16\x06\x16victim")
    with lab.worker() as worker:
        now = lab.finish(run)
        is_idle(lab, redis_server)
        assert worker.process.poll() is None
    assert client.hlen("unacked") == len(notes)
    assert client.exists("victim") == 0
    lab.check(run)
    assert lab.submit("--all") > run
    assert client.exists("victim") == 0
    counted(62, "forged notes about messages", notes=len(notes) + 4, captures=now.submitted)
