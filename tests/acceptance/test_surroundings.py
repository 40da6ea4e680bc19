"""`screen run` where the surroundings are not as a developer's: no home, odd folders, services that go away for good.

Whatever it meets, it ends: with results, or with a sentence and an exit code.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import open_engine
from db.progress import progress
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY, Environment
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

PATIENTS = {"P-ben": "Benign", "Müller, Jörg": "Pro"}
SERVICE_USER = 4321
IMPATIENT = {"SCREEN_PATIENCE_SECONDS": "8", "SCREEN_SWEEP_SECONDS": "0.5", "SCREEN_REPUBLISH_SECONDS": "1"}
SLOW = {f"SCREEN_{name}": "1" for name in ("BATCH_SIZE", "DECODERS", "CHUNK_SIZE")} | {"SCREEN_CHUNKS_AHEAD": "0"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", PATIENTS, captures=3)


def variables(**more: str) -> dict[str, str]:
    """No setting of the caller's, and no Redis or database: `screen run` brings its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCREEN_")}
    return inherited | {"PYTHONPATH": str(REPOSITORY)} | more


def run(
    folder: Path, *arguments: object, before: tuple[str, ...] = (), **more: str
) -> "subprocess.CompletedProcess[str]":
    command = [*before, sys.executable, "-m", "producer.cli", "run", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=variables(**more), capture_output=True, text=True, timeout=240,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


# Users


@pytest.fixture
def theirs(service_user: tuple[str, ...], bundle: Bundle) -> Iterator[Path]:
    """A folder of the service user, with a bundle and an archive. pytest's own folders are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="service-"))
    shutil.copytree(bundle.path, folder / "bundle")
    write_archive(folder / "archive", PATIENTS, captures=3)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, SERVICE_USER, SERVICE_USER)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def service_user() -> Iterator[tuple[str, ...]]:
    """What makes a command run as a user with no entry in the list of users; they may read this program everywhere."""
    prefix = (
        "setpriv", "--reuid", str(SERVICE_USER), "--clear-groups",
        "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search",
    )  # fmt: skip
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("running as another user needs root and setpriv")
    yield prefix
    shutil.rmtree(Path("/tmp") / f"slide-screen-{SERVICE_USER}", ignore_errors=True)


@pytest.mark.parametrize(
    "surroundings", [("-u", "HOME"), ("HOME=/",), ("SCREEN_CACHE_DIR=/usr/share/slide-screen",)], ids=str
)
def test_a_service_user_screens_an_archive(
    service_user: tuple[str, ...], theirs: Path, surroundings: tuple[str, ...]
) -> None:
    names = [word for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME") for word in ("-u", name)]
    before = (*service_user, "env", *names, *surroundings)
    done = run(theirs, "archive", "--bundle", "bundle", before=before)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "submitted 6 = screened 6" in done.stdout
    log = (theirs / "screening-worker.log").read_text()
    assert log.count("is used instead") == 1, "it says once where its cache is"
    assert "Traceback" not in log


def test_a_folder_that_this_user_may_not_write_to_is_named_before_any_work(
    service_user: tuple[str, ...], theirs: Path
) -> None:
    """As cron starts a command: in the folder /."""
    for options, names in (
        ((), "--worker-log"),
        (("--worker-log", theirs / "log"), "SCREEN_DATABASE_URL"),
        (("--worker-log", theirs / "log", "--html", "/report.html"), "--html"),
    ):
        done = run(Path("/"), theirs / "archive", "--bundle", theirs / "bundle", *options, before=service_user)
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert names in done.stderr
        assert "Traceback" not in done.stderr


# Folders and terminals


@pytest.mark.parametrize("name", ["a#b?c%41 d", "x" * 120, "ä日本", "b\udcfc"])
def test_the_temporary_folder_may_have_any_name(archive: Path, bundle: Bundle, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = run(tmp_path, archive, "--bundle", bundle.path, TMPDIR=str(tmp_path / name))
    assert done.returncode == ExitCode.OK, done.stderr
    assert list((tmp_path / name).iterdir()) == [], "nothing is left"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf8_crashes_nothing(
    archive: Path, bundle: Bundle, tmp_path: Path, encoding: str
) -> None:
    odd = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    html = tmp_path / "Bericht-ä.html"
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", "run", archive, "--bundle", bundle.path, "--html", html],
        cwd=tmp_path, env=variables(**odd), capture_output=True, timeout=240, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    shown = {"ascii": rb"M\xfcller", "latin-1": b"M\xfcller"}[encoding]
    assert shown in done.stdout
    assert "Müller, Jörg" in html.read_text(encoding="utf-8")
    for command in (("status",), ("report", "1", "--csv"), ("review", "next"), ("queue", "list"), ("watch", "1")):
        shown = subprocess.run(
            [sys.executable, "-m", "producer.cli", *command], cwd=tmp_path,
            env=variables(SCREEN_REVIEWER="anna", **odd), capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert shown.returncode == ExitCode.OK, shown.stderr


# What stays away


def test_an_engine_that_cannot_be_opened_ends_it_with_the_reason_and_the_next_run_begins_anew(
    archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    done = run(
        tmp_path, archive, "--bundle", bundle.path, SCREEN_ENGINE="openvino", SCREEN_PRECISION="float16", **IMPATIENT
    )
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "OpenVINO computes in" in done.stderr
    done = run(tmp_path, archive, "--bundle", bundle.path, **IMPATIENT)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "gave a chunk back" not in done.stderr


@contextmanager
def running(folder: Path, archive: Path, bundle: Bundle, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A run of many captures, one at a time, after its first results."""
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", "run", archive, "--bundle", bundle.path], cwd=folder,
            env=variables(**(IMPATIENT | SLOW | more)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
    try:
        log = folder / "screening-worker.log"
        wait_until(lambda: log.exists() and b"chunk done" in log.read_bytes(), 120, what="a first chunk")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def children(process: "subprocess.Popen[bytes]", name: bytes) -> list[int]:
    """The children of a process whose command line holds `name`."""
    ids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(one) for one in ids if name in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "many", {f"P{number:02d}": "Pre" for number in range(30)}, captures=60)


@pytest.mark.parametrize(("what", "name"), [("the bundled Redis", b"redis-server"), ("the worker", b"producer.cli")])
def test_a_child_that_dies_ends_the_run(many: Path, bundle: Bundle, tmp_path: Path, what: str, name: bytes) -> None:
    with running(tmp_path, many, bundle) as process:
        (child,) = children(process, name)
        os.kill(child, signal.SIGKILL)
        assert process.wait(120) == ExitCode.UNAVAILABLE
    assert f"{what} ended (exit -9)" in (tmp_path / "err").read_text()


def test_a_redis_that_goes_away_for_good_ends_the_run(
    many: Path, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    with running(tmp_path, many, bundle, SCREEN_REDIS_URL=redis_server.url) as process:
        redis_server.kill()
        assert process.wait(120) == ExitCode.UNAVAILABLE
    said = (tmp_path / "err").read_text()
    assert "nothing has gone on" in said
    assert "Redis is out of reach" in said
    again = run(tmp_path, many, "--bundle", bundle.path, SCREEN_REDIS_URL=redis_server.url)
    assert again.returncode == ExitCode.UNAVAILABLE
    assert "Redis is out of reach" in again.stderr


def test_an_archive_that_goes_away_for_good_ends_the_run_and_blames_no_capture(
    many: Path, bundle: Bundle, tmp_path: Path
) -> None:
    with running(tmp_path, many, bundle) as process:
        many.rename(tmp_path / "away")
        assert process.wait(120) == ExitCode.UNAVAILABLE
    said = (tmp_path / "err").read_text()
    assert "mount it again" in said
    assert "the same command continues" in said
    now = progress(open_engine(f"sqlite:///{tmp_path / 'screening.db'}"), 1)
    assert (now.rejected, now.quarantined, now.finished) == (0, 0, False)


def test_a_database_that_goes_away_for_good_ends_the_run(many: Path, bundle: Bundle, tmp_path: Path) -> None:
    with running(tmp_path, many, bundle) as process:
        for file in tmp_path.glob("screening.db*"):
            file.unlink()
        assert process.wait(120) == ExitCode.UNAVAILABLE
    assert "Traceback" not in (tmp_path / "err").read_text().split("The end of")[0]


def test_an_outage_that_ends_in_time_is_waited_for(
    archive: Path, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    alone = Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", redis_server.url)
    with running(tmp_path, write_archive(tmp_path / "some", PATIENTS, captures=40), bundle,
                 SCREEN_REDIS_URL=redis_server.url, SCREEN_PATIENCE_SECONDS="120") as process:  # fmt: skip
        redis_server.kill()
        redis_server.start()
        assert process.wait(200) == ExitCode.OK, (tmp_path / "err").read_text()
    assert alone.screen("fsck", 1).code == ExitCode.OK
