"""Progress of a training run on stderr: a bar on a terminal, otherwise a line each minute."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from contract.printable import printable
from contract.terminal import terminal

EVERY_SECONDS = 60.0
_quiet = ContextVar("quiet", default=False)


class Bar:
    """Progress over a known amount of work, in any unit, with the time left."""

    def __init__(self, progress: Progress, what: str, total: float, interactive: bool) -> None:
        self._progress, self._label, self._total, self._interactive = progress, what, total, interactive
        self._task = progress.add_task(what, total=total)
        self._done = 0.0
        self._start = self._last_line = time.monotonic()

    def advance(self, amount: float, note: str = "") -> None:
        """Add `amount` to the work done; `note` stands beside the bar."""
        self._done += amount
        self._progress.update(self._task, advance=amount, description=escape(f"{self._label} {note}".strip()))
        now = time.monotonic()
        if not self._interactive and now - self._last_line >= EVERY_SECONDS and self._done:
            self._last_line = now
            left = (now - self._start) / self._done * (self._total - self._done)
            say(f"{self._label}: {self._done / self._total:.0%}, {left / 60:.0f} min left {note}".rstrip())


@contextmanager
def bar(what: str, total: float) -> Iterator[Bar]:
    """A progress bar during the block."""
    console = terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    hidden = _quiet.get() or not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as progress:
        yield Bar(progress, what, total, console.is_terminal)


def say(line: str) -> None:
    """Print one plain line on stderr and flush it, so that a user can follow a log file."""
    if not _quiet.get():
        print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Show no bar and no line during the block: for a trial, whose epochs interest no user."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)
