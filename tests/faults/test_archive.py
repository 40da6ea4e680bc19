"""Faults 15, 16, 17, 21, 29: archives that go away, files that are altered, bundles that are exchanged or damaged."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from contract.bundle import Bundle
from db.engine import reading
from db.models import Capture, Run
from db.run_report import read_run
from tests.faults.conftest import Size
from tests.faults.lab import HOSTILE, SLOW, Lab
from tests.support.archives import jpeg
from tests.support.bundles import colour_bundle
from tests.support.commands import Environment
from tests.support.waiting import wait_until


@pytest.fixture
def lab(environment: Environment, archive: Path, bundle: Bundle, tmp_path: Path) -> Lab:
    """With an archive and a bundle of its own, to do harm to."""
    own = tmp_path / "own"
    shutil.copytree(archive, own, copy_function=shutil.copy2)
    shutil.copytree(bundle.path, tmp_path / "own.bundle")
    return Lab.open(environment, own, Bundle.open(tmp_path / "own.bundle"))


def test_the_archive_unmounted_for_a_while(lab: Lab, size: Size, counted: Callable[..., None]) -> None:
    """Once gone altogether, once an empty mount point."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    seconds, away = size.times(120, 4), lab.archive.with_name("away")
    with lab.worker(HOSTILE, **SLOW):
        for is_mount_point in (False, True):
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            lab.archive.rename(away)
            if is_mount_point:
                lab.archive.mkdir()
            time.sleep(seconds)
            assert not lab.progress(run).finished
            if is_mount_point:
                lab.archive.rmdir()
            away.rename(lab.archive)
        now = lab.finish(run)
    assert (now.rejected, now.quarantined) == (0, 0)
    lab.check(run, against=calm)
    counted(15, "the archive unmounted, once leaving its empty mount point", seconds_each=seconds,
            captures=now.submitted, rejected=now.rejected)  # fmt: skip


def test_a_mount_point_with_files_and_a_patients_disk_away(lab: Lab, size: Size, counted: Callable[..., None]) -> None:
    """What is under the mount is no empty folder. Then one patient's folder is another one, without its captures."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    seconds, away = size.times(60, 4), lab.archive.with_name("away")
    with lab.worker(HOSTILE, **SLOW):
        wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
        lab.archive.rename(away)
        (lab.archive / "lost+found").mkdir(parents=True)
        (lab.archive / "P000").mkdir()
        time.sleep(seconds)
        assert not lab.progress(run).finished
        assert lab.progress(run).rejected == 0
        shutil.rmtree(lab.archive)
        away.rename(lab.archive)
        with reading(lab.database) as connection:
            last = connection.execute(
                select(func.max(Capture.path_text)).where(Capture.run_id == run, Capture.state == "pending")
            ).scalar_one()
        folder = lab.archive / Path(last).parts[0]
        (folder.rename(away), folder.mkdir())
        wait_until(lambda: "captures put off" in lab.log, 120, what="its captures to be put off")
        time.sleep(seconds)
        assert not lab.progress(run).finished
        folder.rmdir()
        away.rename(folder)
        now = lab.finish(run)
    assert (now.rejected, now.quarantined) == (0, 0)
    lab.check(run, against=calm)
    counted(21, "the archive unmounted from a folder that is not empty, then one patient's disk", seconds_each=seconds,
            captures=now.submitted, rejected=now.rejected)  # fmt: skip


def append(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\0")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def touch(file: Path) -> None:
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 3 * 10**9))


def replace(file: Path) -> None:
    """By another capture, under a name that is moved over it."""
    other = file.with_suffix(".new")
    other.write_bytes(jpeg("Pro", seed=999))
    other.rename(file)


ALTERATIONS: dict[Callable[[Path], None], str] = {
    append: "changed", cut: "changed", touch: "changed", replace: "changed", Path.unlink: "missing",
}  # fmt: skip


def test_files_altered_after_the_submit(lab: Lab, counted: Callable[..., None]) -> None:
    run = lab.submit()
    wanted = {}
    for patient in range(20):
        for number, (alter, code) in enumerate(ALTERATIONS.items()):
            file = lab.archive / f"P{patient:03d}" / f"{number:03d}.jpg"
            alter(file)
            wanted[f"P{patient:03d}/{number:03d}.jpg"] = code
    with lab.worker():
        now = lab.finish(run)
    lab.check(run)
    assert {one.path: one.reject_code for one in read_run(lab.database, run).ended_badly} == wanted
    counted(16, "files altered after the submit: longer, shorter, touched, replaced, removed", altered=len(wanted),
            noticed=now.rejected, captures=now.submitted)  # fmt: skip


def test_two_patients_folders_exchanged(lab: Lab, counted: Callable[..., None]) -> None:
    """Names, sizes and times of their files are equal: only inodes and bytes are not."""
    one, other, between = (lab.archive / name for name in ("P000", "P001", "between"))
    for file in sorted(one.iterdir()):
        twin = other / file.name
        size = max(file.stat().st_size, twin.stat().st_size)
        for each in (file, twin):  # a decoder reads no further than the end of the image
            each.write_bytes(each.read_bytes().ljust(size, b"\0"))
            os.utime(each, ns=(10**18, 10**18))
    run = lab.submit()
    with lab.worker():
        lab.finish(run)
        before = {case.patient: case.verdict for case in read_run(lab.database, run).cases}
        one.rename(between)
        other.rename(one)
        between.rename(other)
        again = lab.submit()
        lab.finish(again)
    after = {case.patient: case.verdict for case in read_run(lab.database, again).cases}
    assert after == {"P000": before["P001"], "P001": before["P000"]}
    assert after["P000"] != after["P001"]
    for each in (run, again):
        lab.check(each)
    counted(29, "two patients' folders exchanged, sizes and times equal", patients=len(after),
            captures=lab.progress(again).submitted, verdicts_kept_from_the_other=0)  # fmt: skip


def test_another_bundle_in_its_place_in_the_middle_of_a_run(
    lab: Lab, tmp_path: Path, counted: Callable[..., None]
) -> None:
    run = lab.submit()
    place = lab.bundle.path
    with lab.worker(HOSTILE, **SLOW) as worker:
        wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
        worker.terminate()
    right = place.rename(tmp_path / "right.bundle")
    colour_bundle(place, name="another")
    before = lab.progress(run).ended
    with lab.worker():
        wait_until(lambda: "chunk given back" in lab.log, what="the refusal")
        time.sleep(2)
        assert lab.progress(run).ended == before, "nothing is screened with another bundle"
    shutil.rmtree(place)
    shutil.copytree(right, place)
    for file in sorted(place.rglob("*.onnx")):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with lab.worker():
        wait_until(lambda: "does not match its digest" in lab.log, what="the refusal")
        assert lab.progress(run).ended == before, "nothing is screened with a damaged bundle"
        shutil.rmtree(place)
        right.rename(place)
        now = lab.finish(run)
    lab.check(run)
    with reading(lab.database) as connection:
        bundles = connection.execute(
            select(func.count(Run.bundle_digest.distinct())).join(Capture, Capture.run_id == Run.id)
        ).scalar_one()
    assert (bundles, now.screened) == (1, now.submitted)
    counted(17, "another bundle, and one with a flipped bit, in the place of a run's bundle", captures=now.submitted,
            screened_with_another=0)  # fmt: skip


def test_a_compiled_plan_with_a_flipped_bit(lab: Lab, size: Size, counted: Callable[..., None]) -> None:
    """Between two workers, again and again: no result may come from it."""
    calm = lab.without_faults()
    run = lab.submit("--all")
    plans, rng, flips = lab.environment.folder / "cache" / "openvino", random.Random(17), 0
    for _ in range(size.times(10, 2)):
        with lab.worker(HOSTILE, **SLOW) as worker:
            wait_until(lab.in_the_middle(run), what="the worker to be in the middle of a chunk")
            worker.terminate()
        for plan in plans.glob("*.plan"):
            data = bytearray(plan.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            plan.write_bytes(data)
            flips += 1
    assert flips > 0
    with lab.worker():
        now = lab.finish(run)
    lab.check(run, against=calm)
    refused = lab.log.count("a plan does not match and is built anew")
    assert refused > 0
    counted(17, "a bit flipped in every compiled plan, between workers", bits_flipped=flips,
            plans_refused=refused, captures=now.submitted, results_that_differ=0)  # fmt: skip
