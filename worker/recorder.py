"""A flight recorder: which captures a worker process has in the hands of code that may crash or hang.

Decoders and engines are native code: a hostile file or a bad batch can end the process without a word. What it was
doing lies in a small folder that outlives it, so whoever sweeps on this machine can give its chunks back at once and
say which few captures to screen alone.
"""

import faulthandler
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SLOTS = 4096
"""More captures than decoders and batches under way can hold; should they ever, the rest is not recorded."""
_FOLDER, _CAPTURES, _END = "workers", "captures", "end"


class FlightRecorder:
    """What one process has under way, by capture id; written from several threads.

    `cache` is the folder that workers of this user share; without one, it is known to this process alone.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        """Of the process, and never of another one."""
        self._lock = threading.Lock()
        self._free = list(range(SLOTS))
        self._slots: NDArray[np.int64] = np.zeros(SLOTS, np.int64)
        self._folder: Path | None = None
        if cache is not None:
            self._folder = cache / _FOLDER / self.name.replace("/", "+")
            self._folder.mkdir(mode=0o700, parents=True)
            self._slots = _mapped(self._folder / _CAPTURES)
            self._end = (self._folder / _END).open("w")
            faulthandler.enable(self._end)  # writes down which signal ended the process, and where

    def begin(self, capture_ids: Sequence[int]) -> list[int]:
        """Note that these captures are under way; returns their places, for `end`."""
        with self._lock:
            places = [self._free.pop() for _ in capture_ids[: len(self._free)]]
        self._slots[places] = capture_ids[: len(places)]
        return places

    def end(self, places: Sequence[int]) -> None:
        """The captures in these places are through."""
        self._slots[list(places)] = 0
        with self._lock:
            self._free.extend(places)

    def suspects(self) -> set[int]:
        """The captures under way at this moment."""
        return _ids(self._slots)

    def note_end(self, reason: str) -> None:
        """The process is about to end for this reason."""
        if self._folder is not None:
            print(reason, file=self._end, flush=True)

    def close(self) -> None:
        """The process ends in peace: nothing of it is left to be looked after."""
        if self._folder is not None:
            faulthandler.disable()
            self._end.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _mapped(file: Path) -> NDArray[np.int64]:
    with file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, SLOTS * 8)  # else a full disk shows as SIGBUS at some later write
    return np.memmap(file, np.int64, "r+", shape=(SLOTS,))


def _ids(slots: NDArray[np.int64]) -> set[int]:
    return {int(one) for one in slots[slots != 0]}


@dataclass(frozen=True)
class LastRecord:
    """What a process that is gone left behind. `name` is what its leases name, `reason` how it ended."""

    name: str
    suspects: set[int]
    reason: str
    crashed: bool
    """It ended by a fault in itself; else something killed it, or its machine stopped."""
    _folder: Path

    def forget(self) -> None:
        """Its chunks were given back."""
        shutil.rmtree(self._folder, ignore_errors=True)


def last_records(cache: Path) -> Iterator[LastRecord]:
    """Of every process of this machine that has ended without closing its recorder."""
    host = socket.gethostname()
    for folder in sorted((cache / _FOLDER).glob("*+*+*")):
        name = folder.name.replace("+", "/")
        machine, pid, _ = name.rsplit("/", 2)
        if machine != host or _is_alive(int(pid)):
            continue
        try:
            suspects = _ids(np.fromfile(folder / _CAPTURES, np.int64))
            fault = (folder / _END).read_text(errors="replace").partition("\n")[0]
        except OSError:
            suspects, fault = set(), ""
        reason = fault.removeprefix("Fatal Python error: ") or "killed: out of memory, by hand, or the machine stopped"
        yield LastRecord(name, suspects, f"the worker's process ended ({reason})", bool(fault), folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
