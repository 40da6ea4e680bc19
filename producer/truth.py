"""True labels beside the results, where they are known: in the demo, or for a reviewed archive."""

import csv
from pathlib import Path

import click

from contract.errors import UsageError
from contract.states import Verdict
from db.run_report import CaseRow

truth_option = click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Show the true label beside each result, from a labels.csv with the columns patient and label.",
)


def is_right(case: CaseRow, label: str, benign_label: str) -> bool:
    """Whether the proposal matches the true label: benign, or ALL with exactly this subtype."""
    if case.verdict is Verdict.ALL:
        return case.subtype == label
    return case.verdict is Verdict.BENIGN and label == benign_label


def read_truth(path: Path) -> dict[str, str]:
    """Patient -> label from a labels.csv. Raises UsageError where its columns are missing or a patient has two."""
    labels: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        if not {"patient", "label"} <= set(rows.fieldnames or ()):
            raise UsageError(f"{path}: needs the columns patient and label")
        for row in rows:
            if labels.setdefault(row["patient"], row["label"]) != row["label"]:
                raise UsageError(f"{path}: patient {row['patient']} has two labels; correct the file")
    return labels
