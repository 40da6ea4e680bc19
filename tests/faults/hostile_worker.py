"""A worker whose decoder and engine do the harm that a capture's name asks for, as a fault in native code would.

`celery -A tests.faults.hostile_worker worker`. Only what no file can be made to do reliably is put in by hand: a crash,
a read of ten gigabytes, a call that never returns. What follows from it is the product's own.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from celery.signals import worker_process_init

from worker import chunk_end, pipeline
from worker.app import app

__all__ = ["app"]

SLOW_S = float(os.environ.get("SLOW_READ_S", "0"))
"""How long each capture takes to read: time to do harm in the middle of a chunk."""
READS = os.environ.get("READS_FILE")
"""A file that grows by one byte for each capture that is read, so that work done twice can be counted."""
LAST_FOR = os.environ.get("LAST_FOR_PATIENT", "").encode()
"""The process ends, as if killed, whenever it writes the outcome of a chunk with captures of this patient."""
_OFFSET_S = float(os.environ.get("CLOCK_OFFSET_S", "0"))
if _OFFSET_S:
    _time = time.time
    time.time = lambda: _time() + _OFFSET_S
MARK = 241
"""A capture of this grey all over makes the engine crash on its batch."""


def crash() -> None:
    ctypes.string_at(0)


def take_all_memory() -> None:
    held = [np.ones(2**27, np.uint8) for _ in range(80)]  # ten gigabytes, 128 MiB at a time, all of it written
    raise AssertionError(f"{len(held)} blocks were given: there is no ceiling")


def hang() -> None:
    time.sleep(3600)


HARM: dict[bytes, Callable[[], None]] = {b"crash": crash, b"memory": take_all_memory, b"hang": hang}


@worker_process_init.connect
def _arm(**_: Any) -> None:
    from worker.engines.openvino import OpenVINOEngine

    read, start = pipeline.read_capture, OpenVINOEngine.start

    def hostile_read(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> Any:
        time.sleep(SLOW_S)
        if READS is not None:
            with open(READS, "ab", buffering=0) as reads:  # noqa: PTH123
                reads.write(b".")
        for name, harm in HARM.items():
            if name in path:
                harm()
        return read(root, path, size_bytes, modified_ns)

    def hostile_start(self: OpenVINOEngine, batch: Any) -> Any:
        if (batch == MARK).all(axis=(1, 2, 3)).any():
            crash()
        return start(self, batch)

    finish = chunk_end.finish_chunk

    def hostile_finish(engine: Any, lease: Any, outcome: Any) -> None:
        if LAST_FOR and any(capture.path.startswith(LAST_FOR + b"/") for capture in lease.captures):
            os.kill(os.getpid(), signal.SIGKILL)
        finish(engine, lease, outcome)

    chunk_end.finish_chunk = hostile_finish
    pipeline.read_capture = hostile_read
    OpenVINOEngine.start = hostile_start  # type: ignore[method-assign]
