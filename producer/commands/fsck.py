"""`screen fsck`."""

from dataclasses import asdict

import click

from contract.errors import ExitCode
from contract.settings import get_settings
from db.fsck import Finding, fsck
from db.schema import open_database
from producer.output import ID, json_out, plain, stdout, table


@click.command("fsck")
@click.argument("run", type=ID)
@click.option(
    "--against",
    type=ID,
    metavar="RUN",
    help="Also compare captures and results with this run of the same archive, row by row.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON on stdout.")
def command(run: int, against: int | None, as_json: bool) -> ExitCode:
    """Check that nothing in RUN was lost or counted twice.

    Counts every invariant again from the rows, and computes every result again. It only reads, and may run while the
    run is screened. Exits 1 if an invariant does not hold.
    """
    settings = get_settings()
    database = open_database(settings.database_url)
    grace = settings.lease_seconds + 2 * settings.sweep_seconds
    findings = fsck(database, run, grace_s=grace, against=against)
    if as_json:
        json_out([asdict(finding) | {"holds": finding.holds} for finding in findings])
    else:
        _print(run, findings)
    return ExitCode.OK if all(finding.holds for finding in findings) else ExitCode.SOME_ENDED_BADLY


def _print(run: int, findings: list[Finding]) -> None:
    shown = table(None, ("", "invariant", "checked", "broken", "for instance"), ("checked", "broken"),
                  fold=("invariant", "for instance"))  # fmt: skip
    for finding in findings:
        mark = "[green]holds[/]" if finding.holds else "[bold red]BROKEN[/]"
        examples = plain(", ".join(finding.examples))
        shown.add_row(mark, plain(finding.invariant), str(finding.checked), str(finding.broken), examples)
    stdout.print(shown)
    broken = sum(not finding.holds for finding in findings)
    if broken:
        stdout.print(f"run {run}: {broken} invariants are broken; keep the database and its logs as they are, and tell "
                     "the people who run the system", style="bold red")  # fmt: skip
    else:
        stdout.print(f"run {run}: nothing lost, nothing twice", style="green")
