"""Fault 12: no room left under the database, Redis' file, the temporary folder: a pause, and on when there is room."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from contract.bundle import Bundle
from contract.errors import ExitCode
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, QUICK, SLOW, Lab
from tests.support.commands import Environment
from tests.support.servers import PostgresServer, RedisServer, free_port
from tests.support.waiting import wait_until

TIGHT_S = 4
"""How long there is no room, at small size."""


class SmallDisk:
    """A file system of its own, with room until it is filled."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0777", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs root")

    def fill(self, *, but: int = 0) -> None:
        """All but so many bytes of it."""
        with self._ballast.open("ab", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(bytes(4096))
                except OSError:
                    ballast.truncate(ballast.tell() - but)
                    return

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """`small_disk(mebibytes)` mounts one."""
    made: list[SmallDisk] = []

    def mount(mebibytes: int) -> SmallDisk:
        made.append(SmallDisk(tmp_path / f"disk-{len(made)}", mebibytes))
        return made[-1]

    yield mount
    for disk in made:
        disk.unmount()


def test_a_full_disk_under_sqlite(
    archive: Path, bundle: Bundle, tmp_path: Path, redis_server: RedisServer, size: Size,
    small_disk: Callable[[int], SmallDisk], counted: Callable[..., None],
) -> None:  # fmt: skip
    disk = small_disk(40)
    lab = Lab.open(
        Environment(tmp_path, f"sqlite:///{disk.folder / 'screening.db'}", redis_server.url), archive, bundle
    )
    calm = lab.without_faults()
    run = lab.submit("--all")
    with lab.worker(HOSTILE, **SLOW) as worker:
        wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
        disk.fill()
        before = lab.progress(run).ended
        wait_until(lambda: "no room left" in lab.log, 60, what="the worker to say so")
        time.sleep(size.times(60, TIGHT_S))
        paused = lab.progress(run)
        assert not paused.finished
        disk.clear()
        now = lab.finish(run)
        assert worker.process.poll() is None
    lab.check(run, against=calm)
    assert (now.rejected, now.quarantined) == (0, 0)
    counted(12, "no room left under the database", on="sqlite", captures=now.submitted,
            written_while_full=paused.ended - before, lost=0)  # fmt: skip


def test_a_full_disk_under_postgresql(
    archive: Path, bundle: Bundle, tmp_path: Path, redis_server: RedisServer, size: Size,
    small_disk: Callable[[int], SmallDisk], counted: Callable[..., None],
) -> None:  # fmt: skip
    """Where the server ends itself for want of room, its supervisor starts it again; here the test does."""
    disk = small_disk(160)
    server = PostgresServer(disk.folder).start()
    try:
        lab = Lab.open(Environment(tmp_path, server.url, redis_server.url), archive, bundle)
        calm = lab.without_faults()
        run = lab.submit("--all")
        with lab.worker(HOSTILE, **SLOW) as worker:
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            disk.fill()
            wait_until(lambda: "no room left" in lab.log or "cannot be used" in lab.log, 60, what="it to show")
            time.sleep(size.times(60, TIGHT_S))
            disk.clear()
            server.start()
            now = lab.finish(run)
            assert worker.process.poll() is None
        lab.check(run, against=calm)
        assert (now.rejected, now.quarantined) == (0, 0)
        counted(12, "no room left under the database", on="postgresql", captures=now.submitted, lost=0)
    finally:
        server.stop()


def test_a_full_disk_under_the_file_of_redis(
    archive: Path, bundle: Bundle, tmp_path: Path, database_url: str, size: Size,
    small_disk: Callable[[int], SmallDisk], counted: Callable[..., None],
) -> None:  # fmt: skip
    """A Redis that cannot save takes no write any more, which taking a message is, too."""
    disk = small_disk(1)
    redis = RedisServer(disk.folder, free_port(), save="1 1").start()
    try:
        lab = Lab.open(Environment(tmp_path, database_url, redis.url), archive, bundle)
        calm = lab.without_faults()
        runs = [lab.submit("--all")]
        with lab.worker(HOSTILE, **SLOW) as worker:
            wait_until(lab.in_the_middle(runs[0]), what="the worker to be in the middle of a chunk")
            wait_until(lambda: refuses_writes(redis, disk), what="Redis to refuse writes")
            command = ("submit", lab.archive, "--bundle", lab.bundle.path, "--all")
            refused = lab.environment.screen(*command, **QUICK)
            assert refused.code == ExitCode.UNAVAILABLE
            assert "is stored: a worker sends its chunks" in refused.err
            runs.append(int(refused.out))
            time.sleep(size.times(60, TIGHT_S))
            disk.clear()
            for run in runs:
                now = lab.finish(run)
                lab.check(run, against=calm)
                assert (now.rejected, now.quarantined) == (0, 0)
            assert worker.process.poll() is None
        counted(12, "no room left under Redis' file", captures=sum(lab.progress(run).submitted for run in runs), lost=0)
    finally:
        redis.kill()


def refuses_writes(redis: RedisServer, disk: SmallDisk) -> bool:
    """Fills the disk anew: each save frees the room of the one before."""
    disk.fill()
    with suppress(ResponseError):  # it is saving already
        redis.client.bgsave()
    try:
        redis.client.set("probe", 1)
    except ResponseError as error:
        return "MISCONF" in str(error)
    return False


SUBMIT_WITH_A_SMALL_SPOOL = """
import contract.archive
from producer.cli import main

contract.archive.IN_MEMORY_BYTES = 1000
main()
"""


def test_a_full_temporary_folder(
    lab: Lab, small_disk: Callable[[int], SmallDisk], counted: Callable[..., None]
) -> None:
    """For submit a clear error and no half run; a worker needs none."""
    disk = small_disk(1)
    disk.fill(but=8192)  # a folder without any room is no temporary folder to Python
    arguments = ["submit", lab.archive, "--bundle", lab.bundle.path]
    full = subprocess.run(
        [sys.executable, "-c", SUBMIT_WITH_A_SMALL_SPOOL, *map(str, arguments)],
        env={**lab.environment.variables, "TMPDIR": str(disk.folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == ExitCode.UNAVAILABLE
    assert "no room left" in full.stderr
    assert str(disk.folder) in full.stderr
    run = lab.submit()
    assert run == 1, "nothing was written before"
    with lab.worker(TMPDIR=str(disk.folder)):
        now = lab.finish(run)
    lab.check(run)
    counted(12, "no room left in the temporary folder", captures=now.submitted, runs_left_half_written=0)
