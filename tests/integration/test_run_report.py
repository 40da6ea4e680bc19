"""A report is one moment of a run, in every format; and what `screen report` prints and writes."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from contract.bundle import Bundle
from contract.errors import ExitCode, NoSuchRun
from db.engine import open_engine
from db.results import finish_chunk
from db.run_report import EvidenceLimits, read_run
from producer.formats import load_formats
from tests.support.commands import Environment
from tests.support.runs import claimed, outcome, submitted

FORMATS = load_formats()


def screened(database: Engine, bundle: Bundle) -> int:
    """Three patients with ALL, indeterminate and benign, and a fourth who is not finished."""
    run = submitted(database, bundle, patients=4, captures=4, chunk_size=4)
    for chunk_id, p_all in zip(run.chunk_ids, (0.9, 0.5, 0.1), strict=False):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all))
    assert run.run_id is not None
    return run.run_id


@pytest.mark.parametrize("name", FORMATS)
def test_a_report_is_one_transaction(database: Engine, bundle: Bundle, name: str) -> None:
    run = screened(database, bundle)
    begun: list[Any] = []
    event.listen(database, "begin", begun.append)
    report = read_run(database, run, FORMATS[name].evidence)
    assert FORMATS[name].render(report, None)
    assert len(begun) == 1


def test_rows_are_of_one_moment_and_have_types(database: Engine, bundle: Bundle) -> None:
    report = read_run(database, screened(database, bundle), EvidenceLimits(cases=2, counting=3, excluded=3))
    assert [case.verdict for case in report.cases] == ["all", "indeterminate", "benign", None]
    assert [case.review and case.review.state for case in report.cases] == ["waiting"] * 3 + [None]
    assert (report.progress.cases_finished, report.run.cases_finished, report.run.pending) == (3, 3, 4)
    assert list(report.evidence) == [report.cases[0].case_id, report.cases[1].case_id]
    first = report.evidence[report.cases[0].case_id]
    assert (len(first.counting), len(first.excluded), len(first.scores)) == (3, 0, 4)
    with pytest.raises(NoSuchRun, match="there is no run 4711"):
        read_run(database, 4711)


@pytest.fixture
def run(environment: Environment, bundle: Bundle) -> int:
    assert environment.screen("db", "upgrade").code == 0
    engine = open_engine(environment.database_url)
    found = screened(engine, bundle)
    engine.dispose()
    return found


def test_files_are_written_beside_what_is_printed(environment: Environment, run: int, tmp_path: Path) -> None:
    html, fhir = tmp_path / "out" / "run.html", tmp_path / "out" / "run.fhir.json"
    both = environment.screen("report", run, "--json", "--html", html)
    assert both.code == ExitCode.OK
    assert len(both.json["cases"]) == 4
    assert "P000" in html.read_text()
    rows = environment.screen("report", run, "--csv", "--fhir", fhir)
    assert len(list(csv.DictReader(io.StringIO(rows.out)))) == 4
    assert json.loads(fhir.read_text())["resourceType"] == "Bundle"
    assert "1 cases are not finished and left out" in rows.err
    alone = environment.screen("report", run, "--html", html)
    assert (alone.code, alone.out) == (ExitCode.OK, "")
    assert sorted(file.name for file in html.parent.iterdir()) == ["run.fhir.json", "run.html"], "no half files"


def test_two_formats_on_stdout_are_refused(environment: Environment, run: int) -> None:
    done = environment.screen("report", run, "--json", "--csv")
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "--json and --csv both print on stdout" in done.err


def test_the_truth_is_in_every_format_but_what_other_systems_get(
    environment: Environment, run: int, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("patient,label\nP000,Pro\nP002,Pre\n")
    cases = environment.screen("report", run, "--json", "--truth", labels).json["cases"]
    assert [(case["patient"], case["truth"], case["right"]) for case in cases] == [
        ("P000", "Pro", True), ("P001", None, None), ("P002", "Pre", False), ("P003", None, None),
    ]  # fmt: skip
    rows = csv.DictReader(io.StringIO(environment.screen("report", run, "--csv", "--truth", labels).out))
    assert [(row["truth"], row["right"]) for row in rows][:3] == [("Pro", "True"), ("", ""), ("Pre", "False")]
    assert "right?" in environment.screen("report", run, "--truth", labels).out
    html = tmp_path / "run.html"
    environment.screen("report", run, "--html", html, "--truth", labels)
    assert "<th>Truth</th>" in html.read_text()
    refused = environment.screen("report", run, "--fhir", tmp_path / "run.json", "--truth", labels)
    assert refused.code == ExitCode.USAGE
    assert "--fhir goes to other systems and takes no --truth" in refused.err
    assert not (tmp_path / "run.json").exists()
