"""`screen audit export|verify`."""

from dataclasses import asdict
from pathlib import Path

import click
from pydantic import ValidationError

from contract.errors import ExitCode, UsageError
from contract.files import write_whole
from contract.outputs import OutputFile
from contract.settings import get_settings
from db import audit_check
from db.audit_check import AuditExport, CheckedChain
from db.schema import open_database
from producer.output import ID, json_out, plain, say, stdout, table

run_option = click.option("--run", type=ID, metavar="RUN", help="Only what belongs to this run.")


@click.group()
def audit() -> None:
    """Prove that reviews, events and the reporting queue are as they were written.

    Their rows are chained by hashes. Whoever can write the whole database can write other chains: so export the heads,
    and keep the files where the database's users cannot write.
    """


@audit.command("export")
@click.argument("file", type=OutputFile())
@run_option
@click.option("--rows", is_flag=True, help="Also write what every row says: reviewers' names and comments are in it.")
def export_command(file: Path, run: int | None, rows: bool) -> None:
    """Write length and head of every chain into FILE, as JSON."""
    exported = audit_check.export(open_database(get_settings().database_url), run, rows=rows)
    write_whole(file, (exported.model_dump_json(indent=1, exclude_none=True) + "\n").encode())
    say(
        f"{file} has {len(exported.chains)} chains; `screen audit verify --against {file}` compares them with what is "
        "there then"
    )


@audit.command("verify")
@run_option
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="FILE", help="Also compare with this earlier export."
)
@click.option("--json", "as_json", is_flag=True, help="Print all chains as JSON on stdout.")
def verify_command(run: int | None, against: Path | None, as_json: bool) -> ExitCode:
    """Compute the chains again from their rows. Exits 1 if a row was changed, removed or slipped in."""
    before = None if against is None else _read(against)
    chains = audit_check.verify(open_database(get_settings().database_url), run, against=before)
    if as_json:
        json_out([asdict(chain) for chain in chains])
    else:
        _print(chains)
    return ExitCode.SOME_ENDED_BADLY if any(chain.problems for chain in chains) else ExitCode.OK


def _read(file: Path) -> AuditExport:
    try:
        return AuditExport.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read ({error.strerror}); name a file that `screen audit export` wrote"
        ) from None
    except ValidationError:
        raise UsageError(f"{file} is no export of an audit; name a file that `screen audit export` wrote") from None


def _print(chains: list[CheckedChain]) -> None:
    broken = [chain for chain in chains if chain.problems]
    if broken:
        shown = table(None, ("run", "what is wrong"), ("run",), fold=("what is wrong",))
        for chain in broken:
            for problem in chain.problems:
                shown.add_row(str(chain.run_id or ""), plain(problem))
        stdout.print(shown)
        stdout.print("the audit is not as it was written; keep the database as it is, and tell the people who run it",
                     style="bold red")  # fmt: skip
        return
    rows = {
        name: sum(chain.rows for chain in chains if chain.table == name) for name in ("event", "review", "report_queue")
    }
    stdout.print(
        f"the audit is as it was written: events {rows['event']}, reviews {rows['review']}, "
        f"rows of the reporting queue {rows['report_queue']}, chains {len(chains)}",
        style="green",
    )
