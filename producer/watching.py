"""Following a run: shows progress on stderr until the last case has its result."""

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from contract.errors import DatabaseUnavailable, ExitCode
from db.plausibility import implausibility
from db.progress import Progress as RunProgress
from db.progress import progress
from db.run_report import may_lack_captures
from producer.alarm import say_alarm
from producer.output import say, stderr

POLL_S = 0.5


def watch_run(database: Engine, run_id: int) -> ExitCode:
    """Follow a run to its end; then say whether its results are plausible, and how its captures ended.

    Returns SOME_ENDED_BADLY where captures were rejected or quarantined, patients have no captures, the run was
    cancelled, or most captures of most patients do not count. Raises NoSuchRun.
    """
    last = follow_run(database, run_id)
    implausible = implausibility(database, run_id)
    say_alarm(implausible)
    say("\n".join(last.accounts))
    if last.patients_without_captures:
        say(
            f"{last.patients_without_captures} patients have no captures: `screen report {run_id}` says why",
            "bold yellow",
        )
    bad = last.some_ended_badly or last.cancelled or implausible or may_lack_captures(database, run_id)
    return ExitCode.SOME_ENDED_BADLY if bad else ExitCode.OK


def follow_run(database: Engine, run_id: int, alive: Callable[[], None] = lambda: None) -> RunProgress:
    """Show progress, rate and time left until the run is finished; after Ctrl-C the run continues.

    `alive` is called before each query and may raise. Returns the progress at the end of the run. Raises NoSuchRun.
    """
    now = progress(database, run_id)
    columns = (
        SpinnerColumn(), TextColumn("run {task.fields[run]}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("captures"), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task("", total=now.submitted, run=run_id, note="", completed=now.ended)
        last_trouble: str | None = None
        while not (now.finished or now.cancelled):
            alive()
            time.sleep(POLL_S)
            now = _look(database, run_id, now)
            if now.trouble and now.trouble != last_trouble:
                last_trouble = now.trouble
                say(f"a worker gave a chunk back, and it is tried again: {last_trouble}", "yellow")
            bar.update(task, completed=now.ended, note=_note(now))
        bar.update(task, completed=now.ended, note=_note(now))
    return now


def _look(database: Engine, run_id: int, last: RunProgress) -> RunProgress:
    try:
        return progress(database, run_id)
    except DatabaseUnavailable as error:  # perhaps a restart of the server; the run does not need us
        say(f"{error}; still watching", "yellow")
        return last


def _note(now: RunProgress) -> str:
    parts = [f"{now.cases_finished}/{now.cases} patients"]
    if now.rejected or now.quarantined:
        parts.append(f"[yellow]{now.rejected} rejected, {now.quarantined} quarantined[/]")
    if now.recent_per_s:
        parts.append(f"{now.recent_per_s:.0f}/s")
        seconds = (now.submitted - now.ended) / now.recent_per_s
        if seconds:
            parts.append(f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left")
    elif not now.finished and not now.chunks_leased:
        parts.append("waiting for a worker")
    return ", ".join(parts)
