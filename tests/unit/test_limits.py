"""Work in a child of a command: its answer, its error, or a sentence on how the child ended."""

import os
import signal
import time

import pytest

from contract.errors import BundleError, EngineError
from contract.settings import Settings
from worker.limits import in_child

SETTINGS = Settings(memory_mib=512, open_seconds=1)


def test_an_answer_comes_back_and_an_error_is_raised_here() -> None:
    assert in_child(lambda _: {"figures": [1.5, os.getpid()]}, SETTINGS, seconds=60)["figures"][1] != os.getpid()

    def refuse(_: object) -> None:
        raise EngineError("it does not reproduce the bundle")

    with pytest.raises(EngineError, match=r"^it does not reproduce the bundle$"):
        in_child(refuse, SETTINGS, seconds=60)


@pytest.mark.timeout(60)
def test_what_never_ends_is_ended_and_after_it_is_open_it_may_take_its_time() -> None:
    with pytest.raises(BundleError, match="not open after SCREEN_OPEN_SECONDS=1"):
        in_child(lambda _: time.sleep(3600), SETTINGS, seconds=1)
    done = in_child(lambda is_open: (is_open(), time.sleep(2), "done")[2], SETTINGS, seconds=1)  # type: ignore[func-returns-value]
    assert done == "done"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_told(number: signal.Signals) -> None:
    with pytest.raises(BundleError, match=f"{signal.strsignal(number)}.*instead of answering"):
        in_child(lambda _: os.kill(os.getpid(), number), SETTINGS, seconds=60)


def test_more_memory_than_allowed_is_told() -> None:
    with pytest.raises(BundleError, match="SCREEN_MEMORY_MIB=512"):
        in_child(lambda _: len(bytearray(2**31)), SETTINGS, seconds=60)
