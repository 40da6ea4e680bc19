"""Following a run: progress on stderr until its last case has its result."""

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from contract.errors import DatabaseUnavailable, ExitCode
from db.plausibility import implausibility
from db.progress import Progress as RunProgress
from db.progress import progress
from producer.alarm import say_alarm
from producer.output import say, stderr

POLL_S = 0.5


def watch_run(database: Engine, run_id: int) -> ExitCode:
    """Follow a run to its end; then say whether it can be believed, and how its captures ended.

    Returns SOME_ENDED_BADLY where captures were rejected or quarantined, the run was cancelled, or most captures of
    most patients do not count. Raises NoSuchRun.
    """
    now = follow_run(database, run_id)
    implausible = implausibility(database, run_id)
    say_alarm(implausible)
    say(now.accounting)
    bad = now.rejected or now.quarantined or now.cancelled or implausible
    return ExitCode.SOME_ENDED_BADLY if bad else ExitCode.OK


def follow_run(database: Engine, run_id: int, alive: Callable[[], None] = lambda: None) -> RunProgress:
    """Show progress, rate and time left until the run is finished; Ctrl-C leaves the run going.

    `alive` is called on every look and may raise. Returns how the run stands at its end. Raises NoSuchRun.
    """
    now = progress(database, run_id)
    columns = (
        SpinnerColumn(), TextColumn("run {task.fields[run]}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("captures"), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task("", total=now.submitted, run=run_id, note="", completed=now.ended)
        told: str | None = None
        while not (now.finished or now.cancelled):
            alive()
            time.sleep(POLL_S)
            now = _look(database, run_id, now)
            if now.trouble and now.trouble != told:
                told = now.trouble
                say(f"a worker gave a chunk back, and it is tried again: {told}", "yellow")
            bar.update(task, completed=now.ended, note=_note(now))
        bar.update(task, completed=now.ended, note=_note(now))
    return now


def _look(database: Engine, run_id: int, last: RunProgress) -> RunProgress:
    try:
        return progress(database, run_id)
    except DatabaseUnavailable as error:  # a restart of the server; the run does not depend on who watches
        say(f"{error}; still watching", "yellow")
        return last


def _note(now: RunProgress) -> str:
    parts = [f"{now.cases_finished}/{now.cases} patients"]
    if now.rejected or now.quarantined:
        parts.append(f"[yellow]{now.rejected} rejected, {now.quarantined} quarantined[/]")
    if now.recent_per_s:
        parts.append(f"{now.recent_per_s:.0f}/s")
        left = (now.submitted - now.ended) / now.recent_per_s
        if left:
            parts.append(f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left")
    elif not now.finished and not now.chunks_leased:
        parts.append("waiting for a worker")
    return ", ".join(parts)
