"""Finds the files that a table names: a path may be written in another Unicode form than on disk, or as on Windows."""

import contextlib
import errno
import os
import re
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from contract.errors import DataError
from contract.printable import printable

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True)
class ListedFile:
    """`path` relative to the root, posix, as on disk, or absolute if it lies elsewhere. Two paths with one `identity`
    are the same file.
    """

    path: str
    identity: object


@dataclass
class ListedFiles:
    """The files below `root` that a table may name; folders are listed only where a path is not found as written."""

    root: Path
    _listings: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, written: str, where: str) -> ListedFile | None:
        """The file that a table means by `written`; None if there is none. `where` begins the sentence of a DataError,
        raised for a file that this user may not read.
        """
        for path in dict.fromkeys((plain(written), plain(written.replace("\\", "/")))):
            for on_disk in (lambda path: path, self._as_on_disk):
                candidate = on_disk(path)
                status = None if candidate is None else self._status(candidate, where)
                if candidate is not None and status is not None and stat.S_ISREG(status.st_mode):
                    return ListedFile(self._relative(candidate), self._identity(candidate, status))
        return None

    def hint(self, written: str) -> str:
        """What may be wrong with a path that is not found, as a part of a sentence that begins with a blank, or ""."""
        slashed = written.replace("\\", "/")
        path = plain(slashed)
        if re.match(r"[A-Za-z]:/|//|[a-z]+://", slashed):
            return " (a path on another computer)"
        if (self.root / path).is_dir():
            return " (a folder)"
        try:
            repaired = written.encode("cp1252").decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            repaired = written
        if repaired != written:
            return f" (a program read UTF-8 as Windows-1252 and saved it so: is it {printable(repaired)}?)"
        parts = path.split("/")
        for start in range(len(parts)):
            there = self._as_on_disk("/".join(parts[start:]), fold=True)
            if there is not None:
                return f" (there is {printable(there)})"
        return ""

    def _status(self, path: str, where: str) -> os.stat_result | None:
        try:
            return (self.root / path).stat()
        except ValueError:  # a NUL
            return None
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            if error.errno in _NOT_ALLOWED:
                raise DataError(
                    f"{where}: {printable(path)} may not be read by this user; give them the right to"
                ) from None
            raise

    def _identity(self, path: str, status: os.stat_result) -> object:
        """A file with one name on disk is known by its number, whatever links, cases or Unicode forms lead to it. Size
        and time guard against storage whose numbers are not unique.
        """
        if status.st_nlink == 1 and status.st_ino:
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        return os.path.realpath(self.root / path)

    def _relative(self, path: str) -> str:
        for root in (self.root.absolute(), self.root.resolve()):
            if Path(path).is_relative_to(root):
                return Path(path).relative_to(root).as_posix()
        return path

    def _as_on_disk(self, path: str, *, fold: bool = False) -> str | None:
        """The path whose parts are on disk in some Unicode form, perhaps with blanks around them, with `fold` also in
        another case; None if there is none, or several.
        """
        found = Path("/" if path.startswith("/") else "")
        for part in path.strip("/").split("/"):
            names = self._listing(found).get(_key(part), [])
            names = names if fold else [name for name in names if _form(name) == _form(part)]
            if part == "..":
                names = [part]
            if len(names) != 1:
                return None
            found /= names[0]
        return str(found)

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder below the root by `_key`; empty if it is none, or may not be listed."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                for entry in sorted((self.root / folder).iterdir()):
                    names.setdefault(_key(entry.name), []).append(entry.name)
            self._listings[folder] = names
        return self._listings[folder]


def plain(path: str) -> str:
    """A posix path without `.` and without doubled or final slashes. `..` stays: a link may lie before it.

    >>> plain("./Pre//a.jpg")
    'Pre/a.jpg'
    """
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return f"/{parts}" if path.startswith("/") else parts


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _key(name: str) -> str:
    return _form(name).casefold()
