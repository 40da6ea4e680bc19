"""Which process is meant. A process id alone says nothing to a process in another container, or after a restart: the
same number is another process there. So a process is named with its machine's start, its PID namespace and its own
start.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STARTED = 22 - 3
"""proc_pid_stat(5): `starttime` is field 22; the third is the first one behind the command's closing bracket."""


@dataclass(frozen=True)
class ProcessIdentity:
    """`boot` is the kernel's boot id, `namespace` the inode of the PID namespace, `started` the process's start in
    clock ticks since the boot. Each is empty or 0 where the system does not tell.
    """

    host: str
    boot: str
    namespace: int
    pid: int
    started: int

    @classmethod
    def own(cls) -> "ProcessIdentity":
        """The identity of this process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot_id(), _namespace(), pid, _start_of(pid))

    @classmethod
    def parse(cls, text: str) -> "ProcessIdentity":
        """What `str` has written. Raises ValueError for any other text."""
        host, boot, namespace, pid, started = text.rsplit("/", 4)
        return cls(host, boot, int(namespace), int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.host}/{self.boot}/{self.namespace}/{self.pid}/{self.started}"

    def is_gone(self) -> bool:
        """Whether this process is sure to have ended. Of one on another machine, before another start of this machine
        or in another PID namespace, a process can know nothing: then it is not.
        """
        if (self.host, self.boot, self.namespace) != (socket.gethostname(), _boot_id(), _namespace()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        started = _start_of(self.pid)
        return bool(started and self.started and started != self.started)


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _start_of(pid: int) -> int:
    """When a process of this PID namespace started; 0 if /proc does not tell, or shows another namespace."""
    try:
        if (_PROC / "self").readlink().name != str(os.getpid()):
            return 0
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[_STARTED])
    except (OSError, ValueError, IndexError):
        return 0
