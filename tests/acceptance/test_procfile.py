"""The Procfile under honcho, as a developer starts it: Redis and a plain `celery -A worker.app worker`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.bundle import Bundle
from db.engine import open_engine
from db.progress import progress
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY, Environment
from tests.support.servers import free_port
from tests.support.waiting import wait_until


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_procfile_screens_what_is_submitted(database_url: str, bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    environment = Environment(tmp_path, database_url, f"redis://127.0.0.1:{port}/0", more=(("REDIS_PORT", str(port)),))
    assert environment.screen("db", "upgrade").code == 0
    variables = environment.variables
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
        database = open_engine(database_url)
        wait_until(lambda: progress(database, int(submitted.out)).finished, 60, what="the run to finish")
    finally:
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(60)
    assert progress(database, 1).screened == 10
