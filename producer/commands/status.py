"""`screen status`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click
from rich.text import Text
from sqlalchemy import Engine

from contract.errors import ExitCode
from contract.settings import get_settings
from contract.states import Verdict
from contract.words import local_time
from db.drift import drift_warning
from db.progress import Progress, RunSummary, progress, run_summaries, this_run
from db.run_report import read_run
from db.schema import open_database
from db.write_lock import write_lock_sentence
from producer.alarm import print_alarm, say_alarm
from producer.output import CSV, RunNumber, csv_out, json_out, output_options, plain, say, shown_verdict, stdout, table

COLUMNS = (
    "run_id", "archive", "bundle_name", "bundle_digest", "software_version", "created_at", "finished_at",
    "cancelled_at", "submitted", "screened", "rejected", "quarantined", "pending", "reused", "skipped", "cases",
    "cases_finished", "cases_all", "cases_indeterminate", "cases_insufficient", "cases_benign", "patients",
    "patients_unchanged", "patients_without_captures", "patient_depth", "captures_per_s", "trouble", "site", "held",
)  # fmt: skip


@click.command()
@click.argument("run", type=RunNumber(), required=False)
@output_options
def status(run: int | None, output: str) -> ExitCode:
    """List the runs, newest first, or only RUN, a number or `latest`: how its captures ended, and how fast it is.

    It first says where another program keeps SQLite's write lock. With RUN it also says first if most captures of most
    patients do not count, and at the end if its captures have drifted away from those that the bundle knows.
    """
    database = open_database(get_settings().database_url)
    if sentence := write_lock_sentence(database):
        say(sentence, "yellow")
    if run is None:
        return _list(database, output)
    run = this_run(database, run)
    report = read_run(database, run)
    row = _listed(report.run, report.progress)
    if output == "json":
        implausible = report.implausible and report.implausible.record()
        json_out([{"implausible": implausible, **asdict(row), "drift": [asdict(drift) for drift in report.drift]}])
    elif output in CSV:
        say_alarm(report.implausible)
        csv_out([asdict(row)], COLUMNS, output)
    else:
        print_alarm(report.implausible)
        _print([row])
        if warning := drift_warning(report.drift):
            stdout.print(plain(f"run {run}: {warning}"), style="yellow")
    return ExitCode.OK


def _list(database: Engine, output: str) -> ExitCode:
    rows = [
        _listed(summary, progress(database, summary.run_id) if _is_going(summary) else None)
        for summary in run_summaries(database)
    ]
    if output == "json":
        json_out([asdict(row) for row in rows])
    elif output in CSV:
        csv_out([asdict(row) for row in rows], COLUMNS, output)
    elif rows:
        _print(rows)
    else:
        stdout.print("no runs yet; `screen submit ARCHIVE` makes one")
    return ExitCode.OK


def _is_going(run: RunSummary) -> bool:
    return run.finished_at is None and run.cancelled_at is None


@dataclass(frozen=True)
class ListedRun(RunSummary):
    """A run, with its rate, its trouble and its held captures while it is being screened."""

    captures_per_s: float | None
    trouble: str | None
    held: int | None


def _listed(run: RunSummary, now: Progress | None) -> ListedRun:
    current = now if _is_going(run) else None
    return ListedRun(
        **asdict(run),
        captures_per_s=round(current.recent_per_s, 1) if current else None,
        trouble=_trouble(run.run_id, current) if current else None,
        held=current.held if current else None,
    )


def _trouble(run_id: int, now: Progress) -> str | None:
    """What hinders the run, in words; held chunks first, because they wait for a person."""
    return ". ".join(filter(None, (now.held_sentence(run_id), now.trouble))) or None


def _print(rows: Sequence[ListedRun]) -> None:
    columns = ("run", "submitted", "archive, bundle", "state", "captures", "bad", "patients", "results")
    widths = {"submitted": 10, "archive, bundle": 8, "results": 13}
    shown = table(None, columns, right=("run", "bad"), least=widths)
    for row in rows:
        shown.add_row(
            str(row.run_id),
            local_time(row.created_at),
            plain(f"{row.archive.rstrip('/').rsplit('/', 1)[-1]}, {row.bundle_name}"),
            _state(row),
            f"{row.submitted - row.pending} of {row.submitted}",
            str(row.rejected + row.quarantined),
            f"{row.cases_finished} of {row.cases}",
            _results(row),
        )
    stdout.print(shown)
    for row in rows:
        if row.patients_without_captures:
            says = f"run {row.run_id}: patients without captures: {row.patients_without_captures}"
            stdout.print(plain(f"{says}; `screen report {row.run_id}` says why"), style="yellow")
        if row.trouble:
            stdout.print(plain(f"run {row.run_id}: {row.trouble}"), style="yellow")
    stdout.print(
        "captures: ended of submitted; bad: rejected or quarantined; patients: with a result; state: share done, "
        "time left",
        style="dim",
    )


def _results(row: ListedRun) -> Text:
    """How many patients have which verdict; those that a person must look at first come first."""
    counts = {
        Verdict.ALL: row.cases_all, Verdict.INDETERMINATE: row.cases_indeterminate,
        Verdict.INSUFFICIENT: row.cases_insufficient, Verdict.BENIGN: row.cases_benign,
    }  # fmt: skip
    parts = [Text(f"{count} ").append_text(shown_verdict(verdict)) for verdict, count in counts.items() if count]
    return Text(", ").join(parts)


def _state(row: ListedRun) -> str:
    if row.cancelled_at:
        return "cancelled"
    if row.finished_at:
        return "finished"
    done = (row.submitted - row.pending) / max(row.submitted, 1)
    rate = row.captures_per_s
    if row.held and row.held == row.pending:
        return f"{done:.0%}, held"
    left = f", {row.pending / rate / 60:.0f} min" if rate else ""
    return f"{done:.0%}{left}"
