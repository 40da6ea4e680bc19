"""The typed rows that the database layer gives: all columns of their view, and all that a listing shows of them."""

from collections.abc import Sequence
from dataclasses import fields

import pytest

from db.mix_ups import IdentityConflict
from db.opinions import CaseReview
from db.progress import RunSummary
from db.report_queue import QueuedResult
from db.review_queries import CaseDetails, ListedCase
from db.view_columns import VIEW_COLUMNS
from producer.commands import queue, review, status


def names(row: type) -> list[str]:
    return [field.name for field in fields(row)]


@pytest.mark.parametrize(
    ("row", "view"),
    [
        (RunSummary, "run_summary"),
        (CaseReview, "case_review"),
        (QueuedResult, "reporting_queue"),
        (IdentityConflict, "identity_conflicts"),
    ],
)
def test_a_row_has_the_columns_of_its_view_in_their_order(row: type, view: str) -> None:
    assert names(row) == list(VIEW_COLUMNS[view])


@pytest.mark.parametrize(
    ("columns", "row"),
    [(review.COLUMNS, ListedCase), (queue.COLUMNS, QueuedResult), (status.COLUMNS, status.ListedRun)],
)
def test_every_column_of_the_csv_is_a_field_of_its_rows(columns: Sequence[str], row: type) -> None:
    """A column of another name would be empty in every line, and no error."""
    assert set(columns) <= {*names(row)}


def test_the_json_of_a_case_begins_with_its_row_in_the_list() -> None:
    of_review, of_list, of_details = names(CaseReview), names(ListedCase), names(CaseDetails)
    assert of_list[: len(of_review)] == of_review
    assert of_details[: len(of_list)] == of_list
    assert of_details[len(of_list) :] == [
        "bundle_name", "bundle_digest", "notice", "warnings", "in_training", "labels", "benign_label",
        "top_captures", "ended_badly", "conflicts", "history", "moved_to", "look_alikes",
    ]  # fmt: skip
