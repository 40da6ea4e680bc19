"""`screen purge`."""

import sys
from dataclasses import asdict

import click

from contract.errors import ExitCode, UsageError
from contract.settings import get_settings
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
@click.option("--yes", is_flag=True, help="Do not ask first; needed where there is no terminal to ask on.")
@click.option("--json", "as_json", is_flag=True, help="Print the runs, and what became of each, as JSON on stdout.")
def purge(age: str, dry_run: bool, force: bool, yes: bool, as_json: bool) -> ExitCode:
    """Remove runs that were submitted longer ago than that, with all that belongs to them.

    Captures, results, reviews, queue rows, and patients of no other run go for good; that they went stays in the audit.
    A run that is not finished stays, and without --force one whose results nobody has acknowledged or signed.
    """
    database = open_database(get_settings().database_url)
    days = runs.age_in_days(age)
    found = runs.old_runs(database, days, force=force)
    going = [one for one in found if one.kept is None]
    if not as_json:
        _print(found)
    if going and not dry_run:
        _ask(len(going), yes)
        gone = [runs.purge(database, one.run_id, days, force=force, actor=login_name()) for one in going]
        runs.tidy(database)
        removed = [one.run_id for one in gone if one is not None and one.kept is None]
        say(f"removed {len(removed)} runs")
    else:
        removed = []
        say(f"{len(going)} of {len(found)} runs older than {age} would go" if dry_run else "nothing to remove")
    if as_json:
        json_out([{**asdict(one), "removed": one.run_id in removed} for one in found])
    return ExitCode.OK


def _ask(count: int, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask; look with --dry-run, then say --yes")
    click.confirm(f"Remove {count} runs for good?", abort=True, err=True)


def _print(found: list[runs.OldRun]) -> None:
    if not found:
        return
    columns = ("run", "submitted", "archive", "captures", "patients", "")
    shown = table(None, columns, right=("run", "captures", "patients"), fold=("archive", ""))
    for one in found:
        shown.add_row(
            str(one.run_id), f"{one.created_at:%Y-%m-%d}", plain(one.archive.rstrip("/").rsplit("/", 1)[-1]),
            f"{one.captures:,}", f"{one.cases:,}", plain(f"stays: {one.kept}" if one.kept else "goes"),
        )  # fmt: skip
    stdout.print(shown)
