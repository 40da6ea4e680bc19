"""Fault 20: random faults, one after another, for a long time; memory must stay flat and Redis small."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, SLOW, Lab, Worker
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

LARGEST_REDIS_MIB = 16
FLAT = 1.25
"""How much more memory the last third of the time may take than the first, as medians."""


@pytest.mark.timeout(5400)
def test_random_faults_for_a_long_time(
    lab: Lab, size: Size, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    calm = lab.without_faults()
    rng, until, every_s = random.Random(20), time.monotonic() + size.times(3600, 90), size.times(60, 15)
    next_harm = time.monotonic()
    runs, harms, redis_mib, worker_mib = [lab.submit("--all")], 0, [0.0], list[float]()
    worker = lab.start_worker(HOSTILE, **SLOW)
    try:
        while time.monotonic() < until:
            wait_until(lab.in_the_middle(runs[-1]), what="work to go on")
            worker_mib.append(memory_mib(worker))
            redis_mib.append(float(redis_server.client.info("memory")["used_memory"]) / 2**20)
            if lab.progress(runs[-1]).finished:
                lab.check(runs[-1], against=calm)
                runs.append(lab.submit("--all"))
            elif time.monotonic() >= next_harm:
                harms, next_harm = harms + 1, time.monotonic() + every_s
                worker = lab.harm(worker, redis_server, rng.randrange(4))
        lab.finish(runs[-1])
    finally:
        worker.kill()
    lab.check(runs[-1], against=calm)
    assert max(redis_mib) < LARGEST_REDIS_MIB
    third = len(worker_mib) // 3
    assert median(worker_mib[-third:]) <= FLAT * median(worker_mib[:third]), "memory grows"
    counted(20, "random faults, one after another", seconds=size.times(3600, 90), harms=harms, runs=len(runs),
            captures=len(runs) * lab.progress(runs[-1]).submitted, redis_at_most_mib=round(max(redis_mib), 1),
            worker_mib_first_third=round(median(worker_mib[:third])),
            worker_mib_last_third=round(median(worker_mib[-third:])))  # fmt: skip


def memory_mib(worker: Worker) -> float:
    """Resident memory of parent and child now."""
    total = 0
    for pid in (worker.process.pid, worker.child):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        if "VmRSS:" in status:
            total += int(status.split("VmRSS:")[1].split()[0])
    return total / 1024
