"""`screen compare-runs`."""

from dataclasses import asdict

import click
from rich.text import Text

from contract.errors import ExitCode
from contract.printable import printable
from contract.settings import get_settings
from contract.states import Verdict
from db.compare import ChangedCase, ComparedResult, Comparison, MovedCapture
from db.compare import compare_runs as compare
from db.schema import open_database
from producer.output import CSV, ID, csv_out, json_out, output_options, plain, plain_lines, result_codes, stdout, table

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
    """Show what changed between run FIRST and run SECOND of one archive, for example screened with two bundles.

    Lists the patients whose verdict or subtype changed, with the captures that moved most, and says how well the two
    runs agree.
    """
    database = open_database(get_settings().database_url)
    comparison = compare(database, first, second)
    if output == "json":
        agreement = [
            {"first": before, "second": after, "patients": count}
            for (before, after), count in comparison.agreement.items()
        ]
        json_out(asdict(comparison) | {"agreement": agreement})
    elif output in CSV:
        csv_out([_row(case) for case in comparison.changed], COLUMNS, output)
    else:
        _print(first, second, comparison)
    return ExitCode.OK


def _row(case: ChangedCase) -> dict[str, object]:
    row: dict[str, object] = {"patient": case.patient}
    for when, result in (("before", case.before), ("after", case.after)):
        row |= {f"verdict_{when}": result.verdict, f"subtype_{when}": result.subtype, f"score_{when}": result.score}
    return row


def _print(first: int, second: int, comparison: Comparison) -> None:
    verdicts = [verdict for verdict in Verdict if any(verdict in pair for pair in comparison.agreement)]
    stdout.print(f"Patients by verdict: run {first} down, run {second} across", style="italic", highlight=False)
    matrix = table(None, ("", *verdicts), right=tuple(verdicts))
    for before in verdicts:
        counts = {after: comparison.agreement.get((before, after), 0) for after in verdicts}
        cells = [f"[bold]{count}[/]" if before == after else str(count or "") for after, count in counts.items()]
        matrix.add_row(before, *cells)
    stdout.print(matrix)
    if comparison.changed:
        columns = ("patient", f"run {first}", f"run {second}", "captures that moved most")
        cases = table("Patients whose verdict or subtype changed", columns, fold=("patient", columns[3]))
        for case in comparison.changed:
            captures = "\n".join(printable(_capture(capture)) for capture in case.captures) or "none: another case rule"
            cases.add_row(plain(case.patient), _result(case.before), _result(case.after), plain_lines(captures))
        stdout.print(cases)
    kappa = "not defined" if comparison.kappa is None else f"{comparison.kappa:.3f}"
    same = sum(count for (before, after), count in comparison.agreement.items() if before == after)
    stdout.print(f"{same} of {comparison.patients} patients keep their verdict, Cohen's kappa {kappa}; "
                 f"{len(comparison.changed)} have another verdict or subtype", highlight=False)  # fmt: skip
    for run, count in ((first, comparison.only_first), (second, comparison.only_second)):
        if count:
            stdout.print(f"{count} patients have a result in run {run} alone", style="yellow", highlight=False)


def _result(result: ComparedResult) -> Text:
    score = "" if result.score is None else f" {result.score:.2f}"
    return plain(result_codes(result.verdict, result.subtype) + score)


def _capture(capture: MovedCapture) -> str:
    before, after = (
        ended if p_all is None else f"{ended} {p_all:.2f}"
        for ended, p_all in ((capture.before, capture.p_all_before), (capture.after, capture.p_all_after))
    )
    return f"{capture.path}: {before} -> {after}"
