"""The path of one chunk: every capture ends once and in its own row, whatever lies beside it in the batch."""

import dataclasses
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from contract.bundle import EXPECTED, GOLDEN, MODEL, Bundle, GoldenSet, Outputs, file_digest, write_manifest
from contract.cells import Cell, unpack
from contract.errors import ArchiveUnavailable, BundleError, EngineError, LeaseLost
from contract.outcomes import CaptureRef, ChunkOutcome, Rejected, Screened
from contract.predictions import Predictions
from contract.reading import read_capture
from contract.states import RejectCode
from tests.support.archives import COLOURS, encode, write_archive
from tests.support.bundles import LABELS, expected
from tests.support.waiting import wait_until
from worker import pipeline as pipeline_module
from worker.engines.base import DeviceMemoryFull, Engine, EngineOptions, Pending, infer
from worker.engines.proving import prove
from worker.engines.registry import open_engine
from worker.pipeline import LOOK_AHEAD_BATCHES, Pipeline, Work

CAPTURES = 24
BAD = {
    "missing": RejectCode.MISSING,
    "text": RejectCode.NOT_AN_IMAGE,
    "cut": RejectCode.TRUNCATED,
    "empty": RejectCode.EMPTY_FILE,
    "tiny": RejectCode.TOO_SMALL,
}
KINDS = ("good", *BAD)


def colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for each capture, so that its result can be told from every other."""
    return (10 + 10 * number, 250 - 9 * number, (67 * number) % 256)


def answer(rgb: Sequence[float]) -> NDArray[np.float64]:
    """What FakeEngine says of a capture of this mean colour: probabilities [4]."""
    weights = np.array([*rgb, 40.0]) + 1
    return weights / weights.sum()


class FakeEngine:
    """Computes its answers from the pixels it is given, and keeps the sizes of its batches."""

    name = "fake"
    precision = "float32"
    device = "none"
    shares_cores = True
    max_batch = None

    def __init__(self, before: Callable[[], None] = lambda: None, *, depth: int = 1) -> None:
        self.batches: list[int] = []
        self.depth = depth
        self.flying = 0
        self._before = before

    def start(self, batch: NDArray[np.uint8]) -> Pending:
        self.flying += 1
        assert self.flying <= self.depth, "more batches under way than the engine takes"
        found = self.infer(batch)

        def fetch() -> Predictions:
            self.flying -= 1
            return found

        return fetch

    def close(self) -> None:
        pass

    def infer(self, batch: NDArray[np.uint8]) -> Predictions:
        self._before()
        assert batch.dtype == np.uint8
        assert batch.shape[1:] == (64, 64, 3)
        assert batch.flags.c_contiguous
        self.batches.append(len(batch))
        means = batch.reshape(len(batch), -1, 3).mean(1)
        probabilities = np.stack([answer(mean) for mean in means]).astype(np.float32)
        cam = np.stack([np.arange(4)[:, None, None] + np.full((4, 2, 2), mean.mean() / 256) for mean in means])
        return Predictions(probabilities, cam.astype(np.float32), means.astype(np.float32))


class SpyPool(ThreadPoolExecutor):
    """A real thread pool that keeps what was handed to it."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.futures: list[Future[Any]] = []

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*args, **kwargs)
        self.futures.append(future)
        return future


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each capture in a good version and in every bad one: <kind>/<number>.png."""
    folder = tmp_path_factory.mktemp("archive")
    for kind in KINDS:
        (folder / kind).mkdir()
    for number in range(CAPTURES):
        good = encode(Image.new("RGB", (80, 70 + number), colour(number)), "PNG")
        made = {"good": good, "text": b"notes", "cut": good[: len(good) // 2], "empty": b"", "missing": b"gone"}
        made["tiny"] = encode(Image.new("RGB", (1, 1)), "PNG")
        for kind, data in made.items():
            (folder / kind / f"{number:02d}.png").write_bytes(data)
    return folder


def refs(root: Path, kinds: Sequence[str]) -> list[CaptureRef]:
    """Capture number n in the version `kinds[n]`; ids are not in order."""
    made = []
    for number, kind in enumerate(kinds):
        file = root / kind / f"{number:02d}.png"
        path = b"missing/nowhere.png" if kind == "missing" else f"{kind}/{number:02d}.png".encode()
        made.append(CaptureRef(identity(number), path, file.stat().st_size, file.stat().st_mtime_ns))
    return made


def identity(number: int) -> int:
    return 1000 - 7 * number


@pytest.fixture
def pools() -> Iterator[Callable[[int], SpyPool]]:
    """Makes thread pools and ends them after the test."""
    made: list[SpyPool] = []

    def make(threads: int) -> SpyPool:
        made.append(SpyPool(threads))
        return made[-1]

    yield make
    for pool in made:
        pool.shutdown(cancel_futures=True)


def screen_chunk(
    pipeline: Pipeline, root: Path | str, captures: Sequence[CaptureRef], check: Callable[[], None] = lambda: None
) -> ChunkOutcome:
    """One chunk alone through the pipeline. Raises what stopped it."""
    (result,) = screen_chunks(pipeline, [Work(str(root).encode(), captures, check)])
    if isinstance(result, Exception):
        raise result
    return result


def screen_chunks(pipeline: Pipeline, works: Sequence[Work]) -> list[ChunkOutcome | Exception]:
    """Results in the order of the chunks, whatever the order in which they came."""
    waiting = list(works)
    results = dict[int, ChunkOutcome | Exception]()
    for work, result in pipeline.run(lambda: waiting.pop(0) if waiting else None):
        assert id(work) not in results
        results[id(work)] = result
    return [results[id(work)] for work in works]


@pytest.fixture
def screen(bundle: Bundle, root: Path, pools: Callable[[int], SpyPool]) -> Callable[..., ChunkOutcome]:
    """Screens captures of these kinds with a FakeEngine."""

    def run(
        kinds: Sequence[str], *, batch: int = 7, decoders: int = 4, engine: Engine | None = None, **options: Any
    ) -> ChunkOutcome:
        pipeline = Pipeline(bundle.manifest, engine or FakeEngine(), pools(decoders), batch)
        return screen_chunk(pipeline, root, refs(root, kinds), **options)

    return run


Screen = Callable[..., ChunkOutcome]


def assert_every_row_is_right(outcome: ChunkOutcome, root: Path, kinds: Sequence[str]) -> None:
    """Each capture once, in the order given, with what its own pixels or its own fault give."""
    good = [number for number, kind in enumerate(kinds) if kind == "good"]
    bad = [number for number, kind in enumerate(kinds) if kind != "good"]
    assert [one.capture_id for one in outcome.screened] == [identity(number) for number in good]
    assert [one.capture_id for one in outcome.rejected] == [identity(number) for number in bad]
    for number, row in zip(good, outcome.screened, strict=True):
        assert_screened(row, number, root)
    for number, fault in zip(bad, outcome.rejected, strict=True):
        assert_rejected(fault, number, kinds[number], root)


def assert_screened(row: Screened, number: int, root: Path) -> None:
    wanted = answer(colour(number))
    top = int(wanted.argmax())
    assert row.probabilities == pytest.approx(wanted, abs=1e-6)
    assert (row.label, row.probability) == (LABELS[top], row.probabilities[top])
    assert row.p_all == pytest.approx(1 - wanted[0], abs=1e-6)
    assert (row.width, row.height) == (80, 70 + number)
    assert row.sha256 == file_digest(root / f"good/{number:02d}.png")
    assert row.cam is not None
    cam = np.frombuffer(row.cam, np.float16)
    assert cam == pytest.approx(np.full(4, top + np.mean(colour(number)) / 256), abs=2e-3)


def assert_rejected(row: Rejected, number: int, kind: str, root: Path) -> None:
    assert row.code is BAD[kind]
    assert row.reason
    assert kind + "/" not in row.reason
    assert row.sha256 == (None if kind == "missing" else file_digest(root / kind / f"{number:02d}.png"))


# Every capture ends once and in its own row


@pytest.mark.parametrize("decoders", [1, 4])
@pytest.mark.parametrize("batch", [1, 2, 7, 32])
def test_every_capture_gets_the_result_of_its_own_pixels(screen: Screen, root: Path, batch: int, decoders: int) -> None:
    engine = FakeEngine()
    kinds = ["good"] * CAPTURES
    outcome = screen(kinds, batch=batch, decoders=decoders, engine=engine)
    assert_every_row_is_right(outcome, root, kinds)
    assert sum(engine.batches) == CAPTURES
    assert all(size == batch for size in engine.batches[:-1]), "batches must stay full, or a GPU idles"
    assert engine.batches[-1] == CAPTURES % batch or engine.batches[-1] == batch


@pytest.mark.parametrize("decoders", [1, 4])
@pytest.mark.parametrize("batch", [1, 2, 7, 32])
@pytest.mark.parametrize("bad", list(BAD))
def test_a_bad_capture_in_any_position_shifts_no_result(
    screen: Screen, root: Path, bad: str, batch: int, decoders: int
) -> None:
    for position in range(10):
        kinds = ["good"] * position + [bad] + ["good"] * (9 - position)
        assert_every_row_is_right(screen(kinds, batch=batch, decoders=decoders), root, kinds)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(KINDS), max_size=CAPTURES),
    st.sampled_from([1, 2, 3, 7, 32]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 3]),
)
def test_any_mixture_ends_with_every_capture_in_its_own_row(
    screen: Screen, root: Path, kinds: list[str], batch: int, decoders: int, depth: int
) -> None:
    engine = FakeEngine(depth=depth)
    outcome = screen(kinds, batch=batch, decoders=decoders, engine=engine)
    assert_every_row_is_right(outcome, root, kinds)
    assert all(size == batch for size in engine.batches[:-1]), "bad captures must not leave batches half empty"
    assert 0 not in engine.batches


def test_a_chunk_of_nothing_but_bad_captures_needs_no_engine(screen: Screen, root: Path) -> None:
    engine = FakeEngine()
    kinds = [kind for kind in BAD for _ in range(4)]
    assert_every_row_is_right(screen(kinds, engine=engine), root, kinds)
    assert engine.batches == []


def test_an_empty_chunk_has_an_empty_outcome(screen: Screen) -> None:
    outcome = screen([])
    assert (outcome.screened, outcome.rejected) == ([], [])


def test_the_outcome_says_which_engine_and_where_the_time_went(screen: Screen) -> None:
    outcome = screen(["good"] * 5)
    assert outcome.engine == "fake/float32"
    assert set(outcome.seconds) == {"read", "decode", "quality", "wait", "infer", "total"}
    assert all(value >= 0 for value in outcome.seconds.values())
    assert outcome.seconds["wait"] + outcome.seconds["infer"] <= outcome.seconds["total"] + 1e-3


def test_a_capture_that_differs_from_what_was_submitted_is_not_screened(
    screen: Screen, bundle: Bundle, root: Path
) -> None:
    capture = dataclasses.replace(refs(root, ["good"])[0], modified_ns=1)
    with ThreadPoolExecutor(1) as pool:
        outcome = screen_chunk(Pipeline(bundle.manifest, FakeEngine(), pool, 4), root, [capture])
    assert [(one.capture_id, one.code) for one in outcome.rejected] == [(identity(0), RejectCode.CHANGED)]


def test_an_engine_without_an_activation_map_leaves_it_out(screen: Screen) -> None:
    class Flat(FakeEngine):
        def infer(self, batch: NDArray[np.uint8]) -> Predictions:
            return dataclasses.replace(super().infer(batch), cam=None)

    screened = screen(["good"] * 3, engine=Flat()).screened
    assert [one.cam for one in screened] == [None] * 3
    assert [(one.nucleated_cells, one.cells) for one in screened] == [(0, b"\x01\x00")] * 3


@pytest.mark.parametrize("told", [True, False], ids=["a map", "a map with a place that is no number"])
def test_cells_come_with_what_the_map_says_of_them(screen: Screen, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    class Sure(FakeEngine):
        def infer(self, batch: NDArray[np.uint8]) -> Predictions:
            cam = np.zeros((len(batch), 4, 2, 2), np.float32)
            cam[:, 2, 0, 0] = 30.0 if told else np.nan  # the left upper quarter is surely the third label
            return dataclasses.replace(super().infer(batch), cam=cam)

    cells = [Cell(0, 0, 0.4, 0.4, 0.1, 1, 0.5, 0), Cell(0.6, 0.6, 1, 1, 0.1, 1, 0.5, 0.4)]
    monkeypatch.setattr(pipeline_module, "find_cells", lambda _pixels: cells)
    for one in screen(["good"] * 3, engine=Sure()).screened:
        assert (one.nucleated_cells, one.quality["nuclei"]) == (2, 0.2)
        assert one.cells is not None
        first, second = unpack(one.cells)
        assert (first.left, first.bottom, second.top) == pytest.approx((0, 0.4, 0.6), abs=1 / 255)
        assert first.shares == (pytest.approx((0, 0, 1, 0)) if told else ())
        assert second.shares == (pytest.approx((0.25, 0.25, 0.25, 0.25), abs=1 / 255) if told else ())


# Chunk after chunk


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from(KINDS), max_size=9), max_size=5),
    st.sampled_from([1, 2, 3, 32]),
    st.sampled_from([1, 2, 3]),
)
def test_chunks_follow_one_another_and_none_gets_anothers_results(
    bundle: Bundle, root: Path, chunks: list[list[str]], batch: int, depth: int
) -> None:
    with ThreadPoolExecutor(2) as pool:
        pipeline = Pipeline(bundle.manifest, FakeEngine(depth=depth), pool, batch)
        works = [Work(str(root).encode(), refs(root, kinds)) for kinds in chunks]
        for kinds, result in zip(chunks, screen_chunks(pipeline, works), strict=True):
            assert isinstance(result, ChunkOutcome)
            assert_every_row_is_right(result, root, kinds)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_result_does_not_wait_for_the_next_chunk_to_be_read(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool], monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    answers = Event()

    def read(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> object:
        assert b"tiny" not in path or answers.wait(60), "the storage never answered"
        return read_capture(root, path, size_bytes, modified_ns)

    monkeypatch.setattr(pipeline_module, "read_capture", read)
    first, second = (Work(str(root).encode(), refs(root, [kind] * 4)) for kind in ("good", "tiny"))
    waiting = [first, second]
    pipeline = Pipeline(bundle.manifest, FakeEngine(depth=depth), pools(2), 4)
    results = pipeline.run(lambda: waiting.pop(0) if waiting else None)
    work, outcome = next(results)
    assert work is first
    assert isinstance(outcome, ChunkOutcome)
    assert len(outcome.screened) == 4
    answers.set()
    assert [work for work, _ in results] == [second]


def test_the_next_chunk_is_decoded_while_the_engine_still_works_on_the_one_before(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool]
) -> None:
    pool = pools(2)
    engine = FakeEngine()
    handed_over: list[int] = []
    engine._before = lambda: handed_over.append(len(pool.futures))
    works = [Work(str(root).encode(), refs(root, ["good"] * 4)) for _ in range(2)]
    screen_chunks(Pipeline(bundle.manifest, engine, pool, 4), works)
    assert handed_over[0] == 8, "captures of both chunks, at the first batch of the first"


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_what_stops_one_chunk_stops_no_other(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool], failing: int, depth: int
) -> None:
    def lost() -> None:
        raise LeaseLost("another worker owns the chunk now")

    kinds = ["good"] * 5 + ["text"]
    works = [Work(str(root).encode(), refs(root, kinds), lost if n == failing else lambda: None) for n in range(3)]
    results = screen_chunks(Pipeline(bundle.manifest, FakeEngine(depth=depth), pools(2), 2), works)
    for number, result in enumerate(results):
        if number == failing:
            assert isinstance(result, LeaseLost)
        else:
            assert isinstance(result, ChunkOutcome)
            assert_every_row_is_right(result, root, kinds)


def test_a_decoder_that_fails_in_the_middle_of_a_batch_fails_its_chunk_alone(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline_module.decode
    guilty = (root / "good/07.png").read_bytes()

    def decode(data: bytes, spec: Any) -> Any:
        if data == guilty:
            raise RuntimeError("a bug")
        return real(data, spec)

    monkeypatch.setattr(pipeline_module, "decode", decode)
    pipeline = Pipeline(bundle.manifest, FakeEngine(), pools(2), 4)
    kinds = [["good"] * 6, ["good"] * 10, ["good"] * 6]
    first, second, third = screen_chunks(pipeline, [Work(str(root).encode(), refs(root, some)) for some in kinds])
    assert isinstance(second, RuntimeError)
    for result in (first, third):
        assert isinstance(result, ChunkOutcome)
        assert_every_row_is_right(result, root, kinds[0])


class SmallDevice(FakeEngine):
    """Has memory for so many captures; says so when a batch begins, or only when it is fetched."""

    def __init__(self, room: int, *, late: bool) -> None:
        super().__init__(depth=2)
        self.room = room
        self.late = late

    def start(self, batch: NDArray[np.uint8]) -> Pending:
        if len(batch) <= self.room:
            return super().start(batch)
        error = DeviceMemoryFull("no room")
        if not self.late:
            raise error

        def fetch() -> Predictions:
            raise error

        return fetch


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_full_device_gets_smaller_batches_and_every_capture_is_screened(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool], room: int, late: bool
) -> None:
    engine = SmallDevice(room, late=late)
    pipeline = Pipeline(bundle.manifest, engine, pools(2), 16)
    kinds = ["good"] * CAPTURES
    assert_every_row_is_right(screen_chunk(pipeline, root, refs(root, kinds)), root, kinds)
    assert_every_row_is_right(screen_chunk(pipeline, root, refs(root, kinds)), root, kinds)
    assert 1 <= pipeline.batch_size <= max(room, 2 * room - 1)


@pytest.mark.parametrize("late", [False, True])
def test_a_device_without_room_for_one_capture_fails_the_chunk(screen: Screen, late: bool) -> None:
    with pytest.raises(EngineError, match="does not even hold one capture"):
        screen(["good"] * 4, engine=SmallDevice(0, late=late))


def test_memory_does_not_grow_with_the_number_of_captures(bundle: Bundle, root: Path) -> None:
    """The peak over 800 captures is a fraction of what their pixels take together."""
    waiting = [refs(root, ["good"] * 20) for _ in range(40)]
    pixels = 800 * 64 * 64 * 3
    with ThreadPoolExecutor(2) as pool:
        pipeline = Pipeline(bundle.manifest, FakeEngine(depth=2), pool, 4)
        tracemalloc.start()
        for _ in pipeline.run(lambda: Work(str(root).encode(), waiting.pop()) if waiting else None):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < pixels / 4


# Decoding runs ahead, and not too far


@pytest.mark.parametrize(("batch", "decoders"), [(1, 1), (2, 1), (2, 4), (5, 4)])
def test_decoding_runs_ahead_of_the_engine_by_a_bounded_number_of_captures(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool], batch: int, decoders: int
) -> None:
    pool = pools(decoders)
    ahead: list[int] = []
    engine = FakeEngine(before=lambda: ahead.append(len(pool.futures) - sum(engine.batches) - batch))
    screen_chunk(Pipeline(bundle.manifest, engine, pool, batch), root, refs(root, ["good"] * CAPTURES))
    assert max(ahead) <= LOOK_AHEAD_BATCHES * batch, "captures decoded or decoding while the engine works on a batch"
    assert ahead[0] >= batch, "the engine must find its next batch under way"


def test_the_decoders_work_while_the_engine_does(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = pipeline_module.decode

    def decode(*args: Any) -> Any:
        decoded.append(1)
        return real(*args)

    monkeypatch.setattr(pipeline_module, "decode", decode)
    engine = FakeEngine()
    engine._before = lambda: wait_until(
        lambda: len(decoded) >= min(CAPTURES, sum(engine.batches) + 2 * 4), 20, what="the next batch to be decoded"
    )
    screen(["good"] * CAPTURES, batch=4, decoders=2, engine=engine)
    assert len(decoded) == CAPTURES


# Stopping early


def test_the_check_comes_before_every_batch_and_stops_the_chunk(screen: Screen) -> None:
    engine = FakeEngine()
    calls = Counter[str]()

    def check() -> None:
        calls["check"] += 1
        assert calls["check"] == len(engine.batches) + 1
        if calls["check"] == 3:
            raise LeaseLost("another worker owns the chunk now")

    with pytest.raises(LeaseLost):
        screen(["good"] * CAPTURES, batch=2, engine=engine, check=check)
    assert engine.batches == [2, 2]


def test_captures_that_wait_for_a_decoder_are_given_up_when_the_chunk_stops(
    bundle: Bundle, root: Path, pools: Callable[[int], SpyPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real, begun = Event(), pipeline_module.decode, []

    def decode(*args: Any) -> Any:
        begun.append(1)
        if len(begun) > 2:
            assert go_on.wait(30)
        return real(*args)

    def check() -> None:
        raise LeaseLost("another worker owns the chunk now")

    monkeypatch.setattr(pipeline_module, "decode", decode)
    pool = pools(1)
    try:
        with pytest.raises(LeaseLost):
            screen_chunk(Pipeline(bundle.manifest, FakeEngine(), pool, 2), root, refs(root, ["good"] * CAPTURES), check)
        assert all(future.cancelled() for future in pool.futures[3:])
        assert len(pool.futures) > 4
    finally:
        go_on.set()
    pool.shutdown()
    assert len(begun) <= 3


def test_an_unexpected_error_in_a_decoder_is_raised_and_not_swallowed(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> object:
        raise RuntimeError("a bug")

    monkeypatch.setattr(pipeline_module, "decode", decode)
    with pytest.raises(RuntimeError, match="a bug"):
        screen(["good"] * 4)


# What is no capture's fault


def spoil(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> FakeEngine:
    class Spoilt(FakeEngine):
        def infer(self, batch: NDArray[np.uint8]) -> Predictions:
            predictions = super().infer(batch)
            return dataclasses.replace(predictions, probabilities=change(predictions.probabilities))

    return Spoilt()


def _with(value: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def change(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        probabilities[-1, 2] = value
        return probabilities

    return change


@pytest.mark.parametrize(
    "change",
    [_with(np.nan), _with(np.inf), lambda p: p[:-1], lambda p: p[:, :3], lambda p: p[0]],
    ids=["nan", "infinite", "a row too few", "a label too few", "one row"],
)
def test_an_engine_that_gives_no_probabilities_fails_the_chunk(
    screen: Screen, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    with pytest.raises(EngineError, match="fake"):
        screen(["good"] * 5, engine=spoil(change))


def test_an_error_of_the_engine_fails_the_chunk(screen: Screen) -> None:
    def fail() -> None:
        raise EngineError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        screen(["good"] * 5, engine=FakeEngine(before=fail))


def test_an_archive_that_is_away_is_no_captures_fault(bundle: Bundle, root: Path) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ArchiveUnavailable):
        screen_chunk(Pipeline(bundle.manifest, FakeEngine(), pool, 4), "/nowhere/archive", refs(root, ["good"] * 3))


def test_an_archive_that_goes_away_in_the_middle_rejects_no_capture(
    bundle: Bundle, root: Path, tmp_path: Path, pools: Callable[[int], SpyPool]
) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(root / "good", copy / "good")
    captures = refs(copy, ["good"] * CAPTURES)
    away = FakeEngine(before=lambda: copy.exists() and copy.rename(tmp_path / "unmounted"))
    with pytest.raises(ArchiveUnavailable):
        screen_chunk(Pipeline(bundle.manifest, away, pools(1), 2), copy, captures)


# The real engine


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions("openvino", "float32", tmp_path / "cache")


def test_the_real_engine_proves_itself_and_calls_every_capture_by_its_colour(
    bundle: Bundle, tmp_path: Path, options: EngineOptions
) -> None:
    archive = write_archive(tmp_path / "archive", {f"P-{label}": label for label in COLOURS}, 5)
    files = sorted(archive.rglob("*.jpg"))
    captures = [
        CaptureRef(n, str(f.relative_to(archive)).encode(), f.stat().st_size, f.stat().st_mtime_ns)
        for n, f in enumerate(files)
    ]
    engine, proof = open_engine(bundle, options)
    assert proof.golden.captures == len(LABELS)
    assert proof.golden.probability < 1e-3
    with ThreadPoolExecutor(2) as pool:
        outcome = screen_chunk(Pipeline(bundle.manifest, engine, pool, 7), archive, captures)
    assert outcome.rejected == []
    assert outcome.engine == "openvino/float32"
    for row, capture in zip(outcome.screened, captures, strict=True):
        assert f"P-{row.label}/" in capture.path.decode()
        data = read_capture(str(archive).encode(), capture.path, capture.size_bytes, capture.modified_ns).data
        wanted = expected(pipeline_module.decode(data, bundle.manifest.image).pixels)
        assert row.probabilities == pytest.approx(wanted, abs=1e-4)
        assert row.cam is not None
        assert np.frombuffer(row.cam, np.float16).size == 16


def test_the_precision_that_the_machine_chooses_is_within_the_bundles_tolerance(
    bundle: Bundle, options: EngineOptions
) -> None:
    engine, _ = open_engine(bundle, dataclasses.replace(options, precision="auto"))
    assert engine.precision in bundle.manifest.golden_tolerance
    assert prove(engine, bundle).golden.probability <= bundle.manifest.golden_tolerance[engine.precision]


@pytest.mark.parametrize("batch", [1, 2, 5, 32])
def test_a_capture_gets_the_same_answer_in_a_batch_of_any_size(
    bundle: Bundle, options: EngineOptions, batch: int
) -> None:
    rng = np.random.default_rng(batch)
    pixels = rng.integers(0, 256, (batch, 1, 1, 3), np.uint8) * np.ones((1, 64, 64, 1), np.uint8)
    answered = infer(open_engine(bundle, options)[0], pixels)
    assert answered.probabilities == pytest.approx(np.stack([expected(one) for one in pixels]), abs=1e-4)
    assert answered.cam is not None
    assert answered.cam.shape == (batch, 4, 4, 4)
    assert answered.embedding.shape == (batch, 3)


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the bundle that the test may change and write again, digests and all."""
    return dataclasses.replace(bundle, path=Path(shutil.copytree(bundle.path, tmp_path / "copy.bundle")))


Rows = list[list[float]]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[::-1],
        lambda rows: [rows[0], rows[1], rows[2], rows[2]],
        lambda rows: [[p * 0.99 for p in row] for row in rows],
        lambda rows: [[float("nan")] * 4, *rows[1:]],
        lambda rows: [row[:3] for row in rows],
        lambda rows: [rows[0][:3], *rows[1:]],
        lambda rows: [[row[0]] for row in rows],
    ],
    ids=["reversed", "another label", "one per cent less", "nan", "a label too few", "ragged", "one value each"],
)
def test_an_engine_that_does_not_reproduce_the_golden_captures_is_refused(
    copied: Bundle, options: EngineOptions, change: Callable[[Rows], Rows]
) -> None:
    file = copied.path / EXPECTED
    golden = GoldenSet.model_validate_json(file.read_bytes())
    rows = change([one.probabilities for one in golden.captures])
    made = [one.model_copy(update={"probabilities": row}) for one, row in zip(golden.captures, rows, strict=True)]
    text = GoldenSet(captures=made).model_dump_json(exclude_defaults=True).replace("null", "NaN")
    file.write_text(text)
    with pytest.raises((EngineError, BundleError)):
        open_engine(write_manifest(copied.path, copied.manifest), options)


def test_a_golden_capture_that_cannot_be_decoded_is_the_bundles_fault(copied: Bundle, options: EngineOptions) -> None:
    (copied.path / GOLDEN / "000.jpg").write_bytes(b"notes")
    with pytest.raises((EngineError, BundleError)):
        open_engine(write_manifest(copied.path, copied.manifest), options)


def test_a_model_that_is_none_is_refused(copied: Bundle, options: EngineOptions) -> None:
    (copied.path / MODEL).write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"model\.onnx is refused: it is no ONNX model"):
        write_manifest(copied.path, copied.manifest)
    broken = dataclasses.replace(copied, contents={**copied.contents, MODEL: b"no graph"})
    with pytest.raises(EngineError, match="OpenVINO cannot compile"):
        open_engine(broken, options)


@pytest.mark.parametrize("tensor", ["input", "probabilities", "cam", "embedding"])
def test_a_graph_without_a_tensor_that_the_bundle_names_is_refused(
    copied: Bundle, options: EngineOptions, tensor: str
) -> None:
    manifest = copied.manifest.model_copy(update={"outputs": Outputs(**{tensor: "no_such_tensor"})})
    with pytest.raises(EngineError):
        open_engine(write_manifest(copied.path, manifest), options)
