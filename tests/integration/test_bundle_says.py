"""What a bundle says against itself goes wherever its results go, and so does how many captures it was made with."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update

from contract.bundle import Bundle, write_manifest
from db.control import cancel
from db.engine import reading, writing
from db.models import BundleRow, Run, TrainingCapture
from db.purge import purge
from db.report_queue import waiting_rows
from db.results import finish_chunk
from db.review_queries import case_details
from db.run_report import read_run
from db.submission import submit
from producer.formats import load_formats
from producer.formats.fhir import fhir_bundle
from producer.review_output import print_case
from tests.support.bundles import colour_bundle
from tests.support.runs import claimed, digest, found, outcome, request

LEAKS = "2 of 40 test captures have a near-duplicate in training"
KNOWN = "2 of 3 screened captures were in this bundle's training or validation"


@pytest.fixture
def boasting(tmp_path: Path) -> Bundle:
    """A bundle whose split leaks, and that was made with two of P1's three captures."""
    made = colour_bundle(tmp_path / "boasting.bundle")
    lines = [
        f"{digest(f'P1/{number}.jpg'.encode())},Pro,{split},0"
        for number, split in enumerate(("train", "validation", "test"))
    ]
    (made.path / "split.csv").write_text("\n".join(["sha256,label,split,group", *lines]) + "\n", encoding="utf-8")
    changed = {"provenance": {"split": {"kind": "grouped", "leaks": 2}}, "metrics": {"test": {"captures": 40}}}
    return write_manifest(made.path, made.manifest.model_copy(update=changed))


def screened(database: Engine, bundle: Bundle) -> None:
    run = submit(database, request(bundle, found("P1", "0.jpg", "1.jpg", "2.jpg"), everything=True))
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, 0.9))


def test_every_output_says_what_the_bundle_says_of_itself(
    database: Engine, boasting: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    screened(database, boasting)
    report = read_run(database, 1)
    notice = boasting.manifest.notice
    assert [report.warnings[0], report.in_training] == [notice, 2]
    formats = load_formats()
    for name in ("table", "html"):
        text = " ".join(formats[name].render(report, None).replace("&#39;", "'").split())
        assert LEAKS in text, name
        assert KNOWN in text, name
    record = json.loads(formats["json"].render(report, None))
    assert LEAKS in record["warnings"][1]
    assert record["in_training"] == 2
    entries = [one["resource"] for one in json.loads(fhir_bundle(report, datetime.now(UTC)))["entry"]]
    device = next(one for one in entries if one["resourceType"] == "Device")
    said_by_device = [note["text"] for note in device["note"]]
    assert said_by_device == list(report.warnings)
    conclusion = next(one["conclusion"] for one in entries if one["resourceType"] == "DiagnosticReport")
    assert LEAKS in conclusion
    assert KNOWN in conclusion
    (row,) = waiting_rows(database, limit=9)
    said = json.loads(row.bundle_warnings) if isinstance(row.bundle_warnings, str) else row.bundle_warnings
    assert LEAKS in said[1]
    assert row.in_training == 2
    shown = case_details(database, 1, captures=1)
    assert shown.in_training == 2
    print_case(shown)
    printed = " ".join(capsys.readouterr().out.split())
    assert LEAKS in printed
    assert KNOWN in printed


def test_a_bundle_that_lists_no_captures_says_nothing_of_them(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    assert read_run(database, 1).in_training is None
    assert waiting_rows(database, limit=1)[0].in_training is None


def test_what_an_earlier_release_did_not_store_is_added_at_the_next_submit_and_goes_with_the_bundle(
    database: Engine, boasting: Bundle
) -> None:
    screened(database, boasting)
    with writing(database) as connection:
        connection.execute(TrainingCapture.__table__.delete())
        connection.execute(update(BundleRow).values(training_captures=None, warnings=[]))
    screened(database, boasting)
    assert read_run(database, 2).in_training == 2
    with reading(database) as connection:
        assert LEAKS in connection.execute(select(BundleRow.warnings)).scalar_one()[1]
    with writing(database) as connection:
        connection.execute(update(Run).values(created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    for run in (1, 2):
        cancel(database, run, actor="test")
        assert purge(database, run, 365, force=True, actor="test") is not None
    with reading(database) as connection:
        assert connection.execute(select(func.count()).select_from(TrainingCapture)).scalar() == 0
