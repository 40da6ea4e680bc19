"""Walks an archive: one folder per patient right below the root, captures anywhere below that.

Every entry is either a capture or is listed with the reason why it was skipped. Names are bytes throughout, because
they need not be UTF-8. An error while listing a folder stops the walk: an unreadable folder must not look empty.
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
"""In lower case. Files and folders whose names begin with a dot are junk as well (`._*`: macOS resource forks)."""
JUNK_FOLDERS = frozenset({b"__macosx", b"@eadir", b"$recycle.bin", b"system volume information"})
IN_MEMORY_BYTES = 32 * 2**20
_FileEntry = tuple[bytes, int, int]
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
    """The captures of an archive, patient by patient, sorted by the bytes of their paths. Iterate as often as needed.

    Above IN_MEMORY_BYTES they are in a temporary file: a million captures take no more memory than a thousand.
    """

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - lives as long as this
        self._length = 0
        self.patients = 0

    def add(self, patient: bytes, captures: list[_FileEntry]) -> None:
        """Add all captures of one patient in one call."""
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
    """The result of a walk. The same folder always gives the same captures in the same order, so the same chunks."""

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
    archive = walk(folder)
    if not archive.captures:
        _refuse_empty(display_name(os.fsencode(folder)), archive)
    return archive


def walk(folder: Path, *, follow_links: bool = False) -> Archive:
    """Find the captures in any tree of folders. Each folder right below `folder` has the name of a patient or a label.

    Links in an archive are not followed, because they could lead to other patients. `follow_links` is for a tree that
    somebody prepared for training. Raises ArchiveError (no such folder) and ArchiveUnavailable.
    """
    root = os.path.realpath(os.fsencode(folder))
    _check_root(display_name(os.fsencode(folder)), root)
    archive = Archive(root)
    walker = _Walker(root, archive, follow_links)
    for entry in walker.listed(b""):
        if walker.is_folder(entry, entry.name):
            captures = walker.captures_below(entry.name)
            if captures:
                archive.captures.add(entry.name, captures)
        else:
            walker.sort_in(entry.name, entry)
    return archive


def _check_root(folder: str, root: bytes) -> None:
    if not os.path.lexists(root):
        raise ArchiveError(f"{folder}: no such folder; name the folder that holds one folder per patient")
    if not os.path.isdir(root):  # noqa: PTH112 - bytes
        raise ArchiveError(f"{folder} is a file; name the folder that holds one folder per patient")


@dataclass
class _Walker:
    root: bytes
    archive: Archive
    follow_links: bool
    entered: set[tuple[int, int]] = field(default_factory=set)
    """Device and inode of each folder if links are followed: so circular links end, and nothing is found twice."""

    def listed(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as listing:  # noqa: PTH118 - bytes
                return sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise _cannot_list(folder, error) from None

    def is_folder(self, entry: os.DirEntry[bytes], path: bytes) -> bool:
        """Whether the entry is a folder that the walk should enter."""
        try:
            if is_junk(entry.name) or not entry.is_dir(follow_symlinks=self.follow_links):
                return False
            if not self.follow_links:
                return True
            status = entry.stat()
        except OSError as error:
            raise _cannot_list(path, error) from None
        identity = (status.st_dev, status.st_ino)
        is_new = identity not in self.entered
        self.entered.add(identity)
        return is_new

    def captures_below(self, folder: bytes) -> list[_FileEntry]:
        """Every capture below `root/folder`; all other entries are listed with the reason why they were skipped."""
        captures, folders = [], [folder]
        while folders:
            folder = folders.pop()
            for entry in self.listed(folder):
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - bytes
                if self.is_folder(entry, path):
                    folders.append(path)
                elif (capture := self.sort_in(path, entry)) is not None:
                    captures.append(capture)
        return captures

    def sort_in(self, path: bytes, entry: os.DirEntry[bytes]) -> _FileEntry | None:
        """The entry if it is a capture; otherwise None, and the entry is listed with the reason why it was skipped."""
        try:
            reason = _why_skipped(path, entry, follow_links=self.follow_links)
            if reason is not None:
                self.archive.skip(reason, path)
                return None
            status = entry.stat(follow_symlinks=self.follow_links)
        except FileNotFoundError:  # removed while we were walking: it is not in the archive
            return None
        except OSError as error:
            raise _cannot_list(path, error) from None
        return path, status.st_size, status.st_mtime_ns


def is_junk(name: bytes) -> bool:
    """Whether a file or folder of this name lies beside captures by accident, and is no capture of its own."""
    return name.startswith(b".") or name.lower() in JUNK_NAMES | JUNK_FOLDERS


def _why_skipped(path: bytes, entry: os.DirEntry[bytes], *, follow_links: bool) -> SkipReason | None:
    if entry.is_symlink() and not follow_links:
        return SkipReason.LINK
    if is_junk(entry.name):
        return SkipReason.JUNK
    if not entry.is_file(follow_symlinks=follow_links):
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
    captures = len(archive.skipped.get(SkipReason.NO_PATIENT, ()))
    if captures:
        raise ArchiveError(
            f"{folder} holds {captures} captures but no folder of a patient; each patient needs a folder of its own. "
            "Is this one patient's folder? Then name the folder above it"
        )
    files = sum(map(len, archive.skipped.values()))
    suffixes = ", ".join(sorted(SUFFIXES))
    problem = f"none of its {files} files is a capture ({suffixes})" if files else "it is empty"
    raise ArchiveError(f"{folder} has no captures: {problem}; name the folder that holds one folder per patient")
