"""What people read: listings on 80 columns, reports that say what to do next, times by their own clock."""

import re
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len
from sqlalchemy import Engine, update

from contract.archive import walk_archive
from contract.bundle import Bundle, file_digest
from contract.errors import ExitCode
from contract.outcomes import ChunkOutcome, Mark
from contract.states import MarkCode, Verdict
from contract.words import WHAT_TO_DO
from db.engine import writing
from db.models import Run
from db.results import finish_chunk
from db.review_queries import review_list
from db.run_report import read_run
from db.submission import submit
from producer.formats import load_formats
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.runs import claimed, found, outcome, request

LONG = "Müller-Lüdenscheidt, Jörg-Friedrich Wilhelm (geb. 1951-02-28), Station 3, 病人"
PATIENTS = {LONG: 0.97, "P-unsure": 0.5, "P-benign": 0.03, "P-novel": 0.1}
BERLIN = {"TZ": "Europe/Berlin", "SCREEN_REVIEWER": "dr.schmidt-hansen-von-der-waterkant"}
NOVEL = Mark(MarkCode.NOVEL, "unlike the captures that the bundle was trained on: novelty 4.20, reference up to 1")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "an-archive-with-a-very-long-name-of-november", dict.fromkeys(PATIENTS, "Pro"), 4)


def of_patient(result: ChunkOutcome, *, novel: int) -> ChunkOutcome:
    """The same with this many captures that do not count because they are novel."""
    screened = [
        replace(one, marks=[NOVEL], excluded=True, novelty=4.2) if place < novel else one
        for place, one in enumerate(result.screened)
    ]
    return replace(result, screened=screened)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'screening.db'}"


@pytest.fixture
def run(database: Engine, bundle: Bundle, archive: Path) -> int:
    """A finished run, a patient in a chunk: one captures's file is damaged, and of one patient three are novel."""
    order = list(PATIENTS)
    files = sorted(walk_archive(archive).captures, key=lambda one: order.index(one.patient.decode()))
    chosen = request(bundle, files, chunk_size=4, root=str(archive).encode())
    made = submit(database, chosen)
    for chunk_id in made.chunk_ids:
        lease = claimed(database, chunk_id)
        patient = lease.captures[0].path.decode().partition("/")[0]
        result = outcome(lease, PATIENTS[patient], rejected=patient == LONG)
        paths = {capture.id: archive / capture.path.decode() for capture in lease.captures}
        digested = [replace(one, sha256=file_digest(paths[one.capture_id])) for one in result.screened]
        result = replace(result, screened=digested)
        finish_chunk(database, lease, of_patient(result, novel=3 if patient == "P-novel" else 0))
    assert made.run_id is not None
    return made.run_id


@pytest.fixture
def commands(tmp_path: Path, database_url: str, run: int) -> Environment:
    return Environment(tmp_path, database_url, "redis://127.0.0.1:1/0", more=tuple(BERLIN.items()))


def case_of(database: Engine, patient: str) -> int:
    cases, _ = review_list(database)
    (case,) = (case.case_id for case in cases if case.patient == patient)
    return case


# 80 columns


def ink(text: str) -> Counter[str]:
    """What is printed, without blanks and the lines of tables, however it is broken."""
    return Counter(re.sub(r"[\s─━-]", "", text))


def test_every_listing_fits_80_columns_and_cuts_nothing_off(
    commands: Environment, database: Engine, bundle: Bundle, run: int
) -> None:
    case = case_of(database, LONG)
    assert commands.screen("review", "next", "--json").code == ExitCode.OK
    words = "ein langer Kommentar, der auf einer Zeile von achtzig Zeichen keinen Platz hat, auch nicht zur Hälfte"
    assert commands.screen("review", "comment", case, words).code == ExitCode.OK
    unsure = case_of(database, "P-unsure")
    assert commands.screen("review", "override", unsure, "--verdict", "all", "--comment", words).code == ExitCode.OK
    assert commands.screen("queue", "take", "--consumer", "a-consumer-with-a-long-name", "--json").code == ExitCode.OK
    second = submit(database, request(bundle, found(LONG, "000.jpg"), everything=True, root=b"/a"))
    with writing(database) as connection:
        long_ago = datetime.now(UTC) - timedelta(days=900)
        connection.execute(update(Run).where(Run.id == run).values(created_at=long_ago))
    for listing in (
        ("status",), ("status", run), ("report", run), ("review", "list"), ("review", "list", "--mine"),
        ("review", "show", case), ("review", "show", unsure), ("queue", "list"), ("fsck", run),
        ("recompute", run, "--benign-at-most", 0.01, "--all-at-least", 0.02),
        ("compare-runs", run, run), ("purge", "--older-than", "2y", "--dry-run"),
    ):  # fmt: skip
        narrow = commands.screen(*listing, COLUMNS="80")
        wide = commands.screen(*listing, COLUMNS="700")
        assert narrow.out.strip(), narrow.err
        longest = max(narrow.out.splitlines(), key=cell_len)
        assert cell_len(longest) <= 80, (listing, longest)
        assert ink(narrow.out) == ink(wide.out), listing
    assert second.run_id is not None


def test_status_counts_the_patients_of_each_verdict(commands: Environment) -> None:
    shown = " ".join(commands.screen("status", COLUMNS="200").out.split())
    assert "1 ALL, 1 indeterminate, 1 insufficient, 1 Benign" in shown


# What to do next


def test_the_terminal_says_why_captures_do_not_count_and_what_that_means(commands: Environment, run: int) -> None:
    shown = commands.screen("report", run, COLUMNS="200").out
    why = shown.partition("Why captures do not count")[2]
    assert re.search(r"\d+ +P-novel +3 of 4 screened captures do not count: 3 novel", why)
    assert re.search(rf"{re.escape(LONG)} +1 of 4 captures could not be screened", why)
    assert "novel: the capture looks unlike all that the network was trained on" in why
    assert "P-benign" not in why.partition("novel:")[0]
    assert "`screen review next`, or `screen review show CASE`" in shown


def test_the_page_of_a_run_names_cases_and_what_to_do_and_type(
    commands: Environment, database: Engine, run: int, tmp_path: Path
) -> None:
    page = tmp_path / "run.html"
    assert commands.screen("report", run, "--html", page).code == ExitCode.SOME_ENDED_BADLY
    text = page.read_text(encoding="utf-8")
    for patient in PATIENTS:
        case = case_of(database, patient)
        assert f"Case {case}, {patient}" in text
        assert f"<code>screen review show {case}</code>" in text
    for verdict in Verdict:
        assert WHAT_TO_DO[verdict].replace("'", "&#39;") in text
    assert "<b>novel</b>: the capture looks unlike" in text
    assert "out of focus</b>" not in text, "no capture of this run has that mark"


def test_a_verdict_that_no_patient_has_needs_no_advice(
    commands: Environment, database: Engine, bundle: Bundle, tmp_path: Path
) -> None:
    made = submit(database, request(bundle, found("alone", "0.jpg", "1.jpg"), chunk_size=2, root=b"/b"))
    lease = claimed(database, made.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease, 0.9))
    assert made.run_id is not None
    text = load_formats()["html"].render(read_run(database, made.run_id), None)
    assert WHAT_TO_DO[Verdict.ALL] in text
    assert WHAT_TO_DO[Verdict.INSUFFICIENT] not in text


def test_one_case_is_a_page_with_its_pictures_and_its_history(
    commands: Environment, database: Engine, tmp_path: Path
) -> None:
    novel, page = case_of(database, "P-novel"), tmp_path / "case.html"
    assert commands.screen("review", "comment", novel, "another stain?").code == ExitCode.OK
    shown = commands.screen("review", "show", novel, "--html", page, "--json")
    assert shown.code == ExitCode.OK, shown.err
    assert shown.json["case_id"] == novel
    text = page.read_text(encoding="utf-8")
    assert f"Case {novel}, P-novel" in text
    assert text.count("data:image/jpeg;base64,") == 4
    assert "another stain?" in text
    assert WHAT_TO_DO[Verdict.INSUFFICIENT] in text
    assert "P-benign" not in text, "nothing of another patient"
    confirmed = commands.screen("review", "confirm", novel)
    assert confirmed.code == ExitCode.OK, confirmed.err
    assert commands.screen("review", "show", novel, "--html", page).code == ExitCode.OK
    assert "Closed by the reviewers</b> as insufficient" in page.read_text(encoding="utf-8")


def test_next_opens_its_case_in_a_browser(commands: Environment, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'opened')!r}, 'w').write(sys.argv[1])\n")
    browser.chmod(0o755)
    page = tmp_path / "a page #1.html"
    taken = commands.screen("review", "next", "--html", page, "--open", BROWSER=f"{browser} %s")
    assert taken.code == ExitCode.OK, taken.err
    assert (tmp_path / "opened").read_text() == page.as_uri()
    private = commands.screen("review", "next", "--open", BROWSER=f"{browser} %s", TMPDIR=str(tmp_path))
    (written,) = tmp_path.glob("screen-case-*/case-*.html")
    assert str(written) in private.err
    assert written.parent.stat().st_mode & 0o777 == 0o700
    nowhere = commands.screen("review", "next", "--html", page, "--open", BROWSER="false")
    assert nowhere.code == ExitCode.OK
    assert f"open {page} in one" in nowhere.err


# Times, and the run that is meant


def test_people_get_their_own_clock_and_programs_utc(
    commands: Environment, database: Engine, run: int, tmp_path: Path
) -> None:
    summer = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == run).values(created_at=summer))
    assert "2026-07-02 00:30 CEST" in commands.screen("status", COLUMNS="200").out
    assert commands.screen("status", "--json").json[0]["created_at"] == "2026-07-01T22:30:00+00:00"
    assert "2026-07-01T22:30:00+00:00" in commands.screen("status", "--csv").out
    page = tmp_path / "run.html"
    commands.screen("report", run, "--html", page)
    assert "2026-07-02 00:30 CEST" in page.read_text(encoding="utf-8")
    case = case_of(database, "P-unsure")
    commands.screen("review", "comment", case, "seen")
    assert re.search(r"\d\d:\d\d CES?T +dr\.schmidt", commands.screen("review", "show", case, COLUMNS="200").out)
    first = commands.screen("review", "next", "--json").json
    other = commands.screen("review", "confirm", first["case_id"], "--reviewer", "ben")
    assert re.search(r"in hand until \d\d:\d\d CES?T;", other.err)


def test_latest_is_the_run_that_was_submitted_last(
    commands: Environment, database: Engine, bundle: Bundle, run: int
) -> None:
    made = submit(database, request(bundle, found("later", "0.jpg"), chunk_size=1, root=b"/b"))
    lease = claimed(database, made.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease, 0.9))
    for command in ("report", "status"):
        assert commands.screen(command, "latest", "--json").json == commands.screen(command, made.run_id, "--json").json
    assert f"run {made.run_id}: 1 of 1 captures" in commands.screen("watch", "latest").err
    assert commands.screen("report", "first").code == ExitCode.USAGE


def test_without_runs_there_is_no_latest(tmp_path: Path, database_url: str, database: Engine) -> None:
    empty = Environment(tmp_path, database_url, "redis://127.0.0.1:1/0")
    for command in ("report", "status", "watch"):
        done = empty.screen(command, "latest")
        assert (done.code, "there are no runs yet" in done.err) == (ExitCode.USAGE, True)


def test_a_watch_that_nobody_looks_at_moves_no_cursor(commands: Environment, run: int) -> None:
    done = commands.screen("watch", run)
    first = done.err.splitlines()[0].partition(" run ")[2]
    assert first.startswith(f"{run}: 16 of 16 captures, 4/4 patients, 1 rejected, 0 quarantined")
    assert done.err.replace("\n", "").isprintable()


def test_a_user_without_a_name_is_asked_for_one(
    commands: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: Engine
) -> None:
    from producer import cli

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4321")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setenv("SCREEN_DATABASE_URL", commands.database_url)
    case = str(case_of(database, "P-benign"))
    for arguments in (["review", "next"], ["review", "confirm", case], ["review", "list", "--mine"]):
        assert cli._exit_code(arguments) == ExitCode.USAGE
        assert "give --reviewer NAME or set SCREEN_REVIEWER" in capsys.readouterr().err
    assert cli._exit_code(["review", "confirm", case, "--reviewer", "anna"]) == ExitCode.OK
    assert cli._exit_code(["cancel", "1", "--yes"]) == ExitCode.OK, "for the audit a number is enough"
