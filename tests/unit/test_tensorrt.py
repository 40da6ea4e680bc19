"""TensorRT: plans are built by the real library, which needs no device for that; what runs them here is a fake."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda")


from contract.bundle import MODEL, Bundle
from contract.errors import EngineError
from contract.outcomes import CaptureRef, ChunkOutcome
from tests.support.archives import COLOURS, write_archive
from tests.support.bundles import LABELS, SIZE, expected
from tests.support.fake_device import FakeCUDA, fake_tensorrt
from worker.engines import cuda, plans
from worker.engines.base import EngineOptions, NotUsable, infer
from worker.engines.plan_cache import PlanKey, read_plan, write_plan
from worker.engines.proving import prove
from worker.engines.registry import open_engine
from worker.engines.tensorrt import GRAPH_AFTER, TensorRTEngine
from worker.pipeline import Pipeline, Work

needs_device = pytest.mark.skipif(
    shutil.which("nvidia-smi") is None, reason="no NVIDIA device: TensorRT's kernels cannot run here"
)


@pytest.fixture
def key(bundle: Bundle) -> PlanKey:
    return plans.plan_key(bundle, "float32", "sm86", 8)


# Plans


def test_a_plan_is_built_without_a_device_and_then_kept(
    bundle: Bundle, key: PlanKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, was_kept = plans.obtain(bundle, key, tmp_path)
    assert len(plan) > 1000
    assert not was_kept
    monkeypatch.setattr(plans, "build", lambda *_: pytest.fail("built again"))
    assert plans.obtain(bundle, key, tmp_path) == (plan, True)


@pytest.mark.parametrize(
    "other",
    [{"bundle": "b" * 64}, {"graph": "c" * 64}, {"library": "tensorrt"}, {"version": "0.0"}, {"target": "sm80"},
     {"precision": "float16"}, {"max_batch": 16}, {"settings": "TF32"}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_whatever_a_plan_depends_on_is_in_its_key(key: PlanKey, tmp_path: Path, other: dict[str, Any]) -> None:
    changed = replace(key, **other)
    assert changed.file_name != key.file_name
    file = tmp_path / "x.plan"
    write_plan(file, key, b"plan")
    assert read_plan(file, key) == b"plan"
    assert read_plan(file, changed) is None, "a plan under another's name is not loaded"


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:-9] + b"x" + d[-8:], lambda d: b"", lambda d: b"{}\n"]
)
def test_a_damaged_plan_is_built_anew(
    bundle: Bundle, key: PlanKey, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    plan, _ = plans.obtain(bundle, key, tmp_path)
    file = tmp_path / "tensorrt" / key.file_name
    file.write_bytes(damage(file.read_bytes()))
    again, was_kept = plans.obtain(bundle, key, tmp_path)
    assert not was_kept
    assert len(again) == pytest.approx(len(plan), rel=0.1)
    assert read_plan(file, key) == again


def test_plans_are_for_the_workers_user_alone(bundle: Bundle, key: PlanKey, tmp_path: Path) -> None:
    plans.obtain(bundle, key, tmp_path)
    file = tmp_path / "tensorrt" / key.file_name
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o620)
    with pytest.raises(EngineError, match="others can write to it"):
        plans.obtain(bundle, key, tmp_path)
    file.chmod(0o600)
    file.parent.chmod(0o770)
    with pytest.raises(EngineError, match="others can write to it"):
        plans.obtain(bundle, key, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_another_users_plan_is_refused(bundle: Bundle, key: PlanKey, tmp_path: Path, what: str) -> None:
    plans.obtain(bundle, key, tmp_path)
    file = tmp_path / "tensorrt" / key.file_name
    os.chown(file if what == "file" else file.parent, 12345, 12345)
    with pytest.raises(EngineError, match="does not belong to the worker's user"):
        plans.obtain(bundle, key, tmp_path)


def test_a_link_in_the_place_of_a_plan_is_refused(bundle: Bundle, key: PlanKey, tmp_path: Path) -> None:
    plans.obtain(bundle, key, tmp_path)
    file = tmp_path / "tensorrt" / key.file_name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="cannot be opened"):
        plans.obtain(bundle, key, tmp_path)


def test_a_target_that_the_library_does_not_know_is_named_with_those_it_does(bundle: Bundle, tmp_path: Path) -> None:
    key = plans.plan_key(bundle, "float32", "sm12", 8)
    with pytest.raises(EngineError, match=r"does not build for sm12; it knows .*sm86"):
        plans.obtain(bundle, key, tmp_path)


def test_a_precision_without_a_graph_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="half_graph = true"):
        plans.plan_key(bundle, "float16", "sm86", 8)


def test_a_graph_that_tensorrt_cannot_read_is_refused_with_its_reason(
    bundle: Bundle, key: PlanKey, tmp_path: Path
) -> None:
    broken = replace(bundle, contents={MODEL: b"no graph"})
    with pytest.raises(EngineError, match=r"cannot read model\.onnx"):
        plans.obtain(broken, key, tmp_path)


def test_a_graph_is_summed_up_without_a_device(bundle: Bundle) -> None:
    found = plans.summary(bundle, "float32")
    assert found.inputs == [f"captures UINT8 [-1, {SIZE}, {SIZE}, 3]"]
    assert "probabilities FLOAT [-1, 4]" in found.outputs
    assert found.layers["CONVOLUTION"] == {"FLOAT": 1}


# Running them


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeCUDA:
    """A fake device, and a fake TensorRT whose plans are the size of their batch."""
    made, library = FakeCUDA(), fake_tensorrt()
    monkeypatch.setattr(cuda, "cudart", made)
    monkeypatch.setattr(plans, "library", lambda: library)
    monkeypatch.setattr(plans, "build", lambda bundle, key, folder: str(key.max_batch).encode())
    return made


def opened(bundle: Bundle, tmp_path: Path, batch: int = 8) -> TensorRTEngine:
    return TensorRTEngine(bundle, "float32", EngineOptions("tensorrt", "float32", tmp_path, batch))


def colours(rows: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (rows, 1, 1, 3), np.uint8)
    return values * np.ones((1, SIZE, SIZE, 1), np.uint8)


def assert_right(engine: TensorRTEngine, batch: np.ndarray) -> None:
    found = infer(engine, batch)
    assert found.probabilities == pytest.approx(np.stack([expected(one) for one in batch]), abs=1e-5)
    assert found.cam is not None
    assert found.cam[:, 0, 0, 0] == pytest.approx(batch.mean((1, 2, 3)), abs=1e-3)


def test_it_proves_itself_on_a_fake_device(bundle: Bundle, tmp_path: Path, device: FakeCUDA) -> None:
    engine, proof = open_engine(bundle, EngineOptions("auto", "float32", tmp_path))
    assert (engine.name, engine.device, engine.shares_cores) == ("tensorrt", "Fake device", False)
    assert proof.golden.captures == len(LABELS)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 20])
def test_batches_of_any_size_on_a_fake_device(bundle: Bundle, tmp_path: Path, device: FakeCUDA, rows: int) -> None:
    assert_right(opened(bundle, tmp_path), colours(rows))


def test_two_batches_are_under_way_at_once_and_neither_gets_the_others_answers_on_a_fake_device(
    bundle: Bundle, tmp_path: Path, device: FakeCUDA
) -> None:
    engine = opened(bundle, tmp_path)
    batches = [colours(rows, seed) for seed, rows in enumerate((8, 3, 8, 8, 1, 8, 8, 8, 3))]
    flying = [engine.start(batches[0]), engine.start(batches[1])]
    for number in range(len(batches)):
        found = flying.pop(0)()
        wanted = np.stack([expected(one) for one in batches[number]])
        assert found.probabilities == pytest.approx(wanted, abs=1e-5)
        if number + 2 < len(batches):
            flying.append(engine.start(batches[number + 2]))


def test_a_size_that_comes_back_is_launched_as_one_graph_on_a_fake_device(
    bundle: Bundle, tmp_path: Path, device: FakeCUDA
) -> None:
    engine = opened(bundle, tmp_path)
    for seed in range(12):
        assert_right(engine, colours(8 if seed % 2 else 5, seed))
    assert device.launches > 0
    before = device.launches
    assert_right(engine, colours(3))
    assert device.launches == before, f"a size seen less than {GRAPH_AFTER} times is not captured"


def test_a_device_with_little_memory_gets_smaller_batches_on_a_fake_device(
    bundle: Bundle, tmp_path: Path, device: FakeCUDA
) -> None:
    device.capacity = 200_000
    engine = opened(bundle, tmp_path, batch=64)
    assert engine.max_batch == 4
    assert sum(map(len, device.device.values())) <= device.capacity, "what did not fit was given back"
    assert_right(engine, colours(20))
    assert {int(p.name.split("-")[3]) for p in (tmp_path / "tensorrt").glob("*.plan")} == {64, 32, 16, 8, 4}


def test_a_device_without_memory_is_an_error_on_a_fake_device(bundle: Bundle, tmp_path: Path, device: FakeCUDA) -> None:
    device.capacity = 1000
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        opened(bundle, tmp_path, batch=4)
    assert device.device == {}
    assert device.host == {}


def test_closed_it_gives_all_memory_back_on_a_fake_device(bundle: Bundle, tmp_path: Path, device: FakeCUDA) -> None:
    engine = opened(bundle, tmp_path)
    assert_right(engine, colours(8))
    engine.close()
    assert device.device == {}
    assert device.host == {}


def test_a_whole_archive_goes_through_the_pipeline_on_a_fake_device(
    bundle: Bundle, tmp_path: Path, device: FakeCUDA
) -> None:
    archive = write_archive(tmp_path / "archive", {f"P-{label}": label for label in COLOURS}, 9)
    files = sorted(archive.rglob("*.jpg"))
    refs = [
        CaptureRef(n, str(f.relative_to(archive)).encode(), f.stat().st_size, f.stat().st_mtime_ns)
        for n, f in enumerate(files)
    ]
    work = [Work(str(archive).encode(), refs)]
    with ThreadPoolExecutor(2) as pool:
        pipeline = Pipeline(bundle.manifest, opened(bundle, tmp_path), pool, 8)
        ((_, outcome),) = pipeline.run(lambda: work.pop() if work else None)
    assert isinstance(outcome, ChunkOutcome)
    for row, file in zip(outcome.screened, files, strict=True):
        assert file.parent.name == f"P-{row.label}"


def test_without_a_device_the_engine_is_not_usable_and_auto_takes_the_next(bundle: Bundle, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("there is a device")
    with pytest.raises(NotUsable, match="no NVIDIA device"):
        TensorRTEngine.precisions(bundle)
    engine, _ = open_engine(bundle, EngineOptions("auto", "auto", tmp_path))
    assert engine.name == "openvino"


@needs_device
@pytest.mark.parametrize("rows", [1, 7, 8])
def test_a_real_device_answers_as_the_bundle_says(bundle: Bundle, tmp_path: Path, rows: int) -> None:
    engine = opened(bundle, tmp_path)
    assert prove(engine, bundle).golden.probability < 1e-3
    for seed in range(4):
        batch = colours(rows, seed)
        wanted = np.stack([expected(one) for one in batch])
        assert infer(engine, batch).probabilities == pytest.approx(wanted, abs=1e-3)
