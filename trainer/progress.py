"""What a training run says while it works, on stderr: a bar on a terminal, a line a minute elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY_SECONDS = 60.0
_quiet = ContextVar("quiet", default=False)


class Bar:
    """Progress over a known amount of work, in any unit, with the time left."""

    def __init__(self, progress: Progress, what: str, total: float, interactive: bool) -> None:
        self._progress, self._what, self._total, self._interactive = progress, what, total, interactive
        self._task = progress.add_task(what, total=total)
        self._done = 0.0
        self._start = self._said = time.monotonic()

    def advance(self, amount: float, note: str = "") -> None:
        """So much more is done; `note` stands beside the bar."""
        self._done += amount
        self._progress.update(self._task, advance=amount, description=f"{self._what} {note}".strip())
        now = time.monotonic()
        if not self._interactive and now - self._said >= EVERY_SECONDS and self._done:
            self._said = now
            left = (now - self._start) / self._done * (self._total - self._done)
            say(f"{self._what}: {self._done / self._total:.0%}, {left / 60:.0f} min left {note}".rstrip())


@contextmanager
def bar(what: str, total: float) -> Iterator[Bar]:
    """A progress bar for the time of the block."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    hidden = _quiet.get() or not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as progress:
        yield Bar(progress, what, total, console.is_terminal)


def say(line: str) -> None:
    """One plain line on stderr, at once, so that a log file can be followed."""
    if not _quiet.get():
        print(line, file=sys.stderr, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """No bar and no line for the time of the block: for a trial, whose epochs are nobody's."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)
