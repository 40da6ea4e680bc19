"""`screen purge`."""

import sys
from dataclasses import asdict

import click

from contract.errors import ExitCode, UsageError
from contract.settings import get_settings
from contract.words import local_time
from db import purge as runs
from db.schema import open_database
from producer.output import json_out, login_name, plain, say, stdout, table


@click.command()
@click.option(
    "--older-than",
    "age",
    required=True,
    help="Remove runs that were submitted longer ago than this: 90d, 18m (months of 30 days) or 2y (years of 365 "
    "days).",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option(
    "--force",
    is_flag=True,
    help="Also remove runs with results that no other system has acknowledged, or with cases that reviewers have not "
    "closed.",
)
@click.option("--yes", is_flag=True, help="Do not ask first; needed if there is no terminal to ask on.")
@click.option("--json", "as_json", is_flag=True, help="Print the runs, and what happened to each, as JSON on stdout.")
def purge(age: str, dry_run: bool, force: bool, yes: bool, as_json: bool) -> ExitCode:
    """Remove runs that were submitted longer ago than --older-than, with all that belongs to them.

    Captures, results, reviews, queue rows, and patients of no other run are removed for good; the audit keeps a record
    of it. Runs that are not finished stay; without --force also those with results that nobody has acknowledged or
    signed.
    """
    database = open_database(get_settings().database_url)
    days = runs.age_in_days(age)
    old_runs = runs.old_runs(database, days, force=force)
    removable = [run for run in old_runs if run.kept is None]
    if not as_json:
        _print(old_runs)
    if removable and not dry_run:
        _ask(len(removable), yes)
        actor = login_name()
        purged = [runs.purge(database, run.run_id, days, force=force, actor=actor) for run in removable]
        runs.tidy(database)
        removed = [run.run_id for run in purged if run is not None and run.kept is None]
        say(f"removed {len(removed)} runs")
    else:
        removed = []
        would = f"{len(removable)} of {len(old_runs)} runs older than {age} would be removed"
        say(would if dry_run else "nothing to remove")
    if as_json:
        json_out([{**asdict(run), "removed": run.run_id in removed} for run in old_runs])
    return ExitCode.OK


def _ask(count: int, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on; look with --dry-run, then give --yes")
    click.confirm(f"Remove {count} runs for good?", abort=True, err=True)


def _print(old_runs: list[runs.OldRun]) -> None:
    if not old_runs:
        return
    columns = ("run", "submitted", "archive", "captures", "patients", "")
    shown = table(None, columns, right=("run", "captures", "patients"), fold=("archive", ""))
    for run in old_runs:
        shown.add_row(
            str(run.run_id), local_time(run.created_at), plain(run.archive.rstrip("/").rsplit("/", 1)[-1]),
            f"{run.captures:,}", f"{run.cases:,}", plain(f"stays: {run.kept}" if run.kept else "goes"),
        )  # fmt: skip
    stdout.print(shown)
