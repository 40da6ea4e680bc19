"""Following a run: shows progress on stderr until the last case has its result."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from sqlalchemy import Engine

from contract.errors import DatabaseUnavailable, ExitCode
from contract.settings import get_settings
from contract.words import local_clock
from db.plausibility import implausibility
from db.progress import Progress as RunProgress
from db.progress import progress
from db.run_report import may_lack_captures
from producer.alarm import say_alarm
from producer.output import say, stderr
from producer.patience import Outage

POLL_S = 0.5
LINE_S = 60.0


def watch_run(database: Engine, run_id: int) -> ExitCode:
    """Follow a run to its end; then say whether its results are plausible, and how its captures ended.

    Returns SOME_ENDED_BADLY where captures were rejected, quarantined or held, patients have no captures, the run was
    cancelled, or most captures of most patients do not count. Raises NoSuchRun.
    """
    last = follow_run(database, run_id, Outage(get_settings().patience_seconds))
    implausible = implausibility(database, run_id)
    say_alarm(implausible)
    for account in last.accounts:
        say(account)
    if held := last.held_sentence(run_id):
        say(held, "bold yellow")
    if last.patients_without_captures:
        say(
            f"{last.patients_without_captures} patients have no captures: `screen report {run_id}` says why",
            "bold yellow",
        )
    bad = last.some_ended_badly or last.cancelled or last.held or implausible or may_lack_captures(database, run_id)
    return ExitCode.SOME_ENDED_BADLY if bad else ExitCode.OK


def follow_run(
    database: Engine, run_id: int, outage: Outage, look: Callable[[RunProgress], None] = lambda _now: None
) -> RunProgress:
    """Show progress, rate and time left until the run is finished, or nothing but held chunks is left of it; after
    Ctrl-C the run continues. It is a bar on a terminal, otherwise a line each minute.

    `look` is called with each new progress and may raise. Returns the progress at the end of the run. Raises NoSuchRun,
    and DatabaseUnavailable after an outage that is too long.
    """
    now = progress(database, run_id)
    with _bar(run_id, now) if stderr.is_terminal else _lines(run_id) as show:
        show(now)
        last_trouble: str | None = None
        while not now.ended_or_held:
            time.sleep(POLL_S)
            try:
                now = progress(database, run_id)
                look(now)
                outage.over()
            except DatabaseUnavailable as error:
                if outage.met(error):
                    say(f"{error}; still watching", "yellow")
            if now.trouble and now.trouble != last_trouble:
                last_trouble = now.trouble
                again = "" if now.hopeless else ", and it is tried again"
                say(f"a worker gave a chunk back{again}: {last_trouble}", "yellow")
            show(now)
    return now


_Show = Callable[[RunProgress], None]


@contextmanager
def _bar(run_id: int, first: RunProgress) -> Iterator[_Show]:
    """A bar that moves, for a terminal."""
    columns = (
        SpinnerColumn(), TextColumn("run {task.fields[run]}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("captures"), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task("", total=first.submitted, run=run_id, note="")
        yield lambda now: bar.update(task, completed=now.ended, note=_note(now))


@contextmanager
def _lines(run_id: int, clock: Callable[[], float] = time.monotonic) -> Iterator[_Show]:
    """A line at the beginning and then each LINE_S, for a file or a mail from cron."""
    last: float | None = None

    def show(now: RunProgress) -> None:
        nonlocal last
        if last is None or clock() - last >= LINE_S:
            last = clock()
            note = Text.from_markup(_note(now)).plain
            say(f"{local_clock(datetime.now(UTC))} run {run_id}: {now.ended} of {now.submitted} captures, {note}")

    yield show


def _note(now: RunProgress) -> str:
    parts = [f"{now.cases_finished}/{now.cases} patients"]
    if now.rejected or now.quarantined:
        parts.append(f"[yellow]{now.rejected} rejected, {now.quarantined} quarantined[/]")
    if now.held:
        parts.append(f"[yellow]{now.held} held[/]")
    if now.recent_per_s:
        parts.append(f"{now.recent_per_s:.0f}/s")
        seconds = (now.submitted - now.ended) / now.recent_per_s
        if seconds:
            parts.append(f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left")
    elif not now.finished and not now.chunks_leased:
        parts.append("waiting for a worker")
    return ", ".join(parts)
