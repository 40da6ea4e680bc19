"""Limits of memory and time for what a bundle's network may cost while its engine is opened.

A network is a program of somebody else, and native code runs it: it may take all memory, never end, or crash. A worker
opens it in its child; a command opens it in a child of its own, and says how that ended.
"""

import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from contract.errors import BundleError, EngineError
from contract.settings import Settings

Result = TypeVar("Result")
Opened = Callable[[], None]
"""Says that the engines are open, so that no time limit holds from now on."""


def limit_memory(mebibytes: int) -> None:
    """Limit the memory of this process, as far as it may have it."""
    ceiling = mebibytes * 2**20
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard), hard))


def in_child(work: Callable[[Opened], Result], settings: Settings, *, seconds: float | None) -> Result:
    """Do `work` in a child of this process, with SCREEN_MEMORY_MIB, and at most `seconds` until it says `Opened`.

    Raises what `work` raises, and BundleError where the child ends without an answer or takes too long.
    """
    fork = multiprocessing.get_context("fork")
    receives, sends = fork.Pipe(duplex=False)
    child = fork.Process(target=_run, args=(work, settings.memory_mib, sends), daemon=True)
    child.start()
    sends.close()
    try:
        if not receives.poll(seconds):
            raise BundleError(
                f"the bundle's engine is not open after SCREEN_OPEN_SECONDS={settings.open_seconds}; export the bundle "
                "again, or allow more if its network is that large"
            )
        kind, value = receives.recv()
        if kind == "opened":
            kind, value = receives.recv()
    except EOFError:
        child.join()
        raise BundleError(
            f"the bundle's engine ended its process ({_how(child.exitcode)}) instead of answering; export the bundle "
            f"again, or allow more than SCREEN_MEMORY_MIB={settings.memory_mib} if its network is that large"
        ) from None
    finally:
        child.kill()
        child.join()
    if kind == "raised":
        raise value
    return value  # type: ignore[no-any-return]


def _run(work: Callable[[Opened], Any], memory_mib: int, sends: Connection) -> None:
    limit_memory(memory_mib)
    try:
        answer = "done", work(lambda: sends.send(("opened", None)))
    except MemoryError:
        answer = (
            "raised",
            BundleError(f"opening the bundle's engine takes more memory than SCREEN_MEMORY_MIB={memory_mib} allows"),
        )
    except BaseException as error:
        answer = "raised", error
    try:
        sends.send(answer)
    except Exception:  # an error that cannot be sent, with something of a library inside
        sends.send(("raised", EngineError(f"{type(answer[1]).__name__}: {answer[1]}")))


def _how(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    return str(signal.strsignal(-exit_code))
