"""Captures that cannot be read for a reason outside them: their disk is not mounted, or the worker's user has no right.

To reject them would make a result of a fault of the surroundings. So a capture is `missing` only if it is sure that the
archive is there: the patient's folder is the same as at submit, by its inode, or at least half of the captures beside
it are there. It is `not_readable` only if at least half of those beside it can be read. All others are put off.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Engine

from contract.archive import inode_of
from contract.errors import ArchiveUnavailable
from contract.outcomes import ChunkOutcome, Rejected
from contract.states import RejectCode
from db.lease import Lease
from db.witnesses import captures_below, folder_inodes

NOT_THERE = (
    "captures are missing, and so are most of those beside them: is a disk not mounted? Work goes on by itself when "
    "they are there again; if they were removed, submit the archive again and `screen cancel` this run"
)
NOT_FOR_THIS_WORKER = (
    "this worker's user may read neither some captures nor most of those beside them; give it the right to read the "
    "folders, work goes on by itself"
)
_WHY = {RejectCode.MISSING: NOT_THERE, RejectCode.NOT_READABLE: NOT_FOR_THIS_WORKER}
RealPath = Callable[[bytes], bytes]


def put_off(database: Engine, lease: Lease, outcome: ChunkOutcome, real_path: RealPath) -> ChunkOutcome:
    """The outcome, with those captures put off that were rejected for what surrounds them.

    `real_path` gives the path on disk for a stored path. Raises ArchiveUnavailable if no other capture is left in the
    chunk, and DatabaseUnavailable.
    """
    suspects = [one for one in outcome.rejected if one.code in _WHY]
    if not suspects:
        return outcome
    paths = {capture.id: capture.path for capture in lease.captures}
    inodes = folder_inodes(database, [one.capture_id for one in suspects])
    archive = _Archive(database, lease.run_id, lease.root, 1 if lease.pseudonym_key else lease.patient_depth, real_path)
    put_off = [
        one for one in suspects if not archive.believes(one.code, paths[one.capture_id], inodes.get(one.capture_id))
    ]
    if not put_off:
        return outcome
    reason = _reason(put_off)
    if len(put_off) == len(lease.captures):
        raise ArchiveUnavailable(reason)
    ids = [one.capture_id for one in put_off]
    left = [one for one in outcome.rejected if one.capture_id not in ids]
    return replace(outcome, rejected=left, put_off=ids, put_off_reason=reason)


def _reason(put_off: Sequence[Rejected]) -> str:
    return "; ".join(why for code, why in _WHY.items() if any(one.code is code for one in put_off))


@dataclass
class _Archive:
    """What is on disk of a run's archive now. `patient_depth` counts the names of a patient's folder in stored
    paths.
    """

    database: Engine
    run_id: int
    root: bytes
    patient_depth: int
    real_path: RealPath
    _beside: dict[bytes, Sequence[bytes]] = field(default_factory=dict)
    _there: dict[tuple[RejectCode, bytes], bool] = field(default_factory=dict)

    def believes(self, code: RejectCode, path: bytes, folder_inode: int | None) -> bool:
        """Whether it is this capture alone that is missing or may not be read. `folder_inode` is that of the patient's
        folder at submit. A capture that can be read by now is not: its disk has come back.
        """
        if self._is_there(code, path):
            return False
        names = path.split(b"/")
        folders = [b"/".join(names[:count]) for count in range(len(names) - 1, -1, -1)]
        if code is RejectCode.MISSING:
            while folders[0] and not os.path.isdir(self._on_disk(folders[0])):  # noqa: PTH112 - bytes
                folders.pop(0)
            patient = b"/".join(names[: self.patient_depth])
            if folders[0] == patient and folder_inode and inode_of(self._on_disk(patient)) == folder_inode:
                return True
        for folder in folders:
            beside = [one for one in self._captures_below(folder) if one != path]
            if beside:
                return 2 * sum(self._is_there(code, one) for one in beside) >= len(beside)
        return False

    def _captures_below(self, folder: bytes) -> Sequence[bytes]:
        if folder not in self._beside:
            self._beside[folder] = captures_below(self.database, self.run_id, folder)
        return self._beside[folder]

    def _is_there(self, code: RejectCode, path: bytes) -> bool:
        if (code, path) not in self._there:
            file = self._on_disk(path)
            self._there[code, path] = _is_file(file) if code is RejectCode.MISSING else _can_be_opened(file)
        return self._there[code, path]

    def _on_disk(self, path: bytes) -> bytes:
        return os.path.join(self.root, self.real_path(path))  # noqa: PTH118 - bytes


def _is_file(file: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(file).st_mode)
    except OSError:
        return False


def _can_be_opened(file: bytes) -> bool:
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True
