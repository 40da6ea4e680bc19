"""Who has SQLite's write lock, when nobody else gets it: a client that has begun a transaction and not ended it.

SQLite has one writer at a time. Our own transactions last milliseconds, a large submit seconds; a person's client, or a
program for backups, may keep the lock for hours, and everybody else waits.
"""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, Engine

from contract.words import local_clock

PROBE_S = 1.0
"""So long the lock must stay taken before we speak of it."""
_LOCKS = Path("/proc/locks")
_WRITER = 120
"""The byte of the -shm file that the writer locks (sqlite.org, walformat.html, section 2.3.1)."""


def write_lock_sentence(engine: Engine) -> str | None:
    """What to know and do where another program has had the database's write lock for at least PROBE_S seconds; None
    where it is free, where this user may not write, and for a server.
    """
    if engine.dialect.name != "sqlite" or not _is_taken(engine.url):
        return None
    return held_sentence(engine.url)


def held_sentence(url: URL, waited_s: float = PROBE_S) -> str:
    """The sentence about a lock for which one has waited in vain. It names a process of this machine, and no path."""
    who = _holder(url)
    named = f" (process {who[0]}, {who[1]})" if who else ""
    wal = Path(f"{url.database}-wal")
    try:
        written = datetime.fromtimestamp(wal.stat().st_mtime, UTC)
        since = f" Nothing was written to it since {local_clock(written)}."
    except OSError:
        since = ""
    return (
        f"another program{named} has had the database's write lock for more than {waited_s:.0f} s, and nobody else can "
        f"write.{since} If it is no command or worker of ours, end its transaction, or the program; work then goes on"
    )


def _is_taken(url: URL) -> bool:
    try:
        with closing(sqlite3.connect(str(url.database), timeout=PROBE_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")
    return False


def _holder(url: URL) -> tuple[int, str] | None:
    """The process that has the lock, and its name, where Linux tells.

    The lock's file is only asked for its number: a process that opens and closes it loses its own locks on it.
    """
    try:
        inode = Path(f"{url.database}-shm").stat().st_ino
        for line in _LOCKS.read_text().splitlines():
            fields = line.split()
            if fields[1] == "->" or fields[3] != "WRITE":
                continue
            if fields[5].rpartition(":")[2] == str(inode) and fields[6] == str(_WRITER):
                return int(fields[4]), Path(f"/proc/{fields[4]}/comm").read_text().strip()
    except (OSError, ValueError, IndexError):
        pass
    return None
