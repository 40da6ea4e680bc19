"""The cases of a run as CSV, for spreadsheets."""

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
    return as_csv([case_record(case, truth, report.manifest.benign_label) for case in report.cases], columns)


FORMAT = ExportFormat("csv", "Print a row for each case as CSV on stdout.", to_file=False, render=render)
