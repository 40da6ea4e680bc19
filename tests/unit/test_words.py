"""The words for people: every verdict says what to do, and a time says which clock it is by."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from contract.case_policy import CasePolicy
from contract.states import Verdict
from contract.words import (
    MARKS_EXPLAINED,
    VERDICT_WORDS,
    WHAT_TO_DO,
    cells_words,
    explained_marks,
    local_clock,
    local_time,
)

NOVEMBER, JULY = datetime(2026, 11, 26, 8, 5, tzinfo=UTC), datetime(2026, 7, 1, 22, 30, tzinfo=UTC)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_every_verdict_has_its_words_and_says_what_to_do() -> None:
    assert set(WHAT_TO_DO) == set(VERDICT_WORDS) == set(Verdict)
    assert "new captures" in WHAT_TO_DO[Verdict.INSUFFICIENT].lower()
    assert "new smear" in WHAT_TO_DO[Verdict.INSUFFICIENT]


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("when", "shown", "clock"),
    [(NOVEMBER, "2026-11-26 09:05 CET", "09:05 CET"), (JULY, "2026-07-02 00:30 CEST", "00:30 CEST")],
)
def test_a_time_is_that_of_this_machine_with_its_zone(when: datetime, shown: str, clock: str) -> None:
    assert (local_time(when), local_clock(when)) == (shown, clock)


def test_every_mark_for_which_captures_do_not_count_is_explained() -> None:
    assert set(MARKS_EXPLAINED) == set(CasePolicy(benign_at_most=0.4, all_at_least=0.6).exclude)


def test_the_marks_that_sentences_name_are_explained_once_each() -> None:
    said = ["4 of 12 captures do not count: 3 novel, 1 out of focus", "2 novel", "a novelty of 0.2"]
    assert [mark for mark, _ in explained_marks(said)] == ["novel", "out of focus"]
    assert explained_marks(["score 0.98, ALL from 0.53", "a novelty of 0.2"]) == []


@pytest.mark.parametrize(
    ("cells", "captures", "at_least", "words"),
    [
        (412, 60, False, "412 nucleated cells in 60 captures"), (1, 1, False, "1 nucleated cell in 1 capture"),
        (412, 60, True, "at least 412 nucleated cells in 60 captures"),
        (0, 3, False, "0 nucleated cells in 3 captures"),
        (0, 3, True, "at least 0 nucleated cells in 3 captures"), (None, 0, False, "0 nucleated cells in 0 captures"),
        (None, 60, True, "nucleated cells not known"), (None, None, None, "nucleated cells not known"),
    ],
)  # fmt: skip
def test_the_number_of_cells_is_never_better_than_what_is_known(
    cells: int | None, captures: int | None, at_least: bool | None, words: str
) -> None:
    assert cells_words(cells, captures, at_least=at_least) == words
