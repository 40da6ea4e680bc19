"""Writes files and folders that exist completely or not at all, however the process ends.

What has patients in it is made for its owner alone, whatever the umask is: files with mode 0600, folders with 0700. Who
wants to share one changes its mode afterwards; SQLite gives the files beside a database the database's mode.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def write_whole(file: Path, content: str | bytes) -> None:
    """Write `content` to a private file beside `file`, then rename it; make missing folders, also private. Text is
    UTF-8. A file that is replaced is private, too, whatever it was. Raises OSError.
    """
    private_folder(file.parent)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        create_private(part)
        part.write_bytes(data)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def private_folder(folder: Path) -> None:
    """Make a folder that only this user may enter, and those above it in the same way; leave alone what exists.

    Raises OSError.
    """
    if not folder.parent.is_dir() and folder.parent != folder:
        private_folder(folder.parent)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def create_private(file: Path) -> None:
    """Make an empty file that only this user may read, unless there is one. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, PRIVATE_FILE))


def append_private(file: Path) -> BinaryIO:
    """Open a file for appending; make it and its folder if they are missing. It becomes private if it is ours.

    Raises OSError.
    """
    private_folder(file.parent)
    handle = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, PRIVATE_FILE)
    if stat.S_ISREG(os.fstat(handle).st_mode):  # not a terminal or /dev/null
        with contextlib.suppress(PermissionError):
            os.fchmod(handle, PRIVATE_FILE)
    return os.fdopen(handle, "ab")


@contextmanager
def whole_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `out`, which becomes `out` at the end of the block, and is removed after an error.

    Raises FileExistsError if `out` has appeared in the meantime; with `replace` it is replaced, by a complete folder.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp lets only the owner read; the user of a worker reads bundles too
        if out.exists():
            if not replace:
                raise FileExistsError(errno.EEXIST, "has appeared in the meantime, and was left as it is", str(out))
            shutil.rmtree(out)
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise the OSError now that making or replacing the file or folder `path` would raise later. Leaves no trace."""
    check_folder(path.absolute().parent)


def check_folder(folder: Path) -> None:
    """Raise the OSError now that making `folder`, if it is missing, and writing into it would raise later."""
    existing = folder.absolute()
    while not existing.exists():  # the root exists
        existing = existing.parent
    try:
        # No permission tells what the file system will say: it may be read-only, full, or on a server.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(existing)) from None
