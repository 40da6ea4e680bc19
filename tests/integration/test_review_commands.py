"""`screen review` as a reviewer uses it: real processes, on either database; and the loop from review to training."""

import csv
import getpass
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.states import ReviewAction, Verdict
from db.engine import reading, writing
from db.models import Capture, Case, Patient
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act
from db.submission import submit
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.runs import claimed, digest, found, outcome, request
from trainer.config import DataTable
from trainer.data import read_data

ANNA = Reviewer("anna", "1.2.3")
TABLE = DataTable(min_images=3)
PATIENTS = {f"{label}-{number}": label for label in TABLE.labels for number in range(3)}


@pytest.fixture
def commands(tmp_path: Path, database: Engine, database_url: str) -> Environment:
    """Commands on the database that `database` has made; nothing of review talks to Redis."""
    return Environment(tmp_path, database_url, "redis://127.0.0.1:1/0", more=(("SCREEN_REVIEWER", "anna"),))


def screened(
    database: Engine, bundle: Bundle, patients: Sequence[str], *, captures: int = 3, p_all: float = 0.9, root: Path
) -> dict[str, int]:
    """A finished run of an archive that is there, and may have more patients; the case of each patient."""
    files: list[FoundCapture] = []
    for patient in patients:
        files += found(patient, *(f"{number:03d}.jpg" for number in range(captures)))
    place = str(root).encode()
    run = submit(
        database, request(bundle, files, chunk_size=captures, everything=True, root=place, patients_complete=False)
    )
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all))
    with reading(database) as connection:
        rows = connection.execute(
            select(Patient.external_id, Case.id).join(Case, Case.patient_id == Patient.id).where(
                Case.run_id == run.run_id
            )
        )  # fmt: skip
        return dict(rows.all())


def sign(database: Engine, case: int, label: str) -> None:
    """Close the case as this label."""
    opinion = Opinion(Verdict.BENIGN) if label == "Benign" else Opinion(Verdict.ALL, label)
    act(database, case, ReviewAction.OVERRIDE, ANNA, opinion=opinion, comment="as it was drawn")


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# A morning


def test_a_case_from_next_to_closed(database: Engine, bundle: Bundle, commands: Environment) -> None:
    case = screened(database, bundle, ["Müller, [bold]Jörg"], root=Path("/a"))["Müller, [bold]Jörg"]
    listed = commands.screen("review", "list")
    assert listed.code == 0, listed.err
    assert "Müller, [bold]Jörg" in listed.out
    assert "waiting" in listed.out
    taken = commands.screen("review", "next", "--hold", 5)
    assert taken.code == 0, taken.err
    for shown in (
        "for review",
        "ALL, Pro",
        "0.90, 95 % 0.90-0.90",
        "score 0.900, ALL from 0.600",
        "002.jpg",
        "anna to ",
    ):
        assert shown in taken.out, shown
    assert "in anna's hand for 5 minutes" in taken.err
    other = commands.screen("review", "confirm", case, "--reviewer", "ben")
    assert (other.code, other.out) == (2, "")
    assert f"anna has case {case} in hand until" in other.err
    done = commands.screen(
        "review", "override", case, "--verdict", "ALL", "--subtype", "Early", "--comment", "few nucleoli", "--json"
    )
    assert done.code == 0, done.err
    assert (done.json["state"], done.json["final_verdict"], done.json["final_subtype"]) == ("closed", "all", "Early")
    assert "for review" in done.err
    shown = commands.screen("review", "show", case)
    assert "closed as ALL, Early" in shown.out
    assert "few nucleoli" in shown.out
    assert commands.screen("review", "list", "--json").json == []
    assert "nothing is left" in commands.screen("review", "next").err
    assert commands.screen("review", "next", "--json").json is None


def test_every_action_has_its_command(database: Engine, bundle: Bundle, commands: Environment) -> None:
    case = screened(database, bundle, ["P1"], root=Path("/a"))["P1"]
    steps = [
        ("comment", case, "smudge cells"), ("defer", case, "--comment", "flow is not back"), ("confirm", case),
        ("second-opinion", case, "--comment", "nucleoli?"), ("release", case),
    ]  # fmt: skip
    for step in steps:
        done = commands.screen("review", *step)
        assert done.code == 0, done.err
    shown = commands.screen("review", "show", case, "--json").json
    assert [one["action"] for one in shown["history"]] == ["comment", "defer", "confirm", "second_opinion"]
    assert [one["comment"] for one in shown["history"]] == ["smudge cells", "flow is not back", None, "nucleoli?"]
    assert {one["reviewer"] for one in shown["history"]} == {"anna"}
    assert shown["state"] == "second_opinion"
    (row,) = csv.DictReader(commands.screen("review", "list", "--mine", "--csv").out.splitlines())
    assert (row["patient"], row["state"], row["agreeing"], row["wanted"]) == ("P1", "second_opinion", "1", "2")


def test_the_login_name_is_the_reviewers_where_nothing_else_is_said(
    database: Engine, bundle: Bundle, commands: Environment
) -> None:
    case = screened(database, bundle, ["P1"], root=Path("/a"))["P1"]
    assert (
        replace(commands, more=()).screen("review", "confirm", case, "--json").json["last_reviewer"]
        == getpass.getuser()
    )


def test_no_case_twice_however_many_ask_at_once(database: Engine, bundle: Bundle, commands: Environment) -> None:
    cases = screened(database, bundle, [f"P{number}" for number in range(6)], root=Path("/a"))

    def ask(number: int) -> int:
        taken = commands.screen("review", "next", "--json", SCREEN_REVIEWER=f"r{number}")
        assert taken.code == 0, taken.err
        case: int = taken.json["case_id"]
        return case

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, range(6))) == sorted(cases.values())


# From review to training


def test_reviewed_labels_can_be_trained_on(
    database: Engine, bundle: Bundle, commands: Environment, tmp_path: Path
) -> None:
    """All patients were proposed as ALL, Pro; reviewers say what each is. The trainer reads it where it lies."""
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=3)
    for patient, case in screened(database, bundle, list(PATIENTS), root=archive).items():
        sign(database, case, PATIENTS[patient])
    done = commands.screen("review", "export", 1, "--out", archive / "labels.csv")
    assert done.code == 0, done.err
    assert "36 captures of 12 reviewed patients (Benign 3, Early 3, Pre 3, Pro 3)" in done.err
    data = read_data(archive, TABLE)
    assert data.patients_known
    assert [(one.path, one.label, one.patient) for one in data.captures] == [
        (f"{patient}/{number:03d}.jpg", PATIENTS[patient], patient)
        for patient in sorted(PATIENTS)
        for number in range(3)
    ]
    again = commands.screen("review", "export", 1, "--out", archive / "labels.csv")
    assert again.code == 2
    assert "--force" in again.err
    elsewhere = tmp_path / "reviewed" / "labels.csv"
    assert commands.screen("review", "export", "--all", "--out", elsewhere).code == 0
    assert [one.label for one in read_data(elsewhere.parent, TABLE).captures] == [one.label for one in data.captures]


def test_an_export_is_for_training_or_for_a_spreadsheet(
    database: Engine, bundle: Bundle, commands: Environment, tmp_path: Path
) -> None:
    patients = ["=1+1", "x;=1+1;y", "-17"]
    for patient, case in screened(database, bundle, patients, root=tmp_path).items():
        assert patient in patients
        sign(database, case, "Benign")
    for name, options in (("train.csv", ()), ("people.csv", ("--csv-excel",))):
        done = commands.screen("review", "export", 1, "--out", tmp_path / name, *options)
        assert done.code == 0, done.err
    with (tmp_path / "train.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["patient"] for row in csv.DictReader(stream)} == set(patients), "a program gets every value"
    with (tmp_path / "people.csv").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["patient"] for row in rows} == {"'=1+1", "x;'=1+1;y", "'-17"}
    assert all(row["path"].startswith(("'=", "x;'=", "'-")) for row in rows)


def test_what_has_no_sure_label_is_left_out_and_counted(
    database: Engine, bundle: Bundle, commands: Environment, tmp_path: Path
) -> None:
    patients = ["benign", "unsure", "no-subtype", "open", "again", "excluded", "twin-1", "twin-2"]
    cases = screened(database, bundle, patients, root=tmp_path)
    for patient in ("benign", "again", "excluded", "twin-1", "twin-2"):
        sign(database, cases[patient], "Benign")
    unsure, no_subtype = Opinion(Verdict.INDETERMINATE), Opinion(Verdict.ALL)
    act(database, cases["unsure"], ReviewAction.OVERRIDE, ANNA, opinion=unsure, comment="cannot tell")
    act(database, cases["no-subtype"], ReviewAction.OVERRIDE, ANNA, opinion=no_subtype, comment="which?")
    sign(database, screened(database, bundle, ["again"], root=tmp_path)["again"], "Benign")
    later = screened(database, bundle, ["again"], root=tmp_path / "elsewhere")["again"]
    sign(database, later, "Pre")
    twins = cases["twin-1"], cases["twin-2"]
    with writing(database) as connection:
        for path, changed in (
            (b"excluded/000.jpg", {"excluded": True}),
            (b"benign/001.jpg", {"path": b"benign/M\xfcller.jpg"}),
            (b"twin-2/000.jpg", {"sha256": digest(b"twin-1/000.jpg")}),
        ):
            connection.execute(update(Capture).where(Capture.path == path).values(changed))
        connection.execute(update(Case).where(Case.id.in_(twins)).values(identity_conflict=True))
    done = commands.screen("review", "export", "--all", "--out", tmp_path / "out" / "reviewed.csv")
    assert done.code == 0, done.err
    for line in (
        "1 cases (not closed)", "1 cases (indeterminate)", "1 cases (ALL without a subtype)",
        "1 cases (reviewed again later)", "1 captures (excluded for its marks)",
        "1 captures (their names are not UTF-8)",
        "2 captures (under another patient too)", "rename the file",
    ):  # fmt: skip
        assert line in done.err, line
    rows = rows_of(tmp_path / "out" / "reviewed.csv")
    here, elsewhere = tmp_path.as_posix(), (tmp_path / "elsewhere").as_posix()
    assert {(row["patient"], row["label"]) for row in rows} == {
        (f"{here}/{patient}", "Benign") for patient in ("benign", "again", "excluded", "twin-1", "twin-2")
    } | {(f"{elsewhere}/again", "Pre")}, "the same name in two archives is two patients"
    assert len(rows) == 2 + 3 + 3 + 2 + 2 + 2
    assert {Path(row["path"]).parent.parent for row in rows} == {tmp_path, tmp_path / "elsewhere"}


def test_a_conflict_is_settled_and_its_captures_are_trained_on_by_nobody(
    database: Engine, bundle: Bundle, commands: Environment, tmp_path: Path
) -> None:
    run = submit(database, request(bundle, found("P1", "0.jpg", "1.jpg") + found("P2", "0.jpg"), root=b"/a"))
    lease = claimed(database, run.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[-1] = replace(ended.screened[-1], sha256=ended.screened[0].sha256)
    finish_chunk(database, lease, ended)
    shown = commands.screen("review", "show", 1)
    assert "screen review settle-identity 1" in shown.out.replace("\n", " ")
    done = commands.screen("review", "settle-identity", 1, "--comment", "the same slide, both right", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["against"] == {"P2": 1}
    assert "anna settled the captures that also lie under P2 (1); waiting, 1 reviewer must sign" in done.err
    again = commands.screen("review", "settle-identity", 1, "--comment", "once more")
    assert (again.code, "case 1 is in no conflict" in again.err) == (2, True)
    shown = commands.screen("review", "show", 1).out.replace("\n", " ")
    assert "anna settled this on" in shown
    assert "settled the conflict with other patients" in shown
    sign(database, 1, "Pre")
    done = commands.screen("review", "export", 1, "--out", tmp_path / "out" / "labels.csv")
    assert "1 captures (under another patient too)" in done.err
    assert [row["path"] for row in rows_of(tmp_path / "out" / "labels.csv")] == ["/a/P1/1.jpg"]


def test_without_a_label_nothing_is_written(
    database: Engine, bundle: Bundle, commands: Environment, tmp_path: Path
) -> None:
    screened(database, bundle, ["P1"], root=tmp_path)
    for which, problem in (
        (["--all"], "nothing to export"), ([1], "nothing to export"), ([], "--all"), ([1, "--all"], "--all"),
        ([7], "no run 7"),
    ):  # fmt: skip
        done = commands.screen("review", "export", *which, "--out", tmp_path / "out" / "labels.csv")
        assert done.code == 2, done.err
        assert problem in done.err
    assert not (tmp_path / "out").exists()
