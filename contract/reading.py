"""Reading a capture's bytes, once, and only from below the run's archive root.

The bytes that are hashed are the bytes that are decoded. Two kinds of failure are kept apart: a capture that is gone,
changed or unreadable is rejected; for an archive whose storage is not there, no capture is rejected.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader

from contract.below import LeadsOutside, open_below
from contract.errors import ArchiveUnavailable, CaptureRejected, StorageFault
from contract.imaging import MAX_BYTES
from contract.modified import same_time, stored_time
from contract.states import RejectCode

_AWAY = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EBUSY),
    }
)
"""Errors of the storage or of this machine, not of the capture; another attempt may succeed."""

_NO_FILE = "was a file at submit and is not one now; submit the folder again"


@dataclass(frozen=True, slots=True)
class CaptureBytes:
    """A capture's bytes and their sha256, hexadecimal."""

    data: bytes
    sha256: str


def check_archive(root: bytes) -> None:
    """Raise ArchiveUnavailable where the archive's root is not there; most likely it is not mounted."""
    try:
        with os.scandir(root) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        raise ArchiveUnavailable(
            f"the archive's root cannot be opened ({error.strerror}); mount it again, work goes on by itself"
        ) from None
    if is_empty:  # it held captures at submit: this is the mount point without its mount
        raise ArchiveUnavailable("the archive's root is empty; mount it again, work goes on by itself")


def read_capture(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> CaptureBytes:
    """Read the file `path`, relative to `root`, which had this size and modification time (as stored) at submit.

    The time may differ as far as mounts round it (contract/modified.py), the size not at all.

    Raises CaptureRejected (missing, changed, not_readable, outside_archive, too_large), whose sentence has no path, and
    ArchiveUnavailable, or its subclass StorageFault where the archive is there and only this file cannot be read.
    """
    with _opened(root, path, size_bytes, modified_ns) as stream:
        data = stream.read(size_bytes + 1)
        _check_length(len(data), size_bytes)
    return CaptureBytes(data, hashlib.sha256(data).hexdigest())


def read_screened(root: bytes, path: bytes, size_bytes: int, sha256: str) -> bytes:
    """The bytes of a capture that was screened, to be shown beside its result: those of this digest or none. Its
    modification time does not matter.

    Raises what `read_capture` raises; anything else than what was screened is `changed`.
    """
    with _opened(root, path, size_bytes, None) as stream:
        data = stream.read(size_bytes + 1)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CaptureRejected(RejectCode.CHANGED, "its bytes are not those that were screened")
    return data


def digest_of_capture(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> str:
    """The sha256, hexadecimal, of a file that `read_capture` would read, which need not fit into memory.

    Raises what `read_capture` raises.
    """
    with _opened(root, path, size_bytes, modified_ns) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _check_length(stream.tell(), size_bytes)
    return digest


@contextmanager
def _opened(root: bytes, path: bytes, size_bytes: int, modified_ns: int | None) -> Iterator[BufferedReader]:
    """The file, open for reading; errors while it is read become those that `read_capture` names. Without `modified_ns`
    any modification time will do.
    """
    try:
        handle = open_below(root, path)
    except OSError as error:
        raise _cannot_open(root, error) from None
    try:
        _check_unchanged(os.fstat(handle), size_bytes, modified_ns)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    except OSError as error:
        raise _cannot_open(root, error) from None
    finally:
        os.close(handle)


def _check_length(length: int, size_bytes: int) -> None:
    if length != size_bytes:
        raise CaptureRejected(RejectCode.CHANGED, f"{size_bytes:,} bytes at submit, a different length when read")


def _check_unchanged(status: os.stat_result, size_bytes: int, modified_ns: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CaptureRejected(RejectCode.CHANGED, _NO_FILE)
    if status.st_size > MAX_BYTES:
        raise CaptureRejected(RejectCode.TOO_LARGE, f"{status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    same_age = modified_ns is None or same_time(stored_time(status.st_mtime_ns), modified_ns)
    if status.st_size != size_bytes or not same_age:
        raise CaptureRejected(
            RejectCode.CHANGED, "size or modification time differ from those at submit; submit the folder again"
        )


def _cannot_open(root: bytes, error: OSError) -> Exception:
    if error.errno in _AWAY:
        check_archive(root)
        return StorageFault(f"the storage of a capture does not answer ({error.strerror})")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        check_archive(root)
        return CaptureRejected(RejectCode.MISSING, "was there at submit and is gone; submit the folder again")
    if isinstance(error, LeadsOutside):
        return CaptureRejected(RejectCode.OUTSIDE_ARCHIVE, "the path leads through a link or out of the archive")
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return CaptureRejected(RejectCode.OUTSIDE_ARCHIVE, "has become a link; links are not followed")
    if error.errno == errno.ENXIO:  # a socket
        return CaptureRejected(RejectCode.CHANGED, _NO_FILE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return CaptureRejected(RejectCode.NOT_READABLE, "the worker's user may not read the file")
    return CaptureRejected(RejectCode.NOT_READABLE, f"the file cannot be opened ({error.strerror})")
