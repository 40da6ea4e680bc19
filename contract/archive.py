"""Walking an archive: one folder per patient right below the root, captures anywhere below that.

Every entry is either a capture or named with the reason why it was passed over. Names are bytes throughout: they need
not be UTF-8. Errors while listing a folder stop the walk: a folder that cannot be read must not look empty.
"""

import errno
import marshal
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contract.errors import ArchiveError, ArchiveUnavailable
from contract.imaging import SUFFIXES
from contract.names import display_name
from contract.states import SkipReason

JUNK_NAMES = frozenset({b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b".ds_store", b"$recycle.bin", b".directory"})
"""In lower case. Names that begin with a dot, files and folders, are junk as well (`._*`: macOS resource forks)."""
JUNK_FOLDERS = frozenset({b"__macosx", b"@eadir", b"$recycle.bin", b"system volume information"})
IN_MEMORY_BYTES = 32 * 2**20
_Found = tuple[bytes, int, int]
"""Path relative to the root, size in bytes, modification time in nanoseconds."""
_SUFFIXES = frozenset(suffix.encode() for suffix in SUFFIXES)


@dataclass(frozen=True, slots=True)
class FoundCapture:
    """A file of the archive: `path` is relative to its root, `patient` is the folder right below the root."""

    path: bytes
    patient: bytes
    size_bytes: int
    modified_ns: int


class FoundCaptures:
    """The captures of an archive, patient by patient, in the order of their paths' bytes; may be gone over repeatedly.

    Beyond some tens of megabytes they lie in a temporary file: a million captures take no more memory than a thousand.
    """

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - lives as long as this
        self._length = 0
        self.patients = 0

    def add(self, patient: bytes, captures: list[_Found]) -> None:
        """One patient's captures, all at once."""
        captures.sort()
        marshal.dump((patient, captures), self._spool)
        self._length += len(captures)
        self.patients += 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[FoundCapture]:
        self._spool.seek(0)
        for _ in range(self.patients):
            patient, captures = marshal.load(self._spool)  # noqa: S302 - our own temporary file
            for path, size_bytes, modified_ns in captures:
                yield FoundCapture(path, patient, size_bytes, modified_ns)


@dataclass
class Archive:
    """What a walk found. The same folder always gives the same captures in the same order, hence the same chunks."""

    root: bytes
    captures: FoundCaptures = field(default_factory=FoundCaptures)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def patients(self) -> int:
        return self.captures.patients

    def skip(self, reason: SkipReason, path: bytes) -> None:
        self.skipped.setdefault(reason, []).append(display_name(path))


def walk_archive(folder: Path) -> Archive:
    """Find the captures below `folder`.

    Raises ArchiveError (no such folder, empty, no patients) and ArchiveUnavailable (its storage does not answer).
    """
    root = os.path.realpath(os.fsencode(folder))
    shown = display_name(os.fsencode(folder))
    _check_root(shown, root)
    archive = Archive(root)
    for entry in _listed(root, b""):
        if _is_folder(entry, entry.name) and not _is_junk(entry.name):
            found = [one for below in _below(root, entry.name) if (one := _sorted_in(archive, *below))]
            if found:
                archive.captures.add(entry.name, found)
        else:
            _sorted_in(archive, entry.name, entry)
    if not archive.captures:
        _refuse_empty(shown, archive)
    return archive


def _check_root(folder: str, root: bytes) -> None:
    if not os.path.lexists(root):
        raise ArchiveError(f"{folder}: no such folder; name the folder that holds one folder per patient")
    if not os.path.isdir(root):  # noqa: PTH112 - bytes
        raise ArchiveError(f"{folder} is a file; name the folder that holds one folder per patient")


def _listed(root: bytes, folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(os.path.join(root, folder)) as listing:  # noqa: PTH118 - bytes
            return sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise _cannot_list(folder, error) from None


def _below(root: bytes, folder: bytes) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Every entry below `root/folder` that is no real folder, with its path relative to `root`."""
    folders = [folder]
    while folders:
        folder = folders.pop()
        for entry in _listed(root, folder):
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - bytes
            if _is_folder(entry, path) and not _is_junk(entry.name):
                folders.append(path)
            else:
                yield path, entry


def _is_folder(entry: os.DirEntry[bytes], path: bytes) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError as error:
        raise _cannot_list(path, error) from None


def _is_junk(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in JUNK_NAMES | JUNK_FOLDERS


def _sorted_in(archive: Archive, path: bytes, entry: os.DirEntry[bytes]) -> _Found | None:
    """The entry if it is a capture; else it is noted with the reason why it was passed over."""
    try:
        reason = _why_skipped(path, entry)
        if reason is not None:
            archive.skip(reason, path)
            return None
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # removed while we were walking: it is not in the archive
        return None
    except OSError as error:
        raise _cannot_list(path, error) from None
    return path, status.st_size, status.st_mtime_ns


def _why_skipped(path: bytes, entry: os.DirEntry[bytes]) -> SkipReason | None:
    if entry.is_symlink():
        return SkipReason.LINK
    if _is_junk(entry.name):
        return SkipReason.JUNK
    if not entry.is_file(follow_symlinks=False):
        return SkipReason.NOT_A_FILE
    if os.path.splitext(entry.name.lower())[1] not in _SUFFIXES:  # noqa: PTH122 - bytes
        return SkipReason.NOT_A_CAPTURE
    if b"/" not in path:
        return SkipReason.NO_PATIENT
    return None


def _cannot_list(path: bytes, error: OSError) -> Exception:
    shown = display_name(path) or "the archive's root"
    if error.errno in (errno.EACCES, errno.EPERM):
        return ArchiveError(f"{shown}: may not be read by this user; change its permissions, then submit again")
    return ArchiveUnavailable(f"{shown}: cannot be listed ({error.strerror}); nothing was submitted")


def _refuse_empty(folder: str, archive: Archive) -> None:
    loose = len(archive.skipped.get(SkipReason.NO_PATIENT, ()))
    if loose:
        raise ArchiveError(
            f"{folder} holds {loose} captures but no folder of a patient; each patient needs a folder of its own. "
            "Is this one patient's folder? Then name the folder above it"
        )
    found = sum(map(len, archive.skipped.values()))
    what = f"none of its {found} files is a capture ({', '.join(sorted(SUFFIXES))})" if found else "it is empty"
    raise ArchiveError(f"{folder} has no captures: {what}; name the folder that holds one folder per patient")
