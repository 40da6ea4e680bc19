"""Fault 36: bundles that somebody made to harm (tests/support/hostile_bundles.py).

Each is given to the commands that open bundles, and to a real worker: by a run that was submitted with it, as an
earlier release or somebody who writes to the database may have done, and by a copy over the bundle of a running night.
"""

import re
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from contract.archive import walk_archive
from contract.bundle import MANIFEST, Bundle
from contract.errors import ExitCode
from contract.settings import Settings
from db.submission import submit
from producer.commands.submit import submit_request
from tests.faults.conftest import Size
from tests.faults.lab import Lab
from tests.support.archives import write_archive
from tests.support.bundles import colour_bundle
from tests.support.commands import Environment
from tests.support.hostile_bundles import HOSTILE
from tests.support.waiting import wait_until

REPRESENTATIVE = (
    "a pipe as graph", "a link to endless zeros", "a graph of 3 GiB", "an unlisted reference",
    "a manifest nested without end", "weights in a listed file", "an endless loop", "types nested without end",
    "a graph that takes a terabyte", "a graph that takes hours", "answers that are all benign",
    "a reference of 16 GB in a head", "a proof of 4 gigapixels",
)  # fmt: skip
LIMITS = {"SCREEN_OPEN_SECONDS": "8", "SCREEN_MEMORY_MIB": "1536"}
MOST_SECONDS, MOST_MIB = 90, 2560
"""Of any command; the machine has other work."""
SENTENCE = re.compile(r"^screen: .{20,}$", re.MULTILINE)


@pytest.fixture
def names(size: Size) -> tuple[str, ...]:
    return tuple(HOSTILE) if size.full else REPRESENTATIVE


@pytest.fixture
def lab(environment: Environment, bundle: Bundle, tmp_path: Path) -> Lab:
    """With two patients: what is screened does not matter here."""
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, 3)
    return Lab.open(environment, archive, bundle)


def hostile(names: tuple[str, ...], lab: Lab, folder: Path) -> Iterator[tuple[str, Path]]:
    for number, name in enumerate(names):
        yield name, HOSTILE[name].make(lab.bundle.path, folder / f"{number}.bundle")


def test_commands_end_with_a_sentence_in_bounded_time_and_memory(
    lab: Lab, names: tuple[str, ...], tmp_path: Path, counted: Callable[..., None]
) -> None:
    for name, folder in hostile(names, lab, tmp_path):
        at, says = HOSTILE[name].at, HOSTILE[name].says
        verified = lab.environment.screen("bundle", "verify", folder, timeout_s=MOST_SECONDS, **LIMITS)
        submitted = lab.environment.screen(
            "submit", lab.archive, "--bundle", folder, "--dry-run", timeout_s=MOST_SECONDS, **LIMITS
        )
        refused = {"opening": [verified, submitted], "engine": [verified], "submit": []}[at]
        for done in refused:
            assert done.code in (ExitCode.SOME_ENDED_BADLY, ExitCode.USAGE), (name, done.err)
            assert SENTENCE.search(done.err), (name, done.err)
            assert re.search(says, done.err), (name, done.err)
            assert "Traceback" not in done.err, (name, done.err)
            assert "\x1b" not in done.err, name
            assert done.out == "", name
        if at != "opening":
            assert submitted.code == ExitCode.OK, (name, submitted.err)
    used_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    assert used_mib < MOST_MIB
    counted(36, "hostile bundles, given to commands", bundles=len(names), commands=2 * len(names))


def submitted_by_force(lab: Lab, folder: Path) -> int:
    """A run with a bundle that no command would submit; its row says what the sound bundle says."""
    digest = sha256((folder / MANIFEST).read_bytes()).hexdigest()
    bundle = replace(lab.bundle, path=folder, digest=digest)
    settings = Settings(database_url=lab.environment.database_url, report_at="screening")
    walked = walk_archive(lab.archive)
    request = submit_request(walked, bundle, settings, everything=True, verify=False, pseudonymize=False)
    run = submit(lab.database, request).run_id
    assert run is not None
    return run


def test_a_worker_says_what_is_wrong_and_blames_no_capture(
    lab: Lab, names: tuple[str, ...], tmp_path: Path, counted: Callable[..., None]
) -> None:
    runs = []
    with lab.worker(**LIMITS):
        for name, folder in hostile(names, lab, tmp_path):
            one = HOSTILE[name]
            if one.at == "submit" or not (folder / MANIFEST).is_file() or (folder / MANIFEST).stat().st_size > 2**24:
                continue  # it is of no digest, or sound for a worker
            run = submitted_by_force(lab, folder)
            wait_until(lambda run=run: lab.progress(run).trouble is not None, MOST_SECONDS, what=f"a word on {name}")
            trouble = lab.progress(run).trouble
            assert trouble is not None
            assert trouble.isprintable(), name
            done = lab.environment.screen("cancel", run, "--yes")
            assert done.code == ExitCode.OK, done.err
            wait_until(lambda run=run: not lab.progress(run).chunks_leased, MOST_SECONDS, what=f"{name} to be let go")
            assert lab.attempts(run) == 0, (name, trouble)
            assert lab.progress(run).quarantined == 0, name
            runs.append(run)
            assert re.search(f"{one.says}|while its engine was opened|SCREEN_MEMORY_MIB", trouble), (name, trouble)
        sound = lab.submit("--all")
        now = lab.finish(sound)
    assert (now.screened, now.submitted) == (6, 6)
    for run in (*runs, sound):
        lab.check(run)
    counted(36, "hostile bundles, given to a worker", bundles=len(runs), captures_blamed=0, screened_after=now.screened)


def test_a_bundle_copied_over_the_one_in_use_changes_no_answer(
    lab: Lab, tmp_path: Path, counted: Callable[..., None]
) -> None:
    """The other network calls everybody benign, and a size of batch comes for the first time after the copy."""
    folder = tmp_path / "in-use.bundle"
    used = replace(lab, bundle=colour_bundle(folder, name="in use"))
    other = HOSTILE["answers that are all benign"].make(folder, tmp_path / "other.bundle")
    before = used.submit(SCREEN_CHUNK_SIZE="1")
    with used.worker(SCREEN_BATCH_SIZE="8"):
        used.finish(before)  # batches of one capture
        shutil.copytree(other, folder, dirs_exist_ok=True)
        database = used.database
        digest = used.bundle.digest
        settings = Settings(database_url=used.environment.database_url, chunk_size=25, report_at="screening")
        request = submit_request(
            walk_archive(used.archive), used.bundle, settings, everything=True, verify=False, pseudonymize=False
        )
        after = submit(database, request).run_id
        assert after is not None
        now = used.finish(after)  # batches of up to six
    assert now.screened == now.submitted == 6
    assert Bundle.open(folder).digest != digest
    used.check(after, against=before)
    counted(36, "a bundle copied over the one in use", captures=now.submitted, answers_changed=0)
