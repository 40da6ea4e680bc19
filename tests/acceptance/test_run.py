"""`screen run`: the whole job on one machine, and what it leaves behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from contract.bundle import Bundle
from db.engine import open_engine
from db.progress import progress, run_summaries
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY, Environment
from tests.support.waiting import wait_until

DEMO = REPOSITORY / "bundles" / "demo.bundle"
WARNING = "Do not rely on run"
PATIENTS = {"P-ben": "Benign", "P-pro": "Pro", "Müller, Jörg": "Early"}


@pytest.fixture
def alone(tmp_path: Path) -> Environment:
    """No Redis and no database are named: `screen run` brings its own."""
    light = REPOSITORY / ".venv" / "bin" / "python"
    return Environment(tmp_path, "sqlite:///screening.db", "", python=str(light) if light.exists() else sys.executable)


def run(alone: Environment, *arguments: object) -> "subprocess.CompletedProcess[str]":
    variables = alone.variables
    for name in ("SCREEN_DATABASE_URL", "SCREEN_REDIS_URL"):
        variables.pop(name, None)
    return subprocess.run(
        [alone.python, "-m", "producer.cli", "run", *map(str, arguments)],
        cwd=alone.folder, env=variables, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def children_of(folder: Path) -> list[str]:
    """Command lines of living processes that work in `folder` or have a Redis socket from it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_it_screens_reports_and_leaves_no_process_behind(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=12)
    done = run(alone, archive, "--bundle", bundle.path, "--html", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert "submitted 36 = screened 36 + rejected 0 + quarantined 0" in done.stdout
    assert "Müller, Jörg" in done.stdout
    assert bundle.manifest.notice is not None
    assert bundle.manifest.notice in done.stdout
    html = (tmp_path / "report.html").read_text()
    assert bundle.manifest.notice in html
    assert "data:image/jpeg;base64," in html
    assert "://" not in html.split("</style>")[0]
    wait_until(lambda: not children_of(tmp_path), 10, what="all processes to be gone")


def test_a_capture_under_two_patients_leads_every_report(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=12)
    shutil.copy(archive / "P-ben" / "003.jpg", archive / "P-pro" / "copy.jpg")
    done = run(alone, archive, "--bundle", bundle.path, "--html", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert "same capture under two patients" in done.stdout
    pair = re.compile(r"P-ben\s+P-ben/003.jpg\s+P-pro/copy.jpg\s+P-pro")
    assert pair.search(done.stdout)
    html = (tmp_path / "report.html").read_text()
    assert html.index("Patients that may have been mixed up") < html.index("Patients, the most urgent first")
    report = alone.screen("report", 1, "--json", SCREEN_DATABASE_URL=f"sqlite:///{tmp_path}/screening.db")
    cases = {case["patient"]: case for case in json.loads(report.out)["cases"]}
    assert [case["identity_conflict"] for case in map(cases.get, ("P-ben", "P-pro", "Müller, Jörg"))] == [1, 1, 0]


def test_a_second_run_of_the_same_folder_screens_nothing_again(
    alone: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=3)
    assert run(alone, archive, "--bundle", bundle.path).returncode == 0
    again = run(alone, archive, "--bundle", bundle.path)
    assert again.returncode == 0
    assert "nothing new since run 1" in again.stderr
    database = open_engine(f"sqlite:///{tmp_path / 'screening.db'}")
    assert len(run_summaries(database)) == 1


def test_ctrl_c_cleans_up_and_the_next_call_goes_on(alone: Environment, tmp_path: Path) -> None:
    """With the demo bundle, one capture at a time: so slow that the run is not through before it is interrupted."""
    archive = write_archive(tmp_path / "archive", {f"P{i:02d}": "Pre" for i in range(20)}, captures=50)
    environment = {k: v for k, v in alone.variables.items() if k not in ("SCREEN_DATABASE_URL", "SCREEN_REDIS_URL")}
    slow = {f"SCREEN_{name}": "1" for name in ("BATCH_SIZE", "DECODERS")} | {
        "SCREEN_CHUNK_SIZE": "16", "SCREEN_CHUNKS_AHEAD": "0",
    }  # fmt: skip
    process = subprocess.Popen(
        [alone.python, "-m", "producer.cli", "run", str(archive), "--bundle", str(DEMO)],
        cwd=tmp_path, env={**environment, **slow}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "err").open("wb"),
    )  # fmt: skip
    database = open_engine(f"sqlite:///{tmp_path / 'screening.db'}")

    def has_begun() -> bool:
        return (tmp_path / "screening-worker.log").exists() and progress(database, 1).ended > 0

    wait_until(has_begun, 120, what="a first chunk")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(90) == 130, progress(database, 1)
    assert not progress(database, 1).finished
    assert f"To go on: screen run {archive} --bundle {DEMO}" in (tmp_path / "err").read_text()
    wait_until(lambda: not children_of(tmp_path), 10, what="all processes to be gone")
    done = run(alone, archive, "--bundle", DEMO)
    assert done.returncode == 1, "plain colours are no drawings: they do not count, and the run says so"
    assert "screened 1000 + rejected 0" in done.stdout
    assert progress(database, 1).accounted_for


def test_the_worker_ends_with_a_killed_run(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {f"P{i:02d}": "Pre" for i in range(20)}, captures=40)
    environment = {k: v for k, v in alone.variables.items() if k not in ("SCREEN_DATABASE_URL", "SCREEN_REDIS_URL")}
    process = subprocess.Popen(
        [alone.python, "-m", "producer.cli", "run", str(archive), "--bundle", str(bundle.path)],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: (tmp_path / "screening-worker.log").exists(), 60, what="the worker to start")
    process.kill()
    process.wait()
    wait_until(lambda: not children_of(tmp_path), 60, what="worker and Redis to be gone")


def test_some_rejected_captures_make_the_exit_code_1(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=3)
    (archive / "P-pro" / "000.jpg").write_bytes(b"")
    done = run(alone, archive, "--bundle", bundle.path)
    assert done.returncode == 1
    assert "empty_file" in done.stdout
    assert "submitted 9 = screened 8 + rejected 1 + quarantined 0" in done.stdout


def test_the_worker_runs_where_there_is_no_torch(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    """In the light environment of `make demo`, made by `make test` as well."""
    assert Path(alone.python) == (REPOSITORY / ".venv" / "bin" / "python"), "run `make test`: it makes .venv"
    no_torch = subprocess.run([alone.python, "-c", "import torch"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in no_torch.stderr
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=3)
    assert run(alone, archive, "--bundle", bundle.path).returncode == 0


def test_a_run_of_strange_captures_says_first_what_to_do_and_one_of_drawings_does_not(
    alone: Environment, tmp_path: Path
) -> None:
    """The demo bundle knows drawings: of two patients the captures are then replaced by parts of photographs."""
    archive = tmp_path / "drawings"
    assert alone.screen("synth", archive, "--patients", 3, "--captures", 6, "--seed", 8).code == 0
    done = run(alone, archive, "--bundle", DEMO, "--html", tmp_path / "drawings.html")
    assert done.returncode == 0, done.stderr
    assert "submitted 18 = screened 18" in done.stdout
    assert WARNING not in done.stdout + done.stderr + (tmp_path / "drawings.html").read_text()

    for patient in sorted(folder for folder in archive.iterdir() if folder.is_dir())[:2]:
        replace_by_photographs(sorted(patient.iterdir())[:5])
    done = run(alone, archive, "--bundle", DEMO, "--all", "--html", tmp_path / "mixed.html")
    assert done.returncode == 1
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"{WARNING} 2: most captures of 2 of 3 patients do not count")
    assert "10 novel" in first
    assert "screen adapt BUNDLE ARCHIVE" in first
    assert done.stderr.splitlines()[-1] == first, "the table may have pushed it off the screen"
    page = (tmp_path / "mixed.html").read_text()
    assert page.index(WARNING) < page.index("<h1>")


def replace_by_photographs(captures: list[Path]) -> None:
    """Overwrite each of them with another part of the photographs that scikit-learn brings along."""
    parts = [part for photograph in load_sample_images().images for part in np.array_split(photograph, 5, axis=1)]
    for capture, part in zip(captures, parts, strict=False):
        Image.fromarray(part).resize((512, 384)).save(capture)


@pytest.mark.skipif("SCREEN_REAL_CAPTURES" not in os.environ, reason="SCREEN_REAL_CAPTURES names no folder")
def test_every_real_capture_is_screened(alone: Environment, bundle: Bundle) -> None:
    archive = Path(os.environ["SCREEN_REAL_CAPTURES"])
    done = run(alone, archive, "--bundle", bundle.path)
    assert done.returncode == 0, done.stderr
    assert "+ rejected 0 + quarantined 0" in done.stdout
