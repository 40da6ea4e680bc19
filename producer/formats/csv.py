"""The patients of a run as CSV, for programs: its cases, then the patients without captures that have no case.

UTF-8, and every value unchanged.
"""

from collections.abc import Sequence
from typing import Any

from db.absent import AbsentRow
from db.run_report import RunReport
from producer.csv_text import as_csv
from producer.formats import ExportFormat, Truth
from producer.formats.json import case_record

COLUMNS = (
    "case_id", "patient", "verdict", "subtype", "subtype_margin", "score", "score_low", "score_high", "priority",
    "submitted", "screened", "rejected", "quarantined", "excluded", "novel", "counting",
    "nucleated_cells", "cells_at_least", "reasons", "case_rule",
    "aggregated_at", "identity_conflict", "superseded_by", "archive", "site",
)  # fmt: skip


def table_of(report: RunReport, truth: Truth | None) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """The rows of the cases, and the names of their columns: what both kinds of CSV show."""
    of_run = {"archive": report.run.archive, "site": report.run.site}
    cases = [case_record(case, truth, report.manifest.benign_label) for case in report.cases]
    without = [_without_case(patient) for patient in report.without_captures if patient.case_id is None]
    return [row | of_run for row in (*cases, *without)], COLUMNS if truth is None else (*COLUMNS, "truth", "right")


def render(report: RunReport, truth: Truth | None) -> str:
    return as_csv(*table_of(report, truth))


def _without_case(patient: AbsentRow) -> dict[str, Any]:
    reason = {"code": patient.code, "sentence": patient.sentence}
    return {"patient": patient.patient, "submitted": 0, "reasons": [reason]}


FORMAT = ExportFormat(
    "csv",
    "Print a row for each patient of the run as CSV on stdout, for programs: UTF-8, every value unchanged.",
    to_file=False,
    render=render,
    is_utf8=True,
)
