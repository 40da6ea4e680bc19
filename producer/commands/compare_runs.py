"""`screen compare-runs`."""

from dataclasses import asdict
from typing import Any

import click

from contract.errors import ExitCode
from contract.settings import get_settings
from contract.states import Verdict
from db.compare import ChangedCase, Comparison
from db.compare import compare_runs as compare
from db.schema import open_database
from producer.output import ID, csv_out, json_out, output_options, plain, stdout, table

COLUMNS = (
    "patient",
    "verdict_before",
    "subtype_before",
    "score_before",
    "verdict_after",
    "subtype_after",
    "score_after",
)


@click.command("compare-runs")
@click.argument("first", type=ID)
@click.argument("second", type=ID)
@output_options
def compare_runs(first: int, second: int, output: str) -> ExitCode:
    """What changed between run FIRST and run SECOND of one archive, screened with two bundles for instance.

    Lists the patients whose verdict or subtype is another one, with the captures that moved most, and says how far the
    two agree.
    """
    database = open_database(get_settings().database_url)
    found = compare(database, first, second)
    if output == "json":
        agreement = [{"first": one, "second": other, "patients": n} for (one, other), n in found.agreement.items()]
        json_out(asdict(found) | {"agreement": agreement})
    elif output == "csv":
        csv_out([_row(one) for one in found.changed], COLUMNS)
    else:
        _print(first, second, found)
    return ExitCode.OK


def _row(one: ChangedCase) -> dict[str, Any]:
    row: dict[str, Any] = {"patient": one.patient}
    for when, result in (("before", one.before), ("after", one.after)):
        row |= {f"{name}_{when}": result[name] for name in ("verdict", "subtype", "score")}
    return row


def _print(first: int, second: int, found: Comparison) -> None:
    seen = [verdict for verdict in Verdict if any(verdict in pair for pair in found.agreement)]
    stdout.print(f"Patients by verdict: run {first} down, run {second} across", style="italic", highlight=False)
    shown = table(None, ("", *seen), right=tuple(seen))
    for verdict in seen:
        counts = [found.agreement.get((verdict, other), 0) for other in seen]
        cells = [f"[bold]{n}[/]" if verdict == other else str(n or "") for n, other in zip(counts, seen, strict=True)]
        shown.add_row(verdict, *cells)
    stdout.print(shown)
    if found.changed:
        columns = ("patient", f"run {first}", f"run {second}", "captures that moved most")
        cases = table("Patients whose verdict or subtype changed", columns, fold=("patient", columns[3]))
        for one in found.changed:
            captures = "\n".join(map(_capture, one.captures)) or "none: another case rule"
            cases.add_row(plain(one.patient), _result(one.before), _result(one.after), plain(captures))
        stdout.print(cases)
    kappa = "not defined" if found.kappa is None else f"{found.kappa:.3f}"
    same = sum(n for (one, other), n in found.agreement.items() if one == other)
    stdout.print(f"{same} of {found.patients} patients keep their verdict, Cohen's kappa {kappa}; "
                 f"{len(found.changed)} have another verdict or subtype", highlight=False)  # fmt: skip
    for run, alone in ((first, found.only_first), (second, found.only_second)):
        if alone:
            stdout.print(f"{alone} patients have a result in run {run} alone", style="yellow", highlight=False)


def _result(result: dict[str, Any]) -> str:
    score = "" if result["score"] is None else f" {result['score']:.2f}"
    return (f"{result['verdict']}, {result['subtype']}" if result["subtype"] else str(result["verdict"])) + score


def _capture(capture: dict[str, Any]) -> str:
    one, other = (
        capture[when] if capture[f"p_all_{when}"] is None else f"{capture[when]} {capture[f'p_all_{when}']:.2f}"
        for when in ("before", "after")
    )
    return f"{capture['path']}: {one} -> {other}"
