"""A flight recorder: which captures of a worker process are in native code, which may crash or hang, and which chunks
it is claiming or finishing.

Decoders and engines are native code: a hostile file or a bad batch can end the process without any message. A small
folder, which stays after the process, records what it was doing. So a sweeper on this machine can give its chunks back
at once and say which few captures to screen alone.
"""

import faulthandler
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.identity import ProcessIdentity

SLOTS = 4096
"""More captures than the decoders and the batches under way can hold; any above this number are not recorded."""
_OPENING = SLOTS
"""This place is not for a capture: it is 1 while the engine is opened."""
_CHUNKS = SLOTS + 1
"""From here on are the chunks that are being claimed or finished: one by Celery's thread, one by the database's."""
_LENGTH = _CHUNKS + 2
STALE_S = 7 * 24 * 3600
"""Leases last an hour at most, so after a week a record has no use."""
WHILE_OPENING = "while its engine was opened"
_FOLDER, _CAPTURES, _END = "workers", "captures", "end"


class FlightRecorder:
    """The captures that one process has under way, by id; several threads write to it.

    `cache` is the folder that workers of this user share, and `database` the UUID of the database whose captures these
    are: another database's workers look for their own. Without a folder only this process can read the record.
    """

    def __init__(self, cache: Path | None = None, database: str = "") -> None:
        self.name = f"{ProcessIdentity.own()}/{secrets.token_hex(4)}"
        """The name of this process; no other process ever has the same."""
        self._lock = threading.Lock()
        self._free = list(range(SLOTS))
        self._free_chunks = list(range(_CHUNKS, _LENGTH))
        self._slots: NDArray[np.int64] = np.zeros(_LENGTH, np.int64)
        self._folder: Path | None = None
        if cache is not None:
            self._folder = cache / _FOLDER / database / self.name.replace("/", "+")
            self._folder.mkdir(mode=0o700, parents=True)
            self._slots = _mapped(self._folder / _CAPTURES)
            self._end = (self._folder / _END).open("w")
            faulthandler.enable(self._end)  # writes down which signal ended the process, and where

    def begin(self, capture_ids: Sequence[int]) -> list[int]:
        """Note that these captures are under way. Returns their places, which `end` needs."""
        with self._lock:
            places = [self._free.pop() for _ in capture_ids[: len(self._free)]]
        self._slots[places] = capture_ids[: len(places)]
        return places

    def end(self, places: Sequence[int]) -> None:
        """Note that the captures in these places are done."""
        self._slots[list(places)] = 0
        with self._lock:
            self._free.extend(places)

    def suspects(self) -> set[int]:
        """The captures under way at this moment."""
        return _ids(self._slots)

    @contextmanager
    def at_chunk(self, chunk_id: int) -> Iterator[None]:
        """Note during the block that the chunk is being claimed or finished: its captures are not in work."""
        with self._lock:
            place = self._free_chunks.pop()
        self._slots[place] = chunk_id
        try:
            yield
        finally:
            self._slots[place] = 0
            with self._lock:
                self._free_chunks.append(place)

    def chunks(self) -> set[int]:
        """The chunks that are being claimed or finished at this moment."""
        return _chunks(self._slots)

    @contextmanager
    def opening_engine(self, limit_s: float | None = None) -> Iterator[None]:
        """Note during the block that the engine is being opened: what ends the process then is no capture's fault.

        After `limit_s` a thread that needs no interpreter notes that, and ends the process.
        """
        self._slots[_OPENING] = 1
        if self._folder is not None and limit_s is not None:
            faulthandler.dump_traceback_later(limit_s, exit=True, file=self._end)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._slots[_OPENING] = 0

    @property
    def is_opening(self) -> bool:
        """Whether the engine is being opened at this moment."""
        return bool(self._slots[_OPENING])

    def note_end(self, reason: str) -> None:
        """Note the reason for which the process is about to end."""
        if self._folder is not None:
            print(reason, file=self._end, flush=True)

    def close(self) -> None:
        """For a normal end of the process: remove the record, because a sweeper has nothing to do."""
        if self._folder is not None:
            faulthandler.disable()
            self._end.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _mapped(file: Path) -> NDArray[np.int64]:
    with file.open("wb") as stream:
        # Otherwise a full disk would cause a SIGBUS at a later write.
        os.posix_fallocate(stream.fileno(), 0, _LENGTH * 8)
    return np.memmap(file, np.int64, "r+", shape=(_LENGTH,))


def _ids(slots: NDArray[np.int64]) -> set[int]:
    captures = slots[:SLOTS]
    return {int(capture_id) for capture_id in captures[captures != 0]}


def _chunks(slots: NDArray[np.int64]) -> set[int]:
    return {int(chunk_id) for chunk_id in slots[_CHUNKS:] if chunk_id}


@dataclass(frozen=True)
class LastRecord:
    """The record that an ended process left. Its leases carry `name`; `reason` says how it ended."""

    name: str
    suspects: set[int]
    chunks: set[int]
    """The chunks that it was claiming or finishing."""
    reason: str
    crashed: bool
    """Whether a fault in the process ended it; otherwise something killed it, or its machine stopped."""
    opening: bool
    """Whether this happened while it opened its engine."""
    _folder: Path

    def forget(self) -> None:
        """Remove the record, after its chunks were given back."""
        shutil.rmtree(self._folder, ignore_errors=True)


def last_records(cache: Path, database: str) -> Iterator[LastRecord]:
    """The records of all processes at the database of this UUID that are sure to have ended without closing their
    recorder.

    Several machines and containers may share the folder, and workers of several databases. Records of their processes
    stay until they are STALE_S old: where they are the only trace of an ended process, its chunks are given back when
    their leases are over. So do records of earlier releases, which did not name their database.
    """
    for folder in (cache / _FOLDER).glob("**/*+*"):
        if folder.parent.name != database:
            _tidy(folder)
    for folder in sorted((cache / _FOLDER / database).glob("*+*")):
        name = folder.name.replace("+", "/")
        if not _has_ended(name):
            _tidy(folder)
            continue
        try:
            slots = np.fromfile(folder / _CAPTURES, np.int64)
            suspects, chunks, opening = _ids(slots), _chunks(slots), bool(slots[_OPENING])
            fault = (folder / _END).read_text(errors="replace").partition("\n")[0]
        except (OSError, IndexError):  # IndexError: it ended before the record had its length
            suspects, chunks, opening, fault = set(), set(), False, ""
        reason = fault.removeprefix("Fatal Python error: ") or "killed: out of memory, by hand, or the machine stopped"
        while_opening = f" {WHILE_OPENING}" if opening else ""
        ended = f"the worker's process ended{while_opening} ({reason})"
        yield LastRecord(name, suspects, chunks, ended, bool(fault), opening, folder)


def _has_ended(name: str) -> bool:
    try:
        return ProcessIdentity.parse(name.rpartition("/")[0]).is_gone()
    except ValueError:  # of an earlier release
        return False


def _tidy(folder: Path) -> None:
    """Remove a record that nobody can make use of any more. If its process lives, it works on without it."""
    try:
        is_stale = time.time() - folder.stat().st_mtime > STALE_S
    except OSError:
        return
    if is_stale:
        shutil.rmtree(folder, ignore_errors=True)
