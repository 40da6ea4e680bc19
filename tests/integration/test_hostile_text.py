"""Whoever writes a name, a row or a setting cannot make a terminal, a log or a page do anything."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text, update

from contract.bundle import MANIFEST, Bundle
from contract.errors import BundleError, ExitCode
from contract.printable import printable
from contract.states import ReviewAction
from db.engine import writing
from db.models import BundleRow, Capture, Case, Chunk, Patient, ReportQueue, Review, Run
from db.results import finish_chunk
from db.review_queries import review_list
from db.submission import submit
from producer.csv_text import BYTE_ORDER_MARK
from tests.support.bundles import colour_bundle
from tests.support.commands import Done, Environment
from tests.support.hostile_text import HOSTILE, acts, forged
from tests.support.runs import claimed, found, outcome, request, without

REASONS = [{"code": "score_high", "sentence": HOSTILE}]


@pytest.fixture
def run(database: Engine, bundle: Bundle) -> int:
    """A run in which everything that a row can say is hostile."""
    files = [*found("P1", "0.jpg", "1.jpg"), *found("P2", "0.jpg")]
    more = {"report_at_sign_off": False}
    made = submit(database, request(bundle, files, absent=[without("P3")], chunk_size=1, **more))
    for number, chunk_id in enumerate(made.chunk_ids[:2]):
        lease = claimed(database, chunk_id, worker="w")
        finish_chunk(database, lease, outcome(lease, rejected=number))
    assert made.run_id is not None
    with writing(database) as connection:
        manifest = json.dumps(bundle.manifest.model_copy(update={"name": HOSTILE, "notice": HOSTILE}).model_dump())
        connection.execute(
            update(BundleRow).values(
                name=HOSTILE, path=HOSTILE, warnings=[HOSTILE, HOSTILE], manifest=json.loads(manifest)
            )
        )
        connection.execute(update(Run).values(root_text=f"/{HOSTILE}", software_version=HOSTILE))
        for patient_id in connection.execute(select(Patient.id)).scalars().all():
            named = update(Patient).where(Patient.id == patient_id)
            connection.execute(named.values(external_id=f"{HOSTILE}{patient_id}"))
        connection.execute(update(Capture).values(path_text=HOSTILE, label=HOSTILE))
        connection.execute(update(Capture).where(Capture.reason.is_not(None)).values(reason=HOSTILE))
        connection.execute(update(Case).where(Case.verdict.is_not(None)).values(reasons=REASONS, subtype=HOSTILE))
        connection.execute(update(Chunk).values(worker=HOSTILE, last_error=HOSTILE))
        connection.execute(text("UPDATE patient_without_captures SET reason = :said"), {"said": HOSTILE})
        connection.execute(
            insert(Review).values(
                case_id=1, action=ReviewAction.COMMENT, reviewer=HOSTILE, person=HOSTILE, os_user=HOSTILE,
                result_version=1, comment=HOSTILE,
                bundle_digest=bundle.digest, software_version="1",
            )
        )  # fmt: skip
        connection.execute(update(ReportQueue).values(taken_by=HOSTILE))
    return made.run_id


@pytest.fixture
def commands(tmp_path: Path, database_url: str, run: int) -> Environment:
    return Environment(tmp_path, database_url, "redis://127.0.0.1:1/0")


def harmless(done: Done) -> None:
    for shown in (done.out.removeprefix(BYTE_ORDER_MARK), done.err):
        assert acts(shown) == []
        assert forged(shown) == []


def test_no_row_reaches_a_terminal_a_page_or_a_document_as_more_than_text(
    commands: Environment, database: Engine, run: int
) -> None:
    (case,) = {row.case_id for row in review_list(database)[0]} & {1}
    html, fhir, page = (commands.folder / name for name in ("report.html", "run.fhir.json", "case.html"))
    for words in (
        ("status",), ("status", run), ("status", "--json"), ("report", run), ("report", run, "--json"),
        ("report", run, "--csv-excel"), ("report", run, "--html", html, "--fhir", fhir), ("review", "list"),
        ("review", "list", "--json"), ("review", "list", "--csv-excel"), ("review", "show", case, "--html", page),
        ("review", "show", case, "--json"), ("queue", "list"), ("queue", "list", "--json"), ("fsck", run),
        ("fsck", run, "--json"), ("compare-runs", run, run), ("compare-runs", run, run, "--json"),
        ("recompute", run, "--benign-at-most", 0.01, "--all-at-least", 0.02),
        ("purge", "--older-than", "1d", "--dry-run"),
    ):  # fmt: skip
        done = commands.screen(*words)
        assert done.code in (ExitCode.OK, ExitCode.SOME_ENDED_BADLY), (words, done.err)
        harmless(done)
        if "--json" in words:
            assert done.json is not None
    for file in (html, fhir, page):
        shown = file.read_text()
        assert acts(shown) == []
        assert file.suffix == ".json" or "<script>alert" not in shown
    (device,) = [
        entry["resource"]
        for entry in json.loads(fhir.read_text())["entry"]
        if entry["resource"]["resourceType"] == "Device"
    ]
    assert device["deviceName"][0]["name"].endswith(printable(HOSTILE))


def test_json_and_csv_for_programs_hold_what_the_rows_hold(commands: Environment, run: int) -> None:
    report = commands.screen("report", run, "--json").json
    assert report["notice"] == HOSTILE
    assert {case["patient"][: len(HOSTILE)] for case in report["cases"]} == {HOSTILE}
    rows = csv.DictReader(io.StringIO(commands.screen("status", "--csv").out, newline=""))
    assert next(rows)["bundle_name"] == HOSTILE.replace("\r", "\n"), "Python reads every line end as one"


@pytest.mark.parametrize(
    "words",
    [
        (HOSTILE,), (f"--{HOSTILE}",), ("report", HOSTILE),
        ("report", "1", f"--{HOSTILE}"), ("review", "show", HOSTILE),
        ("submit", HOSTILE, "--bundle", HOSTILE), ("bundle", "show", HOSTILE), ("worker", "--name", HOSTILE),
        ("queue", "take", "--consumer", HOSTILE), ("review", "list", "--reviewer", HOSTILE),
        ("review", "comment", "1", HOSTILE), ("review", "list", "--state", HOSTILE),
        ("run", HOSTILE, "--html", HOSTILE),
        ("db", "backup", HOSTILE), ("purge", "--older-than", HOSTILE),
    ],
)  # fmt: skip
def test_what_a_person_gives_is_refused_and_shown_as_text(
    tmp_path: Path, words: tuple[str, ...], made_once: object
) -> None:
    commands = Environment(tmp_path, f"sqlite:///{tmp_path / 's.db'}", "redis://127.0.0.1:1/0")
    done = commands.screen(*words)
    assert done.code == ExitCode.USAGE, done.err
    harmless(done)


@pytest.mark.parametrize("name", ["SITE", "LOG_LEVEL", "REVIEWER", "ENGINE", "DATABASE_URL", "REDIS_URL"])
def test_a_hostile_setting_is_refused_and_shown_as_text(tmp_path: Path, name: str) -> None:
    commands = Environment(tmp_path, f"sqlite:///{tmp_path / 's.db'}", "redis://127.0.0.1:1/0")
    done = commands.screen("review", "list", **{f"SCREEN_{name}": HOSTILE})
    assert done.code == ExitCode.USAGE, done.err
    harmless(done)


@pytest.mark.parametrize("field", ["name", "notice", "labels", "files"])
def test_a_bundle_with_text_that_cannot_be_printed_is_refused(tmp_path: Path, field: str) -> None:
    folder = colour_bundle(tmp_path / "x.bundle").path
    manifest = json.loads((folder / MANIFEST).read_text())
    if field == "labels":
        manifest["labels"][1] = HOSTILE
    elif field == "files":
        (folder / os.fsencode(HOSTILE.replace("/", "")).decode()).write_text("x")
        manifest["files"][HOSTILE.replace("/", "")] = "0" * 64
    else:
        manifest[field] = HOSTILE
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="cannot be printed") as refused:
        Bundle.open(folder)
    assert "\n" not in str(refused.value)
    assert acts(str(refused.value)) == []


def test_names_of_an_archive_are_text_in_a_dry_run(tmp_path: Path, bundle: Bundle) -> None:
    archive = tmp_path / "archive"
    name = HOSTILE.replace("/", "")
    (archive / name).mkdir(parents=True)
    (archive / name / f"{name[:60]}.jpg").write_bytes(b"x")
    (archive / name / f"{name[:60]}.txt").write_bytes(b"x")
    (archive / f"{name}2").mkdir()
    commands = Environment(tmp_path, f"sqlite:///{tmp_path / 's.db'}", "redis://127.0.0.1:1/0")
    assert commands.screen("db", "upgrade").code == ExitCode.OK
    for more in ((), ("--json",)):
        done = commands.screen("submit", archive, "--bundle", bundle.path, "--dry-run", *more)
        assert done.code == ExitCode.SOME_ENDED_BADLY, done.err
        assert "\\x1b" in done.out + done.err
        harmless(done)
