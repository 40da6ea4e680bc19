"""The patients of a run as CSV, for spreadsheets: umlauts and leading zeros stay, and no cell is run as a formula."""

from db.run_report import RunReport
from producer.csv_text import as_excel_csv
from producer.formats import ExportFormat, Truth
from producer.formats.csv import table_of


def render(report: RunReport, truth: Truth | None) -> str:
    return as_excel_csv(*table_of(report, truth))


FORMAT = ExportFormat(
    "csv-excel",
    "Print a row for each patient of the run as CSV on stdout, for a spreadsheet: umlauts and leading zeros stay, no "
    "cell is run as a formula.",
    to_file=False,
    render=render,
    is_utf8=True,
)
