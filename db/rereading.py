"""Captures that submit reads although path, size and modification time are those of an earlier row.

The row may be of another file: two patients' folders were exchanged, or a file was overwritten and its time set back.
Another inode or change time than before tells this. But a chmod, a copied disk, or a mount that gives other inodes each
time changes them too. So a doubt costs reading, never screening what is the same: the digest decides.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, update

from contract.archive import FoundCapture
from contract.errors import ArchiveUnavailable, CaptureRejected, StorageFault
from contract.names import display_name
from contract.reading import digest_of_capture
from db.engine import reading, slices, writing
from db.history import REUSABLE, History, is_in_doubt, is_same
from db.models import Capture

READERS = 4
"""Threads that read: enough to keep a disk or a share busy, few enough to leave it to others."""
_NO_HISTORY = History()
Histories = Callable[[Connection, Sequence[FoundCapture]], dict[str, History]]


class InDoubt(Exception):
    """There are captures in doubt, and nobody has read them yet: not in the transaction that writes the run."""


@dataclass(frozen=True)
class _Doubtful:
    """A capture, and the earlier row that may be of another file."""

    capture: FoundCapture
    row: Any
    moved: bool
    """Whether inode or change time differ; otherwise it is read because the user wants all captures verified."""


@dataclass
class ReadAgain:
    """What became of the captures that were read again: `moved` ones, whose inode or change time is another one, and
    `verified` ones, which were read because the user wants that. Of both, `unchanged` hold the bytes of their rows.

    `changed` has the paths of all others: other bytes, not readable, or a row without a digest to compare with.
    """

    root: bytes
    verify: bool = False
    moved: int = 0
    verified: int = 0
    unchanged: int = 0
    changed: set[bytes] = field(default_factory=set)
    complete: bool = False

    def look_at_all(self, engine: Engine, batches: Iterable[Sequence[FoundCapture]], histories: Histories) -> None:
        """Read every capture in doubt, with no transaction open meanwhile, and store what is known of them now: then
        the next submit does not doubt them. Raises ArchiveUnavailable.
        """
        for captures in batches:
            with reading(engine) as connection:
                found = histories(connection, captures)
            unchanged = [one for one in self.look(captures, found) if _differs(one.row, one.capture)]
            if unchanged:
                with writing(engine) as connection:
                    _store(connection, unchanged)
        self.complete = True

    def look(self, captures: Sequence[FoundCapture], histories: Mapping[str, History]) -> list[_Doubtful]:
        """Read those in doubt, and note in the histories which of them are what they were; returns these."""
        doubtful = self._doubtful(captures, histories)
        with ThreadPoolExecutor(READERS) as threads:
            same = list(threads.map(self._is_what_it_was, doubtful))
        for one, is_same_file in zip(doubtful, same, strict=True):
            histories[display_name(one.capture.patient)].read[one.capture.path] = is_same_file
            self.moved += one.moved
            self.verified += not one.moved
            self.unchanged += is_same_file
            if not is_same_file:
                self.changed.add(one.capture.path)
        return [one for one, is_same_file in zip(doubtful, same, strict=True) if is_same_file]

    def mark(self, captures: Sequence[FoundCapture], histories: Mapping[str, History]) -> None:
        """Note in the histories which captures are not what they were. Raises InDoubt if nobody has looked."""
        if not self.complete and self._doubtful(captures, histories):
            raise InDoubt
        for capture in captures:
            if capture.path in self.changed and (history := histories.get(display_name(capture.patient))):
                history.read[capture.path] = False

    def _doubtful(self, captures: Sequence[FoundCapture], histories: Mapping[str, History]) -> list[_Doubtful]:
        doubtful = []
        for capture in captures:
            history = histories.get(display_name(capture.patient), _NO_HISTORY)
            row = history.usable.get(capture.path)
            if row is None or not is_same(row, capture):
                continue
            moved = is_in_doubt(row, capture)
            if moved or (self.verify and row.sha256 is not None and row.state in REUSABLE):
                doubtful.append(_Doubtful(capture, row, moved))
        return doubtful

    def _is_what_it_was(self, doubtful: _Doubtful) -> bool:
        capture, digest = doubtful.capture, doubtful.row.sha256
        if digest is None:
            return False
        try:
            file = capture.file or capture.path
            return digest_of_capture(self.root, file, capture.size_bytes, capture.modified_ns) == str(digest)
        except (CaptureRejected, StorageFault):  # a worker finds out, and says why
            return False
        except ArchiveUnavailable:
            raise ArchiveUnavailable(
                "the archive's root has gone or become empty while captures were read again; mount it again, then "
                "submit again; nothing was submitted"
            ) from None


def _differs(row: Any, capture: FoundCapture) -> bool:
    return (row.inode, row.changed_ns) != (capture.inode, capture.changed_ns)


def _store(connection: Connection, unchanged: Sequence[_Doubtful]) -> None:
    """Write the inodes and change times that these captures have now into their rows.

    A row that somebody else has locked is left alone, so that nobody waits for anybody in a circle: its capture stays
    in doubt.
    """
    free: set[int] = set()
    for batch in slices(sorted(one.row.id for one in unchanged), 500):
        rows = select(Capture.id).where(Capture.id.in_(batch)).order_by(Capture.id)
        free.update(connection.execute(rows.with_for_update(skip_locked=True)).scalars())
    values = [
        {"id_": one.row.id, "digest": one.row.sha256, "inode_": one.capture.inode, "time": one.capture.changed_ns}
        for one in unchanged
        if one.row.id in free
    ]
    if values:
        statement = update(Capture).where(Capture.id == bindparam("id_"), Capture.sha256 == bindparam("digest"))
        connection.execute(statement.values(inode=bindparam("inode_"), changed_ns=bindparam("time")), values)
