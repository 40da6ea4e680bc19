"""Close calls are the exact engine's, all others the fast one's."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.predictions import Predictions
from worker.engines.base import Pending
from worker.engines.close_calls import CloseCalls, Doubt

MARGIN = 0.1
DOUBT = Doubt(MARGIN)


@dataclass
class Scripted:
    """Answers with the probabilities that a capture's first pixels name in hundredths; its outputs carry its mark."""

    precision: str
    mark: float
    depth: int = 2
    with_cam: bool = True
    asked: list[int] = field(default_factory=list)
    flying: int = 0
    closed: bool = False
    name: str = "scripted"
    device: str = "none"
    shares_cores: bool = True
    max_batch: int | None = None

    def start(self, batch: RGBImage) -> Pending:
        self.flying += 1
        assert self.flying <= self.depth
        self.asked.append(len(batch))
        probabilities = batch[:, 0, :, 0].astype(np.float32) / 100
        number = batch[:, 0, :1, 1].astype(np.float32)
        cam = number[:, None, None] + np.full((len(batch), batch.shape[2], 2, 2), self.mark, np.float32)

        def fetch() -> Predictions:
            self.flying -= 1
            return Predictions(probabilities, cam if self.with_cam else None, number + self.mark)

        return fetch

    def close(self) -> None:
        self.closed = True


def captures(probabilities: list[tuple[int, int, int]]) -> RGBImage:
    """One capture each: its probabilities in hundredths and its number, in pixels."""
    pixels = np.zeros((len(probabilities), 3, 3, 3), np.uint8)
    pixels[:, 0, :, 0] = probabilities
    pixels[:, 0, :, 1] = np.arange(len(probabilities))[:, None]
    return pixels


@given(st.lists(st.tuples(*[st.integers(0, 100)] * 3), min_size=1, max_size=20), st.integers(1, 3), st.booleans())
def test_each_capture_has_its_own_answer_from_the_engine_that_must_give_it(
    probabilities: list[tuple[int, int, int]], depth: int, with_cam: bool
) -> None:
    fast = Scripted("bfloat16", 0.25, with_cam=with_cam)
    exact = Scripted("float32", 0.5, depth=depth, with_cam=with_cam)
    found = CloseCalls(fast, exact, DOUBT).start(captures(probabilities))()
    check(probabilities, lambda: found)
    marks = found.embedding[:, 0].tolist()
    assert (found.cam is not None) == with_cam
    if found.cam is not None:
        assert found.cam.reshape(len(marks), -1).tolist() == [[mark] * 12 for mark in marks]


@given(
    st.lists(st.lists(st.tuples(*[st.integers(0, 100)] * 3), min_size=1, max_size=5), max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_batches_under_way_at_once_keep_their_answers(
    batches: list[list[tuple[int, int, int]]], fast_depth: int, exact_depth: int
) -> None:
    both = CloseCalls(Scripted("bfloat16", 0.25, fast_depth), Scripted("float32", 0.5, exact_depth), DOUBT)
    flying: deque[tuple[list[tuple[int, int, int]], Pending]] = deque()
    for probabilities in batches:
        if len(flying) == both.depth:
            check(*flying.popleft())
        flying.append((probabilities, both.start(captures(probabilities))))
    for probabilities, pending in flying:
        check(probabilities, pending)


def test_a_batch_that_failed_says_so_itself_and_no_other_does() -> None:
    class Failing(Scripted):
        def start(self, batch: RGBImage) -> Pending:
            pending, fails = super().start(batch), batch[0, 0, 0, 0] == 1

            def fetch() -> Predictions:
                found = pending()
                if fails:
                    raise EngineError("out of order")
                return found

            return fetch

    both = CloseCalls(Failing("bfloat16", 0.25, depth=1), Scripted("float32", 0.5), DOUBT)
    bad, good = [(1, 0, 99)], [(50, 50, 0)]
    failed, fine = both.start(captures(bad)), both.start(captures(good))
    with pytest.raises(EngineError, match="out of order"):
        failed()
    check(good, fine)


def check(probabilities: list[tuple[int, int, int]], pending: Pending) -> None:
    """Each capture has its own answer, from the engine that must give it."""
    found = pending()
    assert found.embedding[:, 0].tolist() == [
        number + (0.5 if close(row) else 0.25) for number, row in enumerate(probabilities)
    ]
    assert found.probabilities.tolist() == (np.float32(probabilities) / np.float32(100)).tolist()


def close(row: tuple[int, int, int]) -> bool:
    _, second, first = sorted(np.float32(row) / np.float32(100))
    return bool(first - second < MARGIN)


def test_no_close_call_costs_nothing() -> None:
    fast, exact = Scripted("bfloat16", 0.0), Scripted("float32", 0.0)
    CloseCalls(fast, exact, DOUBT).start(captures([(90, 5, 5), (5, 15, 80)]))()
    assert (fast.asked, exact.asked) == ([2], [])


def test_it_presents_the_fast_engine_with_room_for_one_batch_more_and_closes_both() -> None:
    fast, exact = Scripted("bfloat16", 0.0, depth=3), Scripted("float32", 0.0)
    both = CloseCalls(fast, exact, DOUBT)
    assert (both.name, both.precision, both.depth) == ("scripted", "bfloat16", 4)
    both.close()
    assert fast.closed
    assert exact.closed


def test_what_is_not_a_number_is_left_for_the_pipeline_to_refuse() -> None:
    class Broken(Scripted):
        def start(self, batch: RGBImage) -> Pending:
            pending = super().start(batch)

            def fetch() -> Predictions:
                found = pending()
                found.probabilities[0] = np.nan
                return found

            return fetch

    found = CloseCalls(Broken("bfloat16", 0.0), Scripted("float32", 0.0), DOUBT).start(captures([(90, 5, 5)]))()
    assert np.isnan(found.probabilities).all()
