"""Walks an archive: one folder per patient, right below the root or deeper, and captures anywhere below that.

Every entry is either a capture or is listed with the reason why it was skipped, and every patient has captures or is
named with the reason why not. Names are bytes throughout, because they need not be UTF-8. A folder that cannot be
listed must not look empty: its patient is named, and the others are found all the same. Only the root must be listable.
"""

import contextlib
import errno
import marshal
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contract.entries import Passed, called, is_junk, why_none, why_skipped
from contract.errors import ArchiveError, ArchiveUnavailable
from contract.imaging import SUFFIXES
from contract.layout import Layout
from contract.modified import stored_time
from contract.names import display_name, look_alike
from contract.states import UNSCREENED, NoCaptures, SkipReason

IN_MEMORY_BYTES = 32 * 2**20
MAX_PATH_BYTES = 2500
"""PostgreSQL's index rows hold 2,704 bytes; a pseudonym may make a path 22 bytes longer."""
_SYSTEMS_PATH_BYTES = 4096
"""PATH_MAX of Linux, the final zero byte included: neither this program nor a worker can open a longer path."""
MAX_PATIENT_DEPTH = 8
_FileEntry = tuple[bytes, int, int, int | None, int]
"""Path relative to the root, size in bytes, modification time as `stored_time` gives it, inode, change time like it."""


@dataclass(frozen=True, slots=True)
class FoundCapture:
    """A file of the archive: `path` is relative to its root, and begins with `patient`, the path of the patient's
    folder. `modified_ns` and `changed_ns`, the change time, are as the database stores them (contract/modified.py),
    `folder_inode` is the patient's folder's. With a pseudonym in `path`, `file` is the path on disk, and
    `look_alike` the hashed key of the names that look like the patient's.
    """

    path: bytes
    patient: bytes
    size_bytes: int
    modified_ns: int
    folder_inode: int | None = None
    inode: int | None = None
    changed_ns: int | None = None
    file: bytes | None = None
    look_alike: str | None = None


def inode_of(folder: bytes) -> int | None:
    """The folder's inode, as `stored_inode` gives it; None if it cannot be asked.

    A mounted folder has another one than the folder that it is mounted on.
    """
    try:
        return stored_inode(os.stat(folder))  # noqa: PTH116 - bytes
    except OSError:
        return None


def stored_inode(status: os.stat_result) -> int | None:
    """The lower 63 bits of the inode, which every database takes; None where the file system has none."""
    return status.st_ino & (1 << 63) - 1 or None


@dataclass(frozen=True, slots=True)
class PatientWithoutCaptures:
    """A folder for a patient with nothing to screen. `reason` is the end of the sentence that begins with its name."""

    patient: bytes
    code: NoCaptures
    reason: str

    @property
    def named(self) -> str:
        """The patient's name, and the reason in brackets."""
        return f"{display_name(self.patient)} ({self.reason})"


class FoundCaptures:
    """The captures of an archive, patient by patient, sorted by the bytes of their paths. Iterate as often as needed.

    Above IN_MEMORY_BYTES they are in a temporary file: a million captures take no more memory than a thousand.
    """

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - lives as long as this
        self._length = 0
        self.patients = 0

    def add(self, patient: bytes, folder_inode: int | None, captures: list[_FileEntry]) -> None:
        """Add all captures of one patient in one call."""
        captures.sort()
        marshal.dump((patient, folder_inode, captures), self._spool)
        self._length += len(captures)
        self.patients += 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[FoundCapture]:
        self._spool.seek(0)
        for _ in range(self.patients):
            patient, folder_inode, captures = marshal.load(self._spool)  # noqa: S302 - our own temporary file
            for path, size_bytes, modified_ns, inode, changed_ns in captures:
                yield FoundCapture(path, patient, size_bytes, modified_ns, folder_inode, inode, changed_ns)


@dataclass
class Archive:
    """The result of a walk. The same folder always gives the same captures in the same order, so the same chunks.

    `complete` is False if a folder above the patients' depth could not be listed: there may be patients in it.
    `failed` is True if storage did not answer somewhere, for another reason than a missing permission.
    """

    root: bytes
    patient_depth: int = 1
    captures: FoundCaptures = field(default_factory=FoundCaptures)
    without_captures: list[PatientWithoutCaptures] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    by_look: dict[str, list[bytes]] = field(default_factory=dict)
    complete: bool = True
    failed: bool = False

    @property
    def patients(self) -> int:
        """Number of patients with captures."""
        return self.captures.patients

    @property
    def look_alikes(self) -> list[list[bytes]]:
        """Groups of patients with captures whose folders' names look the same."""
        return [group for group in self.by_look.values() if len(group) > 1]

    @property
    def unscreened(self) -> bool:
        """Whether captures may be left out of their patients' cases."""
        return not UNSCREENED.isdisjoint(self.skipped)

    def skip(self, reason: SkipReason, path: bytes) -> None:
        self.skipped.setdefault(reason, []).append(display_name(path))


def walk_archive(folder: Path, patient_depth: int = 1) -> Archive:
    """Find the captures below `folder`, whose patients' folders are `patient_depth` levels below it.

    Raises ArchiveError (no such folder, empty, no captures) and ArchiveUnavailable (its storage does not answer).
    """
    archive = walk(folder, patient_depth=patient_depth)
    if len(archive.root) > MAX_PATH_BYTES:
        raise ArchiveError(f"the archive's path has more than {MAX_PATH_BYTES} bytes; mount it at a shorter one")
    if not archive.captures:
        _refuse_empty(display_name(os.fsencode(folder)), archive)
    return archive


def walk(folder: Path, *, follow_links: bool = False, patient_depth: int = 1) -> Archive:
    """Find the captures in any tree of folders. Each folder `patient_depth` levels below `folder` has the name of a
    patient or a label.

    Links in an archive are not followed, because they could lead to other patients. `follow_links` is for a tree that
    somebody prepared for training; what cannot be read there is an error. Raises ArchiveError (no such folder, its root
    may not be read) and ArchiveUnavailable.
    """
    root = os.path.realpath(os.fsencode(folder))
    _check_root(display_name(os.fsencode(folder)), root)
    archive = Archive(root, patient_depth)
    walker = _Walker(root, archive, follow_links)
    try:
        walker.enter(b"", patient_depth)
        if archive.failed and not walker.listed(b""):  # not one folder, but all of them
            raise ArchiveUnavailable("the archive's root has become empty; mount it again; nothing was submitted")
    except _CannotRead as trouble:
        raise trouble.as_stop() from None
    return archive


def _check_root(folder: str, root: bytes) -> None:
    if not os.path.lexists(root):
        raise ArchiveError(f"{folder}: no such folder; name the folder that holds one folder per patient")
    if not os.path.isdir(root):  # noqa: PTH112 - bytes
        raise ArchiveError(f"{folder} is a file; name the folder that holds one folder per patient")


class _CannotRead(Exception):
    """A folder cannot be listed, or an entry not looked at."""

    def __init__(self, path: bytes, error: OSError) -> None:
        super().__init__()
        self.path = path
        self.errno = error.errno
        self.strerror = error.strerror

    @property
    def may_not(self) -> bool:
        return self.errno in (errno.EACCES, errno.EPERM)

    def as_stop(self) -> Exception:
        """The error that ends the walk."""
        shown = display_name(self.path) or "the archive's root"
        if self.may_not:
            return ArchiveError(f"{shown}: may not be read by this user; change its permissions, then submit again")
        return ArchiveUnavailable(f"{shown}: cannot be listed ({self.strerror}); nothing was submitted")

    def as_reason(self, patient: bytes) -> str:
        """Why the patient with this folder has no captures."""
        inner = display_name(self.path[len(patient) + 1 :])
        how = "may not be read by this user" if self.may_not else f"cannot be read ({self.strerror})"
        return f"{inner + ' in its folder' if inner else 'its folder'} {how}, so none of its captures was submitted"


@dataclass
class _Walker:
    root: bytes
    archive: Archive
    follow_links: bool
    entered: set[tuple[int, int]] = field(default_factory=set)
    """Device and inode of each folder if links are followed: so circular links end, and nothing is found twice."""

    def __post_init__(self) -> None:
        self.longest = min(MAX_PATH_BYTES, _SYSTEMS_PATH_BYTES - len(self.root) - 2)
        """Longest path below the root that the database and the system take: a slash and a zero byte are added."""

    def enter(self, folder: bytes, levels: int) -> None:
        """Find the captures of the patients whose folders lie `levels` levels below `folder`."""
        passed, has_folders = Passed(), False
        for entry in self.listed(folder):
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - bytes
            try:
                if not self.is_folder(entry, path):
                    self.sort_in(path, entry, passed, in_patient=False)
                    self.name_link(path, entry)
                    continue
                has_folders = True
                if levels == 1:
                    self.add_patient(path)
                else:
                    self.enter(path, levels - 1)
            except _CannotRead as trouble:
                if self.follow_links:
                    raise
                has_folders = True
                self.archive.failed |= not trouble.may_not
                self.archive.complete &= levels == 1
                self.without_captures(path, NoCaptures.NOT_READABLE, trouble.as_reason(path))
        if folder and not has_folders:
            captures = sum(count for (reason, _), count in passed.items() if reason is SkipReason.NO_PATIENT)
            holds = f"captures ({captures}), but no patient's folder" if captures else "no patient's folder"
            self.without_captures(
                folder, NoCaptures.NOT_AT_DEPTH, f"it is above the patients' folders and holds {holds}"
            )

    def listed(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as listing:  # noqa: PTH118 - bytes
                return sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise _CannotRead(folder, error) from None

    def is_folder(self, entry: os.DirEntry[bytes], path: bytes) -> bool:
        """Whether the entry is a folder that the walk should enter."""
        try:
            if is_junk(entry.name) or not entry.is_dir(follow_symlinks=self.follow_links):
                return False
            if not self.follow_links:
                return True
            status = entry.stat()
        except OSError as error:
            raise _CannotRead(path, error) from None
        identity = (status.st_dev, status.st_ino)
        is_new = identity not in self.entered
        self.entered.add(identity)
        return is_new

    def add_patient(self, patient: bytes) -> None:
        passed = Passed()
        captures = self.captures_below(patient, passed)
        if not captures:
            self.without_captures(patient, *why_none(passed))
        elif self.fits(patient):
            inode = inode_of(os.path.join(self.root, patient))  # noqa: PTH118 - bytes
            self.archive.captures.add(patient, inode, captures)
            self.archive.layout.add(patient, (path for path, *_ in captures))
            self.archive.by_look.setdefault(look_alike(patient), []).append(patient)

    def without_captures(self, patient: bytes, code: NoCaptures, reason: str) -> None:
        if self.fits(patient):
            self.archive.without_captures.append(PatientWithoutCaptures(patient, code, reason))

    def fits(self, patient: bytes) -> bool:
        """Whether the database takes the patient's name as text, which may be four times as long as the bytes."""
        is_short = len(display_name(patient).encode()) <= MAX_PATH_BYTES
        if not is_short:
            self.archive.skip(SkipReason.PATH_TOO_LONG, patient)
        return is_short

    def name_link(self, path: bytes, entry: os.DirEntry[bytes]) -> None:
        """A link that leads to a folder looks like a patient's folder to people."""
        with contextlib.suppress(OSError):
            if entry.is_symlink() and not self.follow_links and entry.is_dir() and not is_junk(entry.name):
                self.without_captures(path, NoCaptures.ONLY_LINKS, "its folder is a link, which is not followed")

    def captures_below(self, folder: bytes, passed: Passed) -> list[_FileEntry]:
        """Every capture below `root/folder`; all other entries are listed with the reason why they were skipped."""
        captures, folders = [], [folder]
        while folders:
            folder = folders.pop()
            for entry in self.listed(folder):
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - bytes
                if self.is_folder(entry, path):
                    if len(path) <= self.longest:
                        folders.append(path)
                    else:
                        self.skip(SkipReason.PATH_TOO_LONG, path, passed)
                elif (capture := self.sort_in(path, entry, passed)) is not None:
                    captures.append(capture)
        return captures

    def sort_in(
        self, path: bytes, entry: os.DirEntry[bytes], passed: Passed, *, in_patient: bool = True
    ) -> _FileEntry | None:
        """The entry if it is a capture; otherwise None, and the entry is listed with the reason why it was skipped."""
        try:
            reason = why_skipped(entry, follow_links=self.follow_links, openable=len(path) <= self.longest)
            if reason is None and not in_patient:
                reason = SkipReason.NO_PATIENT
            if reason is not None:
                self.skip(reason, path, passed)
                return None
            status = entry.stat(follow_symlinks=self.follow_links)
        except FileNotFoundError:  # removed while we were walking: it is not in the archive
            return None
        except OSError as error:
            raise _CannotRead(path, error) from None
        times = stored_time(status.st_mtime_ns), stored_time(status.st_ctime_ns)
        return path, status.st_size, times[0], stored_inode(status), times[1]

    def skip(self, reason: SkipReason, path: bytes, passed: Passed) -> None:
        self.archive.skip(reason, path)
        passed[reason, called(reason, path)] += 1


def _refuse_empty(folder: str, archive: Archive) -> None:
    captures = len(archive.skipped.get(SkipReason.NO_PATIENT, ()))
    if captures:
        raise ArchiveError(
            f"{folder} holds {captures} captures but no folder of a patient; each patient needs a folder of its own. "
            "Is this one patient's folder? Then name the folder above it"
        )
    unreadable = [patient for patient in archive.without_captures if patient.code is NoCaptures.NOT_READABLE]
    if unreadable:
        first = f"{display_name(unreadable[0].patient)}: {unreadable[0].reason}"
        problem = f"{folder} has no captures that can be read: {first}"
        if archive.failed:
            raise ArchiveUnavailable(f"{problem}; nothing was submitted")
        raise ArchiveError(f"{problem}; change the permissions, then submit again")
    files = sum(map(len, archive.skipped.values()))
    suffixes = ", ".join(sorted(SUFFIXES))
    problem = f"none of its {files} files is a capture ({suffixes})" if files else "it is empty"
    raise ArchiveError(f"{folder} has no captures: {problem}; name the folder that holds one folder per patient")
