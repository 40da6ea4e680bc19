"""What has patients in it is its owner's alone, whatever the umask is: every file that a screening leaves behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from contract.files import append_private, create_private, private_folder, write_whole
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY, Environment


@pytest.fixture
def _as_most_users_have_it() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path, *, besides: Path | None = None) -> list[str]:
    """What below the folder somebody else could read, or enter."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not (besides and path.is_relative_to(besides))
    ]


@pytest.mark.usefixtures("_as_most_users_have_it")
def test_nobody_else_can_read_what_a_screening_leaves(tmp_path: Path, bundle: Bundle) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, 3)
    work = tmp_path / "work"
    work.mkdir()
    commands = Environment(work, "", "")
    out = work / "out" / "new"
    (work / "before.html").write_text("readable by all, before")
    (work / "log").write_text("")
    run = commands.screen("run", archive, "--bundle", bundle.path, "--html", out / "run.html", "--worker-log", "log")
    assert run.code == ExitCode.OK, run.err
    for words in (
        ("report", 1, "--html", "before.html", "--fhir", "run.fhir.json"), ("review", "next", "--html", "case.html"),
        ("review", "confirm", 1), ("review", "confirm", 2), ("review", "export", 1, "--out", "labels.csv"),
        ("review", "export", 1, "--out", "excel.csv", "--csv-excel"), ("db", "backup", "backup.db"),
    ):  # fmt: skip
        done = commands.screen(*words)
        assert done.code == ExitCode.OK, (words, done.err)
    assert {"run.html", "before.html", "run.fhir.json", "case.html", "labels.csv", "excel.csv", "backup.db",
            "screening.db", "log"} <= {path.name for path in work.rglob("*")}  # fmt: skip
    assert open_to_others(work, besides=work / "cache") == []
    assert stat.S_IMODE((work / "cache").stat().st_mode) & 0o077 == 0
    reading = (
        "import sqlite3, sys, pathlib, stat; c = sqlite3.connect('screening.db'); c.execute('CREATE TABLE t (x)');"
        "print([oct(stat.S_IMODE(p.stat().st_mode)) for p in pathlib.Path('.').glob('screening.db*')])"
    )
    beside = subprocess.run(
        [sys.executable, "-c", reading], cwd=work, capture_output=True, text=True, check=True
    ).stdout
    assert set(beside.strip("[]\n").replace("'", "").split(", ")) == {"0o600"}, "the files beside it as well"


@pytest.mark.usefixtures("_as_most_users_have_it")
def test_who_shares_a_database_keeps_its_mode(tmp_path: Path) -> None:
    commands = Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "")
    assert commands.screen("db", "upgrade").code == ExitCode.OK
    (tmp_path / "screening.db").chmod(0o660)
    assert commands.screen("status").code == ExitCode.OK
    assert stat.S_IMODE((tmp_path / "screening.db").stat().st_mode) == 0o660


@pytest.mark.usefixtures("_as_most_users_have_it")
def test_files_and_folders_are_made_private(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "c.csv", "x")
    private_folder(tmp_path / "d" / "e")
    create_private(tmp_path / "d" / "f")
    with append_private(tmp_path / "g" / "log") as stream:
        stream.write(b"1")
    assert open_to_others(tmp_path) == []
    assert (tmp_path / "g" / "log").read_bytes() == b"1"


@pytest.mark.usefixtures("_as_most_users_have_it")
def test_what_was_there_is_private_when_it_is_written_again_and_folders_stay(tmp_path: Path) -> None:
    for name in ("a.csv", "log"):
        (tmp_path / name).write_text("x")
    write_whole(tmp_path / "a.csv", "y")
    with append_private(tmp_path / "log") as stream:
        stream.write(b"y")
    create_private(tmp_path / "log")
    assert open_to_others(tmp_path) == []
    assert (tmp_path / "log").read_text() == "xy"
    shared = tmp_path / "shared"
    shared.mkdir()
    write_whole(shared / "x.csv", "x")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def test_a_log_may_be_a_device(tmp_path: Path) -> None:
    before = os.stat(os.devnull).st_mode  # noqa: PTH116
    with append_private(Path(os.devnull)) as stream:
        stream.write(b"x")
    assert os.stat(os.devnull).st_mode == before  # noqa: PTH116


def test_the_repository_writes_no_file_of_a_user_in_another_way() -> None:
    """Each place that opens a file for writing by itself is one of these, which hold no patient or are private."""
    known = {
        "contract/files.py", "contract/outputs.py", "contract/bundle.py", "worker/recorder.py", "trainer/proof.py",
        "trainer/report.py", "trainer/history.py", "trainer/export.py", "trainer/crossval.py", "trainer/checkpoint.py",
        "trainer/comparison.py", "trainer/cache.py", "worker/engines/plan_cache.py",
    }  # fmt: skip
    writes = ("write_text(", "write_bytes(", '.open("w', '.open("a', '.open("x', "NamedTemporaryFile(")
    found = {
        file.relative_to(REPOSITORY).as_posix()
        for package in ("contract", "db", "producer", "worker", "trainer")
        for file in (REPOSITORY / package).rglob("*.py")
        if any(write in file.read_text() for write in writes)
    }
    assert found <= known
