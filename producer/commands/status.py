"""`screen status`."""

from dataclasses import asdict
from typing import Any

import click

from contract.errors import ExitCode
from contract.settings import get_settings
from db import schema
from db.drift import drift as drift_of
from db.engine import open_engine
from db.plausibility import implausibility
from db.queries import progress, run_summaries
from producer.alarm import print_alarm, say_alarm
from producer.drifting import drift_warning
from producer.output import csv_out, json_out, output_options, plain, stdout, table

COLUMNS = (
    "run_id", "archive", "bundle_name", "bundle_digest", "software_version", "created_at", "finished_at",
    "cancelled_at", "submitted", "screened", "rejected", "quarantined", "pending", "reused", "skipped", "cases",
    "cases_finished", "cases_all", "cases_indeterminate", "cases_insufficient", "cases_benign", "captures_per_s",
    "trouble",
)  # fmt: skip


@click.command()
@click.argument("run", type=int, required=False)
@output_options
def status(run: int | None, output: str) -> ExitCode:
    """List the runs, newest first, or RUN alone: how many captures ended how, and how fast it goes.

    Of RUN alone also whether most captures of most patients do not count, before everything else, and whether its
    captures have drifted away from those that the bundle knows.
    """
    database = open_engine(get_settings().database_url)
    schema.check(database)
    rows = run_summaries(database, run)
    for row in rows:
        going = row["finished_at"] is None and row["cancelled_at"] is None
        now = progress(database, row["run_id"]) if going else None
        row["captures_per_s"] = round(now.recent_per_s, 1) if now else None
        row["trouble"] = now.trouble if now else None
    far = drift_of(database, run) if run is not None else []
    implausible = implausibility(database, run) if run is not None else None
    if output == "json" and run is not None:
        rows[0] = {
            "implausible": implausible and implausible.record(),
            **rows[0],
            "drift": [asdict(one) for one in far],
        }
    if output == "json":
        json_out(rows)
    elif output == "csv":
        say_alarm(implausible)
        csv_out(rows, COLUMNS)
    elif not rows:
        stdout.print("no runs yet; `screen submit ARCHIVE` makes one")
    else:
        print_alarm(implausible)
        _print(rows)
        if warning := drift_warning(far):
            stdout.print(plain(f"run {run}: {warning}"), style="yellow")
    return ExitCode.OK


def _print(rows: list[dict[str, Any]]) -> None:
    right = ("run", "captures", "bad", "patients", "ALL")
    shown = table(
        None, ("run", "submitted", "archive", "state", *right[1:], "bundle"), right, fold=("archive", "bundle")
    )
    for row in rows:
        shown.add_row(
            str(row["run_id"]),
            f"{row['created_at']:%Y-%m-%d %H:%M}",
            plain(row["archive"].rstrip("/").rsplit("/", 1)[-1]),
            _state(row),
            f"{row['submitted'] - row['pending']}/{row['submitted']}",
            str(row["rejected"] + row["quarantined"]),
            f"{row['cases_finished']}/{row['cases']}",
            str(row["cases_all"]),
            plain(row["bundle_name"]),
        )
    stdout.print(shown)
    for row in rows:
        if row["trouble"]:
            stdout.print(plain(f"run {row['run_id']}: {row['trouble']}"), style="yellow")
    stdout.print(
        "captures: ended/submitted; bad: rejected or quarantined; state: share done, time left; times in UTC",
        style="dim",
    )


def _state(row: dict[str, Any]) -> str:
    if row["cancelled_at"]:
        return "cancelled"
    if row["finished_at"]:
        return "finished"
    done = (row["submitted"] - row["pending"]) / max(row["submitted"], 1)
    rate = row["captures_per_s"]
    left = f", {row['pending'] / rate / 60:.0f} min" if rate else ""
    return f"{done:.0%}{left}"
