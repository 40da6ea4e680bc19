"""Tables and folders of labels that cannot be meant, in every command that reads some: exit code 2 and the sentence,
before any work begins.
"""

import sys
from pathlib import Path

import pytest

from contract.bundle import Bundle
from producer.cli import main
from tests.support.archives import jpeg, write_archive
from tests.support.commands import REPOSITORY, Done, Environment

DEMO = REPOSITORY / "bundles" / "demo.bundle"
PATIENTS = {f"P{number}": label for number, label in enumerate(["Benign", "Early", "Pre", "Pro"])}


@pytest.fixture
def alone(tmp_path: Path) -> Environment:
    """SQLite, and nothing listening where Redis should be: no run can be screened."""
    return Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "redis://127.0.0.1:1/0")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", PATIENTS, captures=2)


class Trainer:
    """Commands of the trainer from the command line to the exit code, in this process: torch is imported only once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        pytest.importorskip("torch")
        self._patch, self._capsys = monkeypatch, capsys
        monkeypatch.chdir(folder)

    def screen(self, *arguments: object) -> Done:
        self._patch.setattr(sys, "argv", ["screen", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *self._capsys.readouterr())


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Trainer:
    return Trainer(monkeypatch, capsys, tmp_path)


def refused(done: Done, *said: str) -> None:
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    for part in said:
        assert part in done.err


TWO_SPELLINGS = "path,label,patient\nP0/000.jpg,Benign,P0\nP0/001.jpg,Benign,P0 \nP1/000.jpg,Benign,p0\n"
SAYS_TWO = ("labels.csv, lines 2 and 4: are 'P0' and 'p0' the same patient?", "write the name in one way in all lines")


@pytest.mark.parametrize("command", ["train", "evaluate", "audit"])
def test_two_spellings_of_a_patient(
    trainer: Trainer, archive: Path, bundle: Bundle, tmp_path: Path, command: str
) -> None:
    (archive / "labels.csv").write_text(TWO_SPELLINGS)
    arguments = {
        "train": ("train", archive, "--recipe", "ours", "--out", tmp_path / "new.bundle"),
        "evaluate": ("evaluate", bundle.path, archive),
        "audit": ("data", "audit", archive),
    }[command]
    refused(trainer.screen(*arguments), *SAYS_TWO)
    assert not (tmp_path / "new.bundle").exists()


def test_a_split_by_folders(trainer: Trainer, bundle: Bundle, tmp_path: Path) -> None:
    for name in ("train/Pre/0.jpg", "val/Pre/1.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(jpeg("Pre"))
    said = "holds train (with Pre) and val (with Pre), which look like parts of a split, not like labels"
    refused(
        trainer.screen("evaluate", bundle.path, tmp_path / "data"), said, "data/labels.csv with the columns path, label"
    )
    refused(trainer.screen("data", "audit", tmp_path / "data"), said)


def test_a_split_that_is_given_in_a_code_page(trainer: Trainer, archive: Path, bundle: Bundle) -> None:
    rows = [
        f"P{number}/00{capture}.jpg,{label},P{number}"
        for number, label in enumerate(PATIENTS.values())
        for capture in (0, 1)
    ]
    (archive / "labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    split = archive.with_name("split.csv")
    split.write_bytes("path;split;Gerät\nP0/000.jpg;test;ä\n".encode("cp1252"))
    done = trainer.screen("evaluate", bundle.path, archive, "--split", split)
    refused(done, "split.csv, line 1: is not UTF-8", "where it reads 'Gerät'", 'file type "CSV UTF-8"')


def test_filled_labels_of_an_adaptation(trainer: Trainer, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "filled.csv").write_text("path;patient;why;klass\nP0/000.jpg;P0;random;Benign\n")
    out = tmp_path / "new.bundle"
    done = trainer.screen("adapt", DEMO, archive, "--labels", tmp_path / "filled.csv", "--out", out)
    refused(done, "filled.csv, line 1: is the column 'klass' the column label? Then call it label")
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"patient;label\nP0;Benign\nP1;Pre\nP0;Pro\n",
            "truth.csv, lines 2 and 4: patient P0 has two labels, Benign and Pro",
        ),
        ("patient,label\nMüller,Pro\n".encode("latin-1"), "truth.csv, line 2: is not UTF-8"),
        (b"Patient_ID,label\nP0,Benign\n", "truth.csv, line 1: is the column 'Patient_ID' the column patient?"),
        (b"", "truth.csv: is empty"),
        (b"patient,label\nP0,yes\nP1,no\n", "truth.csv: the bundle knows none of its labels ('yes', 'no')"),
        (
            b"patient,label\np0,Benign\n",
            "none of its patients ('p0') is in this archive (there is 'P0', the table says",
        ),
    ],
)
def test_a_truth_is_refused_before_anything_is_screened(
    alone: Environment, archive: Path, bundle: Bundle, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "truth.csv").write_bytes(content)
    refused(alone.screen("run", archive, "--bundle", bundle.path, "--truth", tmp_path / "truth.csv"), said)
    assert not (tmp_path / "screening.db").exists(), "no run was written"


def test_a_truth_is_refused_before_a_report_is_written(
    alone: Environment, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    alone.screen("db", "upgrade")
    assert alone.screen("submit", archive, "--bundle", bundle.path).code == 3, "it is stored, and waits for Redis"
    truth, page = tmp_path / "truth.csv", tmp_path / "run.html"
    for content, said in (
        ("patient,label\nP0,Benign\nP0,Pro\n", "truth.csv, lines 2 and 3: patient P0 has two labels"),
        ("patient,label\nP0,normal\n", "the bundle knows none of its labels ('normal'); its labels are Benign, Early"),
    ):
        truth.write_text(content)
        refused(alone.screen("report", 1, "--html", page, "--truth", truth), said)
        assert not page.exists()
    truth.write_bytes("patient;label\r\nP0;benign\r\nP9;Pro\r\n".encode("utf-16"))
    done = alone.screen("report", 1, "--json", "--truth", truth)
    assert {case["patient"]: case["truth"] for case in done.json["cases"]} == {
        "P0": "Benign", "P1": None, "P2": None, "P3": None,
    }  # fmt: skip
    assert "patients who are not in this run: 'P9'" in done.err
