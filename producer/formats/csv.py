"""The patients of a run as CSV, for spreadsheets: its cases, then the patients without captures that have no case."""

from typing import Any

from db.absent import AbsentRow
from db.run_report import RunReport
from producer.formats import ExportFormat, Truth
from producer.formats.json import case_record
from producer.output import as_csv

COLUMNS = (
    "case_id", "patient", "verdict", "subtype", "subtype_margin", "score", "score_low", "score_high", "priority",
    "submitted", "screened", "rejected", "quarantined", "excluded", "novel", "reasons", "case_rule",
    "aggregated_at", "identity_conflict", "superseded_by",
)  # fmt: skip


def render(report: RunReport, truth: Truth | None) -> str:
    columns = COLUMNS if truth is None else (*COLUMNS, "truth", "right")
    cases = [case_record(case, truth, report.manifest.benign_label) for case in report.cases]
    return as_csv([*cases, *map(_without_case, _without_captures(report))], columns)


def _without_captures(report: RunReport) -> list[AbsentRow]:
    """The patients without captures that have no case either."""
    return [patient for patient in report.without_captures if patient.case_id is None]


def _without_case(patient: AbsentRow) -> dict[str, Any]:
    reason = {"code": patient.code, "sentence": patient.sentence}
    return {"patient": patient.patient, "submitted": 0, "reasons": [reason]}


FORMAT = ExportFormat("csv", "Print a row for each patient of the run as CSV on stdout.", to_file=False, render=render)
