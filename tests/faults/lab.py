"""A laboratory in miniature that faults are injected into: real servers, real worker processes, an archive, a run.

A fault test reads: submit, start workers, do harm, wait until the run is finished, and let `check` say whether anything
was lost, counted twice, or came out otherwise than without the fault.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import open_engine, reading
from db.models import Chunk
from db.progress import Progress, progress
from tests.support.commands import Environment
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

QUICK = {
    "SCREEN_LEASE_SECONDS": "5",
    "SCREEN_SWEEP_SECONDS": "0.5",
    "SCREEN_REPUBLISH_SECONDS": "2",
    "SCREEN_CHUNK_SIZE": "25",
    "SCREEN_PRECISION": "float32",
    "SCREEN_REPORT_AT": "screening",
}
"""A night in seconds; float32, so that results of two runs can be compared row by row; each with its queue row."""
HOSTILE = "tests.faults.hostile_worker"
"""A worker application that does what a capture asks it to (see there)."""
SLOW = {"SLOW_READ_S": "0.02"}
"""For a hostile worker: a chunk takes a quarter of a second, so that there is a middle to do harm in."""
FINISH_S = 180


@dataclass
class Worker:
    """A worker's processes: Celery's parent and the one child that screens."""

    process: "subprocess.Popen[bytes]"

    @property
    def child(self) -> int | None:
        """The process id of the child that screens, if there is one at this moment; another child tracks semaphores."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            screening = [one for one in children if b"tracker" not in Path(f"/proc/{one}/cmdline").read_bytes()]
        except OSError:
            return None
        return int(screening[0]) if screening else None

    def kill_child(self) -> None:
        """SIGKILL, as the kernel does when memory is short."""
        child = self.child
        if child is not None:
            os.kill(child, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL parent and child at once, as a power cut would."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()

    def terminate(self, timeout_s: float = 90) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@dataclass
class Lab:
    """One database, one Redis, one archive and its bundle; `environment` is what commands are started in."""

    environment: Environment
    archive: Path
    bundle: Bundle
    database: Engine

    @classmethod
    def open(cls, environment: Environment, archive: Path, bundle: Bundle) -> "Lab":
        """With the schema in place."""
        done = environment.screen("db", "upgrade")
        assert done.code == 0, done.err
        return cls(environment, archive, bundle, open_engine(environment.database_url))

    def submit(self, *options: str, exit_codes: Collection[int] = (ExitCode.OK,), **settings: str) -> int:
        command = ("submit", self.archive, "--bundle", self.bundle.path, *options)
        done = self.environment.screen(*command, **{**QUICK, **settings})
        assert done.code in exit_codes, done.err
        return int(done.out)

    @contextmanager
    def worker(self, application: str = "worker.app", **settings: str) -> Iterator[Worker]:
        """A worker that is killed at the end, if it still runs. Its log is worker.log in the folder."""
        made = self.start_worker(application, **settings)
        try:
            yield made
        finally:
            made.kill()

    def start_worker(self, application: str = "worker.app", **settings: str) -> Worker:
        variables = {**QUICK, **settings}
        if application == "worker.app":
            return Worker(self.environment.start("worker", log="worker.log", **variables))
        return Worker(self.environment.start_celery(application, log="worker.log", **variables))

    @property
    def log(self) -> str:
        """What all workers have said so far."""
        return (self.environment.folder / "worker.log").read_text()

    def harm(self, worker: Worker, redis_server: RedisServer, which: int, *, redis_away_s: float = 0) -> Worker:
        """Do one of four things to a hostile, slow worker or its Redis; returns the worker that runs afterwards."""
        if which == 0:
            worker.kill_child()
        elif which == 1:
            worker.kill()
            return self.start_worker(HOSTILE, **SLOW)
        elif which == 2:
            redis_server.client.flushall()
        else:
            redis_server.kill()
            time.sleep(redis_away_s)
            redis_server.start()
        return worker

    def progress(self, run: int) -> Progress:
        return progress(self.database, run)

    def finish(self, run: int, timeout_s: float = FINISH_S) -> Progress:
        """Wait until every case has its result."""
        wait_until(lambda: self.progress(run).finished, timeout_s, what=f"run {run} to finish")
        return self.progress(run)

    def in_the_middle(self, run: int) -> Callable[[], bool]:
        """True once a chunk is leased and more has ended than now; also when all is done."""
        before = self.progress(run).ended

        def look() -> bool:
            now = self.progress(run)
            return now.finished or (now.chunks_leased > 0 and now.ended > before)

        return look

    def attempts(self, run: int) -> int:
        """Claims of all chunks that there are."""
        with reading(self.database) as connection:
            return int(connection.execute(select(func.sum(Chunk.attempts)).where(Chunk.run_id == run)).scalar_one())

    def check(self, run: int, *, against: int | None = None) -> None:
        """`screen fsck` finds nothing wrong; with `against`, no difference to that run either."""
        compared = [] if against is None else ["--against", str(against)]
        done = self.environment.screen("fsck", run, *compared, **QUICK)
        assert done.code == 0, done.out + done.err

    def without_faults(self) -> int:
        """The same archive screened once more by a worker that nobody harms."""
        run = self.submit("--all")
        with self.worker():
            self.finish(run)
        return run
