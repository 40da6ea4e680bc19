"""The Procfile under honcho, as a developer starts it: a Redis that only they can reach, and a worker."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from contract.bundle import Bundle
from db.engine import open_engine
from db.progress import progress
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY, Environment
from tests.support.servers import refuses_more_than_messages
from tests.support.waiting import wait_until


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_procfile_screens_what_is_submitted(database_url: str, bundle: Bundle, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="screen-") as place:  # a socket's path must be short
        _screen_with_honcho(
            Environment(tmp_path, database_url, f"redis+socket://{place}/own/redis.sock"), bundle, place
        )


def _screen_with_honcho(environment: Environment, bundle: Bundle, place: str) -> None:
    tmp_path, database_url = environment.folder, environment.database_url
    assert environment.screen("db", "upgrade").code == 0
    variables = environment.variables
    variables["PYTHONPATH"] = str(REPOSITORY)
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    with (tmp_path / "honcho.log").open("wb") as log:
        honcho = subprocess.Popen(
            [sys.executable, "-m", "honcho", "--procfile", str(REPOSITORY / "Procfile"), "--app-root", str(tmp_path),
             "start"],
            env=variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=5)
        wait_until(lambda: b"ready" in (tmp_path / "honcho.log").read_bytes(), 60, what="the worker to be ready")
        submitted = environment.screen("submit", archive, "--bundle", bundle.path)
        assert submitted.code == 0, submitted.err
        _check_redis(Path(place) / "own")
        database = open_engine(database_url)
        wait_until(lambda: progress(database, int(submitted.out)).finished, 60, what="the run to finish")
    finally:
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(60)
    assert progress(database, 1).screened == 10


def _check_redis(folder: Path) -> None:
    """Nobody else reaches it, and who does has few rights."""
    assert folder.stat().st_mode & 0o077 == 0
    refuses_more_than_messages(redis.Redis(unix_socket_path=str(folder / "redis.sock")))


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/0", "redis+socket:///tmp/redis.sock", f"unix:///{'x' * 120}/s"]
)
def test_it_does_not_start_where_others_could_reach_it(tmp_path: Path, url: str) -> None:
    variables = {**Environment(tmp_path, "", url).variables, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-P", "-m", "producer.services"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.startswith("screen: SCREEN_REDIS_URL: ")
