"""Whether processes of this machine can share locks. Python keeps these in /dev/shm, which containers may lack."""

import errno
from multiprocessing import get_context

from contract.errors import StorageFull, UsageError


def check_shared_locks() -> None:
    """Make one lock and drop it. Raises UsageError, or StorageFull where only room is missing."""
    try:
        get_context("spawn").Lock()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull("no room left in /dev/shm, where processes share locks; make room there") from error
        raise UsageError(
            f"processes cannot share locks: /dev/shm cannot be written ({error.strerror}); mount it writable for this "
            "user (a container: `--tmpfs /dev/shm`; by hand: `mount -t tmpfs -o mode=1777 tmpfs /dev/shm`)"
        ) from error
