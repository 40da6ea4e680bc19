"""Fault 11 again: files that nobody thought of, made by a fuzzer that watches which code they reach."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Size
from tests.faults.test_corpus import corpus
from tests.support.commands import REPOSITORY

LARGEST_BYTES = 30_000


def test_no_bytes_make_the_decoder_fail(tmp_path: Path, size: Size, counted: Callable[..., None]) -> None:
    """Within a bounded number of inputs, beginning with the hostile corpus."""
    pytest.importorskip("atheris", reason="there is no atheris for this platform")
    seeds = tmp_path / "corpus"
    seeds.mkdir()
    for number, (data, _) in enumerate(corpus().values()):
        if len(data) <= LARGEST_BYTES:
            (seeds / f"{number:03d}").write_bytes(data)
    inputs = size.times(200_000, 5_000)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_decoder", seeds, f"-runs={inputs}", f"-max_len={LARGEST_BYTES}",
         "-seed=11", "-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={tmp_path}/"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    executed = int(re.findall(r"number_of_executed_units: (\d+)", done.stderr)[0])
    assert executed >= inputs
    covered = re.findall(r"cov: (\d+)", done.stderr)
    assert int(covered[-1]) > int(covered[0]), "it found its way to code that the corpus does not reach"
    counted(11, "coverage-guided fuzzing of the decoder", on="none", inputs=executed,
            code_edges_reached=int(covered[-1]), other_errors=0, crashes=0)  # fmt: skip
