"""Engines agree with one another, the registry takes what works, and tuning keeps what was set by hand."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage, decode
from contract.predictions import Predictions
from contract.settings import Settings
from tests.support.commands import REPOSITORY
from worker import tuning
from worker.agreement import compare
from worker.engines import plan_cache, registry
from worker.engines.base import DeviceMemoryFull, Engine, EngineOptions, NotUsable, Pending, infer
from worker.engines.onnxruntime import ONNXRuntimeEngine
from worker.engines.openvino import OpenVINOEngine
from worker.engines.registry import open_engine
from worker.recorder import last_records
from worker.tuning import best_batch, tune

DEMO = REPOSITORY / "bundles" / "demo.bundle"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.open(DEMO)


@pytest.fixture(scope="module")
def captures(demo: Bundle) -> RGBImage:
    """The golden captures, each also mirrored and turned: 32 that no engine has been held against."""
    golden = np.stack([decode(data, demo.manifest.image).pixels for data, _ in demo.golden()])
    return np.concatenate([golden, golden[:, ::-1], golden[:, :, ::-1], golden.transpose(0, 2, 1, 3)])


@pytest.fixture(scope="module")
def openvino(demo: Bundle, cache: Path) -> Engine:
    return OpenVINOEngine(demo, "float32", EngineOptions("openvino", "float32", cache))


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_onnxruntime_and_openvino_agree_in_float32_row_by_row(
    demo: Bundle, cache: Path, captures: RGBImage, openvino: Engine, batch: int
) -> None:
    other = ONNXRuntimeEngine(demo, "float32", EngineOptions("onnxruntime", "float32", cache))
    for start in range(0, len(captures), batch):
        some = captures[start : start + batch]
        one, two = infer(openvino, some), infer(other, some)
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-4)
        assert one.embedding == pytest.approx(two.embedding, abs=1e-3)
        assert one.cam is not None
        assert two.cam is not None
        assert one.cam == pytest.approx(two.cam, abs=1e-3)


@pytest.mark.parametrize("batch", [1, 3, 7, 32])
def test_a_captures_answer_does_not_depend_on_its_batch(captures: RGBImage, openvino: Engine, batch: int) -> None:
    alone = infer(openvino, captures).probabilities
    parts = [infer(openvino, captures[i : i + batch]).probabilities for i in range(0, len(captures), batch)]
    assert np.concatenate(parts) == pytest.approx(alone, abs=1e-5)


def test_an_array_that_may_not_be_written_is_taken_too(captures: RGBImage, openvino: Engine) -> None:
    locked = captures[:4].copy()
    locked.flags.writeable = False
    assert infer(openvino, locked).probabilities == pytest.approx(infer(openvino, captures[:4]).probabilities, abs=1e-6)


def test_as_many_batches_as_the_engine_takes_are_under_way_at_once(captures: RGBImage, openvino: Engine) -> None:
    flying = [openvino.start(captures[n : n + 3]) for n in range(openvino.depth)]
    for n, pending in enumerate(flying):
        assert pending().probabilities == pytest.approx(infer(openvino, captures[n : n + 3]).probabilities, abs=1e-5)


def test_the_demo_bundle_agrees_in_the_machines_precision_over_real_captures(demo: Bundle, cache: Path) -> None:
    folder = os.environ.get("SCREEN_REAL_CAPTURES")
    if folder is None:
        pytest.skip("SCREEN_REAL_CAPTURES names no folder")
    archive = walk_archive(Path(folder) / "chula")
    engine, _ = open_engine(demo, EngineOptions("auto", "auto", cache))
    reference = ONNXRuntimeEngine(demo, "float32", EngineOptions("onnxruntime", "float32", cache))
    found = compare(demo, engine, reference, archive)
    assert found.captures == len(archive.captures)
    assert found.equal_share >= 0.95, "these are no drawings: some are close calls"


CRASH_AFTER_TWO_ENGINES = """
import ctypes, sys
from pathlib import Path

from contract.bundle import Bundle
from worker.engines.base import EngineOptions
from worker.engines.openvino import OpenVINOEngine
from worker.recorder import FlightRecorder

bundle, cache = Bundle.open(Path(sys.argv[1])), Path(sys.argv[2])
recorder = FlightRecorder(cache)
first, second = (OpenVINOEngine(bundle, "float32", EngineOptions("openvino", "float32", cache)) for _ in range(2))
del first
del second
recorder.begin([77])
ctypes.string_at(0)
"""


def test_engines_that_come_and_go_leave_a_crash_readable(tmp_path: Path) -> None:
    """Each OpenVINO core sets a stack for signals, and of two that go in the order they came one is left dangling."""
    script = [sys.executable, "-c", CRASH_AFTER_TWO_ENGINES, DEMO, tmp_path]
    assert subprocess.run(script, check=False).returncode == -signal.SIGSEGV
    (record,) = last_records(tmp_path, "")
    assert record.suspects == {77}
    assert "Segmentation fault" in record.reason


def test_a_plan_with_one_bit_flipped_is_never_loaded(demo: Bundle, captures: RGBImage, tmp_path: Path) -> None:
    """OpenVINO itself would load it, and give other probabilities or none."""
    options = EngineOptions("openvino", "float32", tmp_path)
    before = infer(OpenVINOEngine(demo, "float32", options), captures[:1]).probabilities
    (plan,) = (tmp_path / "openvino").iterdir()
    sound = plan.read_bytes()
    for place in np.random.default_rng(3).integers(0, len(sound), 5):
        damaged = bytearray(sound)
        damaged[place] ^= 1
        plan.write_bytes(damaged)
        after = infer(OpenVINOEngine(demo, "float32", options), captures[:1]).probabilities
        assert after == pytest.approx(before, abs=1e-6)
        assert plan.read_bytes().partition(b"\n")[2] != damaged.partition(b"\n")[2], "it was compiled anew"
        plan.write_bytes(sound)


def test_a_plan_is_taken_where_there_is_one(
    demo: Bundle, captures: RGBImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions("openvino", "float32", tmp_path)
    before = infer(OpenVINOEngine(demo, "float32", options), captures[:1]).probabilities
    monkeypatch.setattr(OpenVINOEngine, "_model", lambda *_: pytest.fail("it is compiled again"))
    assert infer(OpenVINOEngine(demo, "float32", options), captures[:1]).probabilities == pytest.approx(
        before, abs=1e-6
    )


def test_without_room_for_its_plan_an_engine_serves_all_the_same(
    demo: Bundle, captures: RGBImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(plan_cache, "write_own", no_room)
    engine = OpenVINOEngine(demo, "float32", EngineOptions("openvino", "float32", tmp_path))
    assert len(infer(engine, captures[:1]).probabilities) == 1
    assert list((tmp_path / "openvino").iterdir()) == []


# What auto takes


def strict(demo: Bundle, precision: str) -> Bundle:
    tolerance = {**demo.manifest.golden_tolerance, precision: -1.0}
    return replace(demo, manifest=demo.manifest.model_copy(update={"golden_tolerance": tolerance}))


def test_a_precision_that_does_not_reproduce_the_bundle_is_passed_over(demo: Bundle, cache: Path) -> None:
    engine, _ = open_engine(strict(demo, "bfloat16"), EngineOptions("openvino", "auto", cache))
    assert engine.precision == "float32"


def test_an_engine_and_precision_that_were_named_are_taken_or_refused(demo: Bundle, cache: Path) -> None:
    with pytest.raises(EngineError, match="does not reproduce"):
        open_engine(strict(demo, "float32"), EngineOptions("onnxruntime", "float32", cache))
    with pytest.raises(EngineError, match="float32, not in bfloat16"):
        open_engine(demo, EngineOptions("onnxruntime", "bfloat16", cache))


def test_when_nothing_works_every_reason_is_named(demo: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "ENGINES", {"absent": "no_such_module:X", "onnxruntime": registry.ENGINES["onnxruntime"]}
    )
    with pytest.raises(EngineError, match=r"absent is not installed.*does not reproduce"):
        open_engine(strict(demo, "float32"), EngineOptions("auto", "auto", cache))
    with pytest.raises(NotUsable):
        open_engine(demo, EngineOptions("absent", "auto", cache))


# Tuning


class Sleeping:
    """Takes so many seconds per batch and per capture, by a clock of its own; has memory for so many."""

    now = 0.0

    name, precision, device, depth = "fake", "float32", "none", 1

    def __init__(self, per_batch: float, per_capture: float, *, room: int = 10**9, shares_cores: bool = False) -> None:
        self.per_batch, self.per_capture, self.room, self.shares_cores = per_batch, per_capture, room, shares_cores
        self.max_batch: int | None = None

    def start(self, batch: RGBImage) -> Pending:
        rows = len(batch)
        if rows > self.room:
            raise DeviceMemoryFull("no room")
        Sleeping.now += self.per_batch + rows * self.per_capture
        empty = np.zeros((rows, 4), np.float32)
        return lambda: Predictions(empty, None, empty)

    def close(self) -> None:
        pass


PIXELS = np.zeros((2, 64, 64, 3), np.uint8)


@pytest.fixture
def by_the_clock_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine does besides must not decide which batch is the fastest."""
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: Sleeping.now))


@pytest.mark.usefixtures("by_the_clock_of_the_engine")
def test_where_a_batch_costs_the_same_whatever_its_size_the_largest_is_taken() -> None:
    assert best_batch(Sleeping(0.01, 0.0), PIXELS)[0] == 256


@pytest.mark.usefixtures("by_the_clock_of_the_engine")
def test_no_batch_is_larger_than_the_engine_or_its_memory_allows() -> None:
    limited = Sleeping(0.01, 0.0)
    limited.max_batch = 32
    assert best_batch(limited, PIXELS)[0] == 32
    assert best_batch(Sleeping(0.01, 0.0, room=20), PIXELS)[0] == 16


@pytest.mark.usefixtures("by_the_clock_of_the_engine")
def test_where_captures_cost_the_same_in_any_batch_a_small_one_is_taken() -> None:
    assert best_batch(Sleeping(0.0, 0.004), PIXELS)[0] <= 8


@pytest.mark.usefixtures("by_the_clock_of_the_engine")
def test_what_is_set_by_hand_is_kept(bundle: Bundle) -> None:
    found = tune(Sleeping(0.001, 0.0), bundle, Settings(batch_size=5, decoders=7, chunks_ahead=3))
    assert (found.batch_size, found.decoders, found.chunks_ahead) == (5, 7, 3)


@pytest.mark.usefixtures("by_the_clock_of_the_engine")
def test_a_fast_device_gets_more_chunks_in_hand_than_a_slow_one(bundle: Bundle) -> None:
    slow = tune(Sleeping(0.0, 0.05), bundle, Settings(batch_size=1))
    fast = tune(Sleeping(0.01, 0.0), bundle, Settings(batch_size=256))
    assert slow.chunks_ahead == 1
    assert fast.chunks_ahead > slow.chunks_ahead


@pytest.mark.usefixtures("by_the_clock_of_the_engine")
def test_an_engine_on_the_same_cores_gets_a_decoder_for_each(bundle: Bundle) -> None:
    found = tune(Sleeping(0.001, 0.0, shares_cores=True), bundle, Settings(batch_size=4))
    assert found.decoders == len(os.sched_getaffinity(0))
