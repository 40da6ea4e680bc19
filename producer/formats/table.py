"""A run as tables in a terminal."""

from collections.abc import Container, Sequence

from rich.table import Table
from rich.text import Text

from contract.case_rule import LOOK_ALIKE
from contract.settled import IDENTITY_SETTLED
from contract.signed import DIFFERS_FROM_SIGNED
from contract.words import FOR_REVIEW, cells_words, explained_marks
from db.absent import AbsentRow
from db.drift import drift_warning
from db.mix_ups import IdentityConflict
from db.run_report import BadCapture, CaseRow, RunReport
from producer.alarm import print_alarm, print_warnings
from producer.formats import ExportFormat, Truth
from producer.output import plain, shown_verdict, stdout, table
from producer.truth import is_right

DO_NOT_COUNT = frozenset(
    {
        "mostly_excluded", "excluded", "benign_on_few", "exclusions_decide", "too_few_captures", "no_usable_capture",
        "duplicates", "incomplete", "no_captures",
    }
)  # fmt: skip
"""Codes of reasons that say why captures do not count, and what follows from that (docs/case-rule.md)."""


def render(report: RunReport, truth: Truth | None) -> str:
    """The tables in the width and colours of the terminal."""
    with stdout.capture() as capture:
        _print(report, truth)
    return capture.get()


def _print(report: RunReport, truth: Truth | None) -> None:
    print_alarm(report.implausible)
    print_warnings(report.warnings, report.training_sentence)
    stdout.print(_results(report, truth))
    _print_reasons(report.cases, {DIFFERS_FROM_SIGNED}, "Another result than reviewers signed before", "bold red")
    _print_reasons(report.cases, {LOOK_ALIKE.code}, "Folders with names that look the same", "bold red")
    _print_reasons(report.cases, {IDENTITY_SETTLED}, "Patients that may have been mixed up, settled", "yellow")
    _print_reasons(report.cases, DO_NOT_COUNT, "Why captures do not count", "yellow")
    if report.identity_conflicts:
        stdout.print(_conflicts(report.identity_conflicts))
    if report.without_captures:
        stdout.print(_without_captures(report.without_captures))
    if report.ended_badly:
        stdout.print(_ended_badly(report.ended_badly))
    if warning := drift_warning(report.drift):
        stdout.print(plain(warning), style="yellow")
    for line in report.progress.accounts:
        stdout.print(line, highlight=False)
    run = report.run
    made_with = (
        f"bundle {run.bundle_name} {run.bundle_digest[:12]}, engine {', '.join(report.engines) or 'none yet'}, "
        f"slide-screen {run.software_version}"
    )
    stdout.print(plain(made_with), highlight=False)
    stdout.print(
        f"next: `screen review next`, or `screen review show CASE`; `screen report {run.run_id} --html FILE` shows the "
        "captures",
        highlight=False,
        markup=False,
    )
    stdout.print(FOR_REVIEW)


def _print_reasons(cases: Sequence[CaseRow], codes: Container[str], title: str, style: str) -> None:
    """The reasons with these codes, patient by patient, if there are any, and what the marks mean that they name."""
    shown = table(title, ("case", "patient", "why"), right=("case",), fold=("patient", "why"))
    shown.title_style = style
    said: list[str] = []
    for case in cases:
        if why := [reason.sentence for reason in case.reasons if reason.code in codes]:
            shown.add_row(str(case.case_id), plain(case.patient), plain("; ".join(why)))
            said += why
    if said:
        stdout.print(shown)
    for mark, explanation in explained_marks(said):
        stdout.print(Text.assemble((mark, "yellow"), f": {explanation}"))


def _results(report: RunReport, truth: Truth | None) -> Table:
    columns = ["case", "patient", "verdict", "subtype", "score", "95 %", "screened"]
    if truth is not None:
        columns += ["truth", "right?"]
    shown = table(f"Run {report.run.run_id}", columns, ("case", "score", "95 %"), fold=("patient", "screened"))
    for case in report.cases:
        cells: list[Text | str] = [
            str(case.case_id),
            plain(case.patient),
            shown_verdict(case.verdict) if case.verdict else "pending",
            plain(case.subtype),
            "" if case.score is None else f"{case.score:.2f}",
            "" if case.score is None else f"{case.score_low:.2f}-{case.score_high:.2f}",
            _captures(case),
        ]
        if truth is not None:
            label = truth.get(case.patient)
            right = label is not None and is_right(case, label, report.manifest.benign_label)
            cells += [plain(label), Text() if label is None else Text("yes") if right else Text("no", "bold red")]
        shown.add_row(*cells)
    return shown


def _captures(case: CaseRow) -> str:
    if case.verdict is None:
        return f"? of {case.submitted}"
    parts = [f"{case.screened} of {case.submitted}"]
    for count, state in ((case.rejected, "rejected"), (case.quarantined, "quarantined")):
        parts += [f"[red]{count} {state}[/]"] if count else []
    parts += [f"[yellow]{case.excluded} do not count[/]"] if case.excluded else []
    parts.append(cells_words(case.nucleated_cells, case.counting, at_least=case.cells_at_least))
    return ", ".join(parts)


def _conflicts(conflicts: Sequence[IdentityConflict]) -> Table:
    columns = ("patient", "capture", "is also", "of patient")
    shown = table("The same capture under two patients: they may have been mixed up", columns, fold=columns)
    shown.title_style = "bold red"
    for conflict in conflicts:
        shown.add_row(*map(plain, (conflict.patient, conflict.path, conflict.other_path, conflict.other_named)))
    return shown


def _without_captures(patients: Sequence[AbsentRow]) -> Table:
    shown = table("Patients without captures", ("patient", "why"), fold=("patient", "why"))
    shown.title_style = "bold yellow"
    for patient in patients:
        shown.add_row(plain(patient.patient), plain(patient.sentence))
    return shown


def _ended_badly(captures: Sequence[BadCapture]) -> Table:
    shown = table("Captures that ended badly", ("path", "state", "code", "reason"), fold=("path", "reason"))
    for capture in captures:
        shown.add_row(plain(capture.path), capture.state, capture.reject_code or "", plain(capture.reason))
    return shown


FORMAT = ExportFormat("table", "Print tables on stdout, for people.", to_file=False, render=render, says_warnings=True)
