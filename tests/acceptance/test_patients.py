"""An archive as storage boxes and people leave it: everybody who can be screened is, and everybody else is named."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import open_engine
from db.fsck import fsck
from db.run_report import read_run
from tests.support.archives import encode, jpeg, picture, write_archive
from tests.support.commands import Environment

BINS = ("#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information", ".Trash-1000")
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root without these capabilities is stopped by permissions, as any other user."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two patients as they should be, P3 with captures whose endings say nothing, and three without any."""
    made = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=4)
    for name in BINS:
        shutil.copytree(made / "P1", made / name / "P1")
    (made / "P3").mkdir()
    for number, name in enumerate(("001", "a.dcm", "b.dat", "c.7")):
        kind = ("JPEG", "PNG", "TIFF", "BMP")[number]
        (made / "P3" / name).write_bytes(encode(picture("Pre", seed=70 + number), kind))
    (made / "P3" / "real.dcm").write_bytes(bytes(128) + b"DICM")
    (made / "P4").mkdir()
    (made / "P5").mkdir()
    for name in ("a.czi", "b.czi", "c.czi"):
        (made / "P5" / name).write_bytes(b"ZISRAWFILE")
    (made / "P6").symlink_to(made / "P1")
    return made


def test_everybody_is_screened_or_named(environment: Environment, bundle: Bundle, archive: Path) -> None:
    os.utime(archive / "P1" / "000.jpg", ns=(0, 10_400_000_000_000_000_000))
    done = environment.screen("run", archive, "--bundle", bundle.path, "--html", "report.html")
    assert done.code == ExitCode.SOME_ENDED_BADLY, done.err
    assert (
        "without captures (3 patients): P4 (its folder is empty), P5 (its folder holds no captures: 3 .czi files), P6 ("
        in done.err
    )
    assert "skipped (not_a_capture, 3): 3 .czi files: P5/a.czi" in done.err
    assert "skipped (dicom, 1): P3/real.dcm" in done.err
    assert "patients 6 = in this run 3 + unchanged 0 + without captures 3" in done.out
    database = open_engine(environment.database_url)
    report = read_run(database, 1)
    assert {case.patient: (case.verdict, case.subtype, case.screened) for case in report.cases} == {
        "P1": ("all", "Pro", 4), "P2": ("benign", None, 4), "P3": ("all", "Pre", 4),
    }  # fmt: skip
    assert report.identity_conflicts == ()
    assert sorted(report.skipped["junk"]) == sorted(BINS)
    assert [patient.patient for patient in report.without_captures] == ["P4", "P5", "P6"]
    assert all(finding.holds for finding in fsck(database, 1, grace_s=0))
    assert "Patients without captures" in (environment.folder / "report.html").read_text()
    assert "run 1: patients without captures: 3" in environment.screen("status").out
    assert environment.screen("watch", 1).code == ExitCode.SOME_ENDED_BADLY
    again = environment.screen("submit", archive, "--bundle", bundle.path)
    assert (again.code, again.out) == (ExitCode.SOME_ENDED_BADLY, "1\n")


def test_captures_that_are_gone_withdraw_the_result(environment: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=4)
    assert environment.screen("run", archive, "--bundle", bundle.path).code == ExitCode.OK
    (archive / "#recycle").mkdir()
    for file in (archive / "P1").iterdir():
        file.rename(archive / "#recycle" / file.name)
    done = environment.screen("run", archive, "--bundle", bundle.path)
    assert done.code == ExitCode.SOME_ENDED_BADLY
    assert "no captures any more (1 patient): P1 (case 1)" in done.err
    assert "was ALL, Pro, reviewed by nobody" in environment.screen("review", "show", 3).out


def submit_unprivileged(environment: Environment, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`screen submit` by a user whom permissions stop."""
    stopped = NO_OVERRIDE if os.geteuid() == 0 else ()
    command = [*stopped, environment.python, "-m", "producer.cli", "submit", *map(str, arguments)]
    return subprocess.run(
        command, cwd=environment.folder, env=environment.variables, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="no permission stops root here")
@pytest.mark.parametrize("locked", ["P1", "P1/slide"])
def test_a_folder_without_permission_stops_nobody_else(
    environment: Environment, bundle: Bundle, tmp_path: Path, locked: str
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign", "lost+found": "Pro"}, captures=2)
    (archive / "P1" / "slide").mkdir()
    environment.screen("db", "upgrade")
    closed = (archive / locked, archive / "lost+found")
    for folder in closed:
        folder.chmod(0)
    try:
        done = submit_unprivileged(environment, archive, "--bundle", bundle.path)
        archive.chmod(0)
        refused = submit_unprivileged(environment, archive, "--bundle", bundle.path)
    finally:
        for folder in (archive, *closed):
            folder.chmod(0o755)
    assert (done.returncode, done.stdout) == (ExitCode.SOME_ENDED_BADLY, "1\n"), done.stderr
    what = "its folder" if locked == "P1" else "slide in its folder"
    assert f"without captures (1 patient): P1 ({what} may not be read by this user" in done.stderr
    report = read_run(open_engine(environment.database_url), 1)
    assert [case.patient for case in report.cases] == ["P2"]
    assert [patient.code for patient in report.without_captures] == ["not_readable"]
    assert refused.returncode == ExitCode.USAGE
    assert "is not readable" in refused.stderr


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    """ARCHIVE/date/patient/capture, with a date on which nobody came."""
    made = tmp_path / "dated"
    for number, patient in enumerate(("2026-11-23/P1", "2026-11-23/P2", "2026-11-24/P1")):
        (made / patient).mkdir(parents=True)
        for capture in range(3):
            (made / patient / f"{capture}.jpg").write_bytes(jpeg("Pro", seed=100 * number + capture))
    (made / "2026-11-25").mkdir()
    return made


def test_a_dry_run_lists_patients_and_doubts_their_depth(environment: Environment, bundle: Bundle, dated: Path) -> None:
    environment.screen("db", "upgrade")

    def dry(*more: object) -> Any:
        return environment.screen("submit", dated, "--bundle", bundle.path, "--dry-run", *more)

    flat = dry()
    assert "if the folders in them are the patients, submit with --patient-depth 2" in flat.err
    assert [line.split()[:2] for line in flat.out.splitlines() if "2026-" in line] == [
        ["2026-11-23", "6"], ["2026-11-24", "3"], ["2026-11-25", "0"],
    ]  # fmt: skip
    deep = dry("--patient-depth", 2, "--json")
    assert "--patient-depth" not in deep.err
    assert deep.json["by_patient"] == {"2026-11-23/P1": 3, "2026-11-23/P2": 3, "2026-11-24/P1": 3}
    assert [(one["patient"], one["code"]) for one in deep.json["without_captures"]] == [("2026-11-25", "not_at_depth")]
    assert (flat.code, deep.code) == (ExitCode.SOME_ENDED_BADLY, ExitCode.SOME_ENDED_BADLY)
    assert environment.screen("status", "--json").json == []


def test_patients_below_dates_are_screened_by_pseudonym_too(
    environment: Environment, bundle: Bundle, dated: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("a secret of thirty-two letters or more\n")
    key.chmod(0o600)
    named = {"SCREEN_PSEUDONYM_KEY_FILE": str(key)}
    arguments = (dated, "--bundle", bundle.path, "--patient-depth", 2)
    done = environment.screen("run", *arguments, "--pseudonymize", "--html", "report.html", **named)
    assert "patients 4 = in this run 3 + unchanged 0 + without captures 1" in done.out, done.err
    assert "P1" not in done.out
    assert "2026-11" not in done.out
    assert "data:image/jpeg;base64," in (environment.folder / "report.html").read_text()
    listed = environment.screen("pseudonyms", dated, "--patient-depth", 2, "--json", **named).json
    cases = {case.patient for case in read_run(open_engine(environment.database_url), 1).cases}
    patients = {one["patient"] for one in listed if one["pseudonym"] in cases}
    assert patients == {"2026-11-23/P1", "2026-11-23/P2", "2026-11-24/P1"}
    other = environment.screen("submit", dated, "--bundle", bundle.path, "--pseudonymize", **named)
    assert other.code == ExitCode.USAGE
    assert "--patient-depth 2, or first `screen cancel`" in other.err
