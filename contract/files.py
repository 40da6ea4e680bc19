"""Writes files and folders that exist completely or not at all, however the process ends."""

import errno
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(file: Path, content: str | bytes) -> None:
    """Write `content` to a file beside `file`, then rename it; make missing folders. Text is UTF-8. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
