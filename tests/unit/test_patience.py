"""How long `screen run` waits: never for ever, and never too short for what may still get better."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from contract.errors import BrokerUnavailable, DatabaseUnavailable, ScreeningError, Unavailable, UsageError
from contract.messages import GRACE_S
from contract.settings import Settings
from db.chunks import HOPELESS
from db.progress import Progress, Undone
from producer import patience as module
from producer.patience import HOPELESS_S, STARTING_S, Outage, Patience
from producer.services import Child, ServiceEnded

SETTINGS = Settings(patience_seconds=100, chunk_seconds=50)
STEP_S = 5


def progress(ended: int = 0, trouble: str | None = None) -> Progress:
    return Progress(
        submitted=10, screened=ended, rejected=0, quarantined=0, cases=2, cases_finished=0, cases_with_captures=2,
        patients=2, patients_unchanged=0, patients_without_captures=0, chunks_leased=0, recent_per_s=0.0,
        cancelled=False, trouble=trouble,
    )  # fmt: skip


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., float | tuple[float, ScreeningError]]:
    """Lets looks at a run follow one another; returns when and with what error it ended, or how long it went on."""
    (tmp_path / "log").write_text("the last line of the worker")
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def follow(
        looks: Iterable[tuple[Progress, Undone]], patience_s: float = SETTINGS.patience_seconds
    ) -> float | tuple[float, ScreeningError]:
        clock = [0.0]
        worker = Child("the worker", living, tmp_path / "log")
        settings = Settings(patience_seconds=patience_s, chunk_seconds=SETTINGS.chunk_seconds)
        patience = Patience(None, "redis://", worker, [worker], settings, clock=lambda: clock[0])  # type: ignore[arg-type]
        for now, left in looks:
            clock[0] += STEP_S
            monkeypatch.setattr(module, "undone", lambda _database, left=left: left)
            try:
                patience(now)
            except ScreeningError as error:
                return clock[0], error
        return clock[0]

    yield follow
    living.communicate(b"\n")


def still(trouble: str | None = None, *, leased: int = 0) -> Iterable[tuple[Progress, Undone]]:
    return itertools.repeat((progress(trouble=trouble), Undone(chunks=3, attempts=leased, leased=leased)))


def given_back_again_and_again(trouble: str) -> Iterable[tuple[Progress, Undone]]:
    """Claimed at one look, given back uncounted at the next."""
    return itertools.cycle([(progress(), Undone(3, 1, 1)), (progress(trouble=trouble), Undone(3, 0, 0))])


def ended(result: Any) -> tuple[float, ScreeningError]:
    assert isinstance(result, tuple), f"it waited {result} s and did not end"
    return result


def test_while_captures_end_it_waits_as_long_as_it_takes(followed: Callable[..., Any]) -> None:
    looks = [(progress(ended=number // 15), Undone(3, 0, 0)) for number in range(1000)]
    assert followed(looks) == 1000 * STEP_S


def test_while_any_worker_gets_on_with_any_run_it_waits(followed: Callable[..., Any]) -> None:
    """The worker may be busy with runs before this one, or may try each capture of a chunk alone."""
    others = [(progress(), Undone(1000 - number // 15, 0, 1)) for number in range(1000)]
    assert followed(others) == 1000 * STEP_S
    attempts = [(progress(), Undone(3, number // 15, 0)) for number in range(1000)]
    assert followed(attempts) == 1000 * STEP_S


def test_where_nobody_takes_a_chunk_it_ends_with_what_redis_says(
    followed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str, *, must_answer: bool) -> None:
        raise BrokerUnavailable("Redis is out of reach (refused)")

    monkeypatch.setattr(module, "check_redis", away)
    seconds, error = ended(followed(still()))
    assert 100 < seconds <= 100 + 3 * STEP_S
    assert isinstance(error, Unavailable)
    assert "Redis is out of reach (refused)" in str(error)
    assert "the same command continues" in str(error)


def test_where_redis_answers_it_ends_with_what_the_worker_said_last(
    followed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_redis", lambda _, must_answer: None)
    _, error = ended(followed(still()))
    assert "the last line of the worker" in str(error)


def test_a_worker_has_time_to_start_however_impatient_the_settings_are(
    followed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_redis", lambda _, must_answer: None)
    seconds, error = ended(followed(still(), patience_s=1))
    assert STARTING_S < seconds <= STARTING_S + 3 * STEP_S
    assert isinstance(error, Unavailable)
    seconds, _ = ended(followed(still("mount it again"), patience_s=1))
    assert seconds <= 3 * STEP_S


def test_what_only_a_person_can_mend_is_that_however_impatient_the_settings_are(followed: Callable[..., Any]) -> None:
    seconds, error = ended(followed(still(f"no such engine{HOPELESS}"), patience_s=1))
    assert seconds <= 3 * STEP_S
    assert isinstance(error, UsageError)


def test_an_outage_that_makes_chunks_go_back_is_waited_for_and_then_named(followed: Callable[..., Any]) -> None:
    seconds, error = ended(followed(given_back_again_and_again("mount it again")))
    assert 100 < seconds <= 100 + 4 * STEP_S
    assert isinstance(error, Unavailable)
    assert "mount it again" in str(error)


def test_what_only_a_person_can_mend_ends_it_after_some_tries(followed: Callable[..., Any]) -> None:
    seconds, error = ended(followed(given_back_again_and_again(f"no such engine{HOPELESS}")))
    assert HOPELESS_S <= seconds <= HOPELESS_S + 4 * STEP_S
    assert isinstance(error, UsageError)
    assert "no such engine" in str(error)


def test_a_second_try_that_succeeds_makes_the_first_forgotten(followed: Callable[..., Any]) -> None:
    hopeless = f"the device's memory is full{HOPELESS}"
    looks = [
        *[(progress(trouble=hopeless), Undone(3, 0, 0))] * 3,
        *[(progress(), Undone(3, 1, 1))] * 10,
        *[(progress(ended=4, trouble=hopeless), Undone(2, 0, 0))] * 3,
    ]
    assert followed(looks) == len(looks) * STEP_S


def test_a_chunk_in_hand_has_its_own_time_limit_besides(followed: Callable[..., Any]) -> None:
    seconds, _ = ended(followed(still("slow", leased=1)))
    assert seconds > SETTINGS.patience_seconds + SETTINGS.chunk_seconds + GRACE_S


def test_a_child_that_has_ended_ends_it_at_once_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("out of memory")
    dead = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    dead.wait()
    child = Child("the bundled Redis", dead, tmp_path / "log")
    patience = Patience(None, "redis://", child, [child], SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ServiceEnded, match=r"the bundled Redis ended \(exit 5\)") as raised:
        patience(progress())
    assert "out of memory" in str(raised.value)


def test_a_database_that_is_away_is_said_once_and_waited_for_with_a_bound() -> None:
    clock = [0.0]
    outage = Outage(60, clock=lambda: clock[0])
    error = DatabaseUnavailable("the database cannot be used")
    assert outage.met(error)
    clock[0] = 59
    assert not outage.met(error)
    outage.over()
    clock[0] = 100
    assert outage.met(error), "a new outage"
    clock[0] = 161
    with pytest.raises(DatabaseUnavailable, match="away for 60 s"):
        outage.met(error)
