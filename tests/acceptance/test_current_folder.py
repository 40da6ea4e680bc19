"""Commands that are started in an archive: no module there is imported, and no file there is taken without being asked.

The archive holds a module of every name that this program, its libraries or Python could ask for, and each leaves its
name behind if it is run.
"""

import os
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

OURS = ("contract", "db", "worker", "producer", "trainer", "review")
ASKED_FOR = ("celeryconfig", "screening", "brotli", "hiredis", "gevent", "eventlet", "zstandard", "sitecustomize")
"""Names that nothing installed has, and that libraries try."""


def names() -> set[str]:
    installed = {name for name in packages_distributions() if name.isidentifier()}
    return {*sys.stdlib_module_names, *installed, *OURS, *ASKED_FOR} - set(sys.builtin_module_names)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """An archive of two patients with all these modules in its root."""
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=2)
    for name in names():
        (archive / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + '\\n')\n")
    return archive


def ran(archive: Path) -> list[str]:
    mark = archive.parent / "ran"
    return sorted(set(mark.read_text().split())) if mark.exists() else []


def variables(folder: Path, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCREEN_")}
    database = f"sqlite:///{folder / 'screening.db'}"
    cache = str(folder / "cache")
    ours = {"PYTHONPATH": str(REPOSITORY), "SCREEN_DATABASE_URL": database, "SCREEN_CACHE_DIR": cache}
    return inherited | ours | more


SCRIPT = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.path.insert(0, sys.prefix + '/bin'); from producer.cli import main; main()",
)
"""What `.venv/bin/screen` does: a script's own folder is the first in the search path."""
MODULE = (sys.executable, "-P", "-m", "producer.cli")


def run(command: tuple[str, ...], *arguments: object, folder: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, env=variables(folder.parent, **more), capture_output=True,
        text=True, timeout=240, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_run_submit_and_other_commands_import_nothing_from_the_archive(
    hostile: Path, bundle: Bundle, redis_server: RedisServer, command: tuple[str, ...]
) -> None:
    log = ("--worker-log", hostile.parent / "worker.log")
    done = run(command, "run", ".", "--bundle", bundle.path, *log, folder=hostile)
    assert done.returncode == ExitCode.OK, done.stderr
    assert ran(hostile) == []
    url = {"SCREEN_REDIS_URL": redis_server.url}
    for arguments in (
        ("submit", ".", "--bundle", bundle.path, "--all"), ("status",), ("report", "1", "--json"), ("fsck", "1"),
        ("db", "check"), ("bundle", "verify", bundle.path), ("synth", hostile.parent / "drawn", "--patients", 1),
    ):  # fmt: skip
        done = run(command, *arguments, folder=hostile, **url)
        assert done.returncode == ExitCode.OK, (arguments, done.stderr)
        assert ran(hostile) == [], arguments


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_a_worker_imports_nothing_from_the_archive(
    hostile: Path, bundle: Bundle, redis_server: RedisServer, command: tuple[str, ...]
) -> None:
    url = {"SCREEN_REDIS_URL": redis_server.url}
    assert run(command, "db", "upgrade", folder=hostile).returncode == ExitCode.OK
    assert run(command, "submit", ".", "--bundle", bundle.path, folder=hostile, **url).returncode == ExitCode.OK
    log = hostile.parent / "worker.log"
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            [*command, "worker"], cwd=hostile, env=variables(hostile.parent, **url), stdout=stream, stderr=stream,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: b"chunk done" in log.read_bytes(), 120, what="a chunk")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(90) == 0
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
    assert ran(hostile) == []


def test_without_p_no_module_of_a_library_comes_from_the_archive(hostile: Path, bundle: Bundle) -> None:
    """`python -m` has the current folder in its path before a line of ours runs: a name of ours could be taken."""
    loaded = subprocess.check_output([sys.executable, "-P", "-c", "import runpy, pkgutil, sys; print(*sys.modules)"])
    for name in {*OURS, *loaded.decode().split()} & names():
        (hostile / f"{name}.py").unlink()
    command = (sys.executable, "-m", "producer.cli")
    done = run(command, "run", ".", "--bundle", bundle.path, "--worker-log", hostile.parent / "log", folder=hostile)
    assert done.returncode == ExitCode.OK, done.stderr
    assert ran(hostile) == []


def test_results_and_log_do_not_lie_in_the_archive_unless_somebody_says_so(
    bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whoever brings captures could bring a screening.db with results of their own."""
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    (archive / "screening.db").write_bytes(b"")
    for arguments in (("run", "."), ("submit", "."), ("run", archive, "--worker-log", tmp_path / "log"), ("run", "..")):
        command = [*MODULE, *map(str, arguments), "--bundle", str(bundle.path)]
        environment = variables(tmp_path, SCREEN_REDIS_URL=redis_server.url)
        del environment["SCREEN_DATABASE_URL"]
        done = subprocess.run(command, cwd=archive, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == ExitCode.USAGE, (arguments, done.stderr)
        assert "would lie in the archive" in done.stderr
    done = run(MODULE, "run", ".", "--bundle", bundle.path, folder=archive)
    assert done.returncode == ExitCode.USAGE
    assert "--worker-log" in done.stderr
    assert (archive / "screening.db").read_bytes() == b""


@pytest.mark.parametrize("name", ["screening.db", "screening-worker.log"])
def test_a_link_that_lies_there_is_not_written_through(bundle: Bundle, tmp_path: Path, name: str) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    folder, victim = tmp_path / "folder", tmp_path / "victim"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    environment = variables(tmp_path)
    del environment["SCREEN_DATABASE_URL"]
    done = subprocess.run(
        [*MODULE, "run", str(archive), "--bundle", str(bundle.path)], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "nobody named it" in done.stderr
    assert not victim.exists()


def test_a_database_of_another_user_is_not_opened_unless_it_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    assert run(MODULE, "db", "upgrade", folder=tmp_path, SCREEN_DATABASE_URL="sqlite:///screening.db").returncode == 0
    os.chown(tmp_path / "screening.db", 12345, 12345)
    environment = variables(tmp_path)
    del environment["SCREEN_DATABASE_URL"]
    done = subprocess.run(
        [*MODULE, "status"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == ExitCode.USAGE
    assert "belongs to another user" in done.stderr
    assert run(MODULE, "status", folder=tmp_path, SCREEN_DATABASE_URL="sqlite:///screening.db").returncode == 0
