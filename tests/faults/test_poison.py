"""Fault 10: captures that crash the process, take all memory, or never end, and an engine that crashes on a batch."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contract.bundle import Bundle
from db.run_report import read_run
from tests.faults.hostile_worker import MARK
from tests.faults.lab import HOSTILE, Lab
from tests.support.commands import Environment

POISON = {
    "P003/007-crash.jpg": "Segmentation fault",
    "P007/003-memory.jpg": "more memory than a worker may have",
    "P011/000-hang.jpg": "time limit",
    "P015/011-engine.png": "Segmentation fault",
}
"""Captures that end their worker's process, and what is to be said of how it ended."""


@pytest.fixture
def lab(environment: Environment, archive: Path, bundle: Bundle, tmp_path: Path) -> Lab:
    poisoned = tmp_path / "poisoned"
    shutil.copytree(archive, poisoned, copy_function=shutil.copy2)
    for name in POISON:
        file = poisoned / name
        if file.suffix == ".png":
            Image.new("RGB", (96, 80), (MARK, MARK, MARK)).save(file)
        else:
            shutil.copy2(poisoned / "P000/000.jpg", file)
    return Lab.open(environment, poisoned, bundle)


def test_each_is_tried_three_times_and_quarantined_and_all_others_are_screened(
    lab: Lab, counted: Callable[..., None]
) -> None:
    run = lab.submit()
    with lab.worker(HOSTILE, SCREEN_CHUNK_SECONDS="12", SCREEN_MEMORY_MIB="1536"):
        now = lab.finish(run, 300)
    assert (now.rejected, now.quarantined) == (0, len(POISON))
    assert now.screened == now.submitted - len(POISON)
    ended = {one.path: one.reason for one in read_run(lab.database, run).ended_badly}
    assert ended.keys() == POISON.keys()
    for path, how in POISON.items():
        assert ended[path].startswith("3 attempts"), path
        assert how in ended[path], path
    lab.check(run)
    counted(10, "captures that crash, take all memory or hang; an engine that crashes on a batch",
            captures=now.submitted, poison=len(POISON), quarantined=now.quarantined, screened=now.screened,
            attempts_each=3)  # fmt: skip
