"""The files of a bundle: each is opened below its folder, once, and read within bounds.

What is hashed is what is used. The folder may be written to at any moment, by a copy over a running bundle or on
purpose; nothing that was read can change by that.
"""

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from contract.below import LeadsOutside, open_below

MOST_BYTES = 1 << 30
"""Of one file; the largest EfficientNet takes a quarter of it."""
MOST_BYTES_BY_SUFFIX = {".json": 4 * 2**20, ".npz": 128 * 2**20, ".csv": 128 * 2**20}
MOST_BYTES_TOGETHER = 2 << 30
MOST_FILES = 10_000
_STEP = 1 << 20


class Unreadable(Exception):
    """A file of a bundle cannot be used; the text is the end of a sentence that begins with the file's name."""

    is_missing = False


def read_file(folder: Path, name: str, at_most: int = MOST_BYTES) -> bytes:
    """The bytes of the file `name`, a relative POSIX path below `folder`. Raises Unreadable, also for a file of more
    than `at_most` bytes or of more than its kind may have.
    """
    handle, size = _opened(folder, name, at_most)
    with os.fdopen(handle, "rb") as stream:
        try:
            data = stream.read(size + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise Unreadable("changes while it is read")
    return data


def digest_of_file(
    folder: Path, name: str, at_most: int = MOST_BYTES, *, into: BinaryIO | None = None
) -> tuple[str, int]:
    """The sha256, hexadecimal, and the size of a file that `read_file` would read, without keeping it; with `into`, it
    is copied there meanwhile. Raises Unreadable.
    """
    handle, size = _opened(folder, name, at_most)
    digest, read = hashlib.sha256(), 0
    with os.fdopen(handle, "rb") as stream:
        try:
            while read <= size and (part := stream.read(_STEP)):
                read += len(part)
                digest.update(part)
                if into is not None:
                    into.write(part)
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from error
    if read != size:
        raise Unreadable("changes while it is read")
    return digest.hexdigest(), size


def _opened(folder: Path, name: str, at_most: int) -> tuple[int, int]:
    """A handle of the regular file, and its size."""
    try:
        handle = open_below(folder, os.fsencode(name))
    except LeadsOutside:
        raise Unreadable("leads out of the bundle, or through a link") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, OSError) and os.path.islink(folder / name):  # noqa: PTH114 - for the sentence only
            raise Unreadable("leads out of the bundle, or through a link") from None
        unreadable = Unreadable(f"cannot be read ({getattr(error, 'strerror', None) or 'not a name'})")
        unreadable.is_missing = isinstance(error, FileNotFoundError)
        raise unreadable from error
    status = os.fstat(handle)
    most = min(at_most, MOST_BYTES_BY_SUFFIX.get(PurePosixPath(name).suffix, MOST_BYTES))
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        os.close(handle)
        if stat.S_ISREG(status.st_mode):
            raise Unreadable(f"has {status.st_size:,} bytes, at most {most:,} are read")
        raise Unreadable("cannot be read (it is no file)")
    return handle, status.st_size


def unlisted(folder: Path, listed: Collection[str]) -> str | None:
    """The relative path of an entry below `folder` that is not `listed`, if there is one. Empty folders are none.

    Raises OSError where a folder cannot be looked into.
    """
    names = frozenset(listed)
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if not entry.is_dir(follow_symlinks=False):
                    if name not in names:
                        return name
                elif name in folders:
                    waiting.append(name)
                elif _holds_anything(entry.path):
                    return name
    return None


def _holds_anything(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None
