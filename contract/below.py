"""Opening a file below a folder, one name after another: whoever may write there can lead nobody out of it.

Each folder on the way is opened from the one before it, so a link is met where it stands, also one that is put there
in this moment. A path that is first looked at and then opened can be another one in between.
"""

import errno
import os
import stat

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LeadsOutside(OSError):
    """The path climbs out of its folder, or leads through a link."""

    def __init__(self) -> None:
        super().__init__(errno.ELOOP, "the path leads through a link or out of its folder")


def open_below(root: str | bytes | os.PathLike[str], path: bytes) -> int:
    """A handle of the file at `path`, relative to the folder `root`, which may itself be reached through links.

    It never waits for the writer of a pipe, and what was opened need not be a regular file: the caller looks at the
    handle. Raises LeadsOutside and other OSError; errno ELOOP is a link in the file's place.
    """
    *folders, name = path.split(b"/")
    if any(one in (b"", b".", b"..") for one in (*folders, name)):
        raise LeadsOutside
    handle = os.open(root, _FOLDER)
    try:
        for folder in folders:
            inner = _open_folder(folder, handle)
            os.close(handle)
            handle = inner
        return os.open(name, _FILE, dir_fd=handle)
    finally:
        os.close(handle)


def _open_folder(name: bytes, outer: int) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
    except NotADirectoryError:  # a file, or a link, which the system does not tell apart here
        if stat.S_ISLNK(os.stat(name, dir_fd=outer, follow_symlinks=False).st_mode):
            raise LeadsOutside from None
        raise
