"""Pseudonyms: nothing that is stored or said names a patient, and who has the key finds her again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from contract.bundle import Bundle
from contract.errors import PseudonymKeyMissing, SettingsError
from contract.pseudonyms import PseudonymKey, RealPaths, read_key, real_paths, repeating
from db.columns import Base
from db.engine import open_engine, reading, writing
from db.fsck import fsck
from db.models import Chunk
from db.progress import progress
from tests.support.archives import jpeg, write_archive
from tests.support.commands import Environment
from tests.support.waiting import wait_until

CANARY = "Canary-Müller"


@pytest.fixture
def key(tmp_path: Path) -> dict[str, str]:
    """The setting that names a key."""
    file = tmp_path / "key"
    file.write_text("a secret of thirty-two letters or more\n")
    file.chmod(0o600)
    return {"SCREEN_PSEUDONYM_KEY_FILE": str(file)}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    made = write_archive(tmp_path / "archive", {f"{CANARY}-1": "Pro", f"{CANARY}-2": "Benign"}, captures=4)
    (made / f"{CANARY}-1" / "Thumbs.db").write_bytes(b"junk")
    (made / f"{CANARY}-1" / "cut.jpg").write_bytes(jpeg("Pro")[:100])
    return made


def naming(environment: Environment) -> list[str]:
    """Of the files of database, logs and reports, and of the database's tables, those that name a patient."""

    def stored() -> Iterator[tuple[str, bytes]]:
        for file in environment.folder.glob("*.*"):
            if file.is_file():
                yield file.name, file.read_bytes()
        with reading(open_engine(environment.database_url)) as connection:
            for table in Base.metadata.sorted_tables:
                yield table.name, repr(connection.execute(select(table)).all()).encode()

    return [name for name, content in stored() if b"Canary" in content]


def test_a_pseudonymous_run_names_nobody_and_is_screened_as_any_other(
    environment: Environment, bundle: Bundle, archive: Path, key: dict[str, str]
) -> None:
    done = environment.screen("run", archive, "--bundle", bundle.path, "--pseudonymize", "--html", "report.html", **key)
    assert done.code == 1, "one capture is cut short"
    assert "Canary" not in done.out
    assert "Canary" not in done.err, "a nightly journal keeps it"
    assert "skipped (junk, 1)\n" in done.err
    report = environment.screen("report", "1", "--json", **key)
    (environment.folder / "report.json").write_text(report.out)
    assert naming(environment) == []
    cases = {case["patient"]: case["verdict"] for case in json.loads(report.out)["cases"]}
    listed = json.loads(environment.screen("pseudonyms", archive, "--json", **key).out)
    assert {one["patient"]: cases[one["pseudonym"]] for one in listed} == {
        f"{CANARY}-1": "all", f"{CANARY}-2": "benign",
    }  # fmt: skip
    assert b"data:image/jpeg" in (environment.folder / "report.html").read_bytes()
    environment.screen("report", "1", "--html", "keyless.html")
    assert b"the key of the patients&#39; pseudonyms is not here" in (environment.folder / "keyless.html").read_bytes()
    again = environment.screen("submit", archive, "--bundle", bundle.path, "--pseudonymize", "--dry-run", **key)
    assert "nothing new" in again.err


def test_names_that_are_repeated_below_the_folder_are_hidden_too(
    environment: Environment, bundle: Bundle, tmp_path: Path, key: dict[str, str]
) -> None:
    archive, folder = tmp_path / "repeated", tmp_path / "repeated" / f"{CANARY}-1"
    deep = folder / "old of Canary"
    deep.mkdir(parents=True)
    named = (
        f"{CANARY}-1_001.jpg",
        "CANARY 2.JPG",
        "m\u00fcller_3.jpg",
        "mu\u0308ller.4.jpg",
        "c_a_n_a_r_y.jpg",
        "5.jpg",
    )
    for number, name in enumerate(named):
        (folder / name).write_bytes(jpeg("Pro", seed=number))
        (deep / name).write_bytes(jpeg("Pro", seed=100 + number))
    (deep / "Canary cut.jpg").write_bytes(jpeg("Pro")[:100])
    (folder / "Canary.docx").write_bytes(b"her letter")
    (archive / f"{CANARY}-2" / "Canary without").mkdir(parents=True)
    done = environment.screen(
        "run", archive, "--bundle", bundle.path, "--pseudonymize", "--html", "report.html",
        "--worker-log", "worker.log",
        **key, SCREEN_LOG_LEVEL="debug",
    )  # fmt: skip
    assert done.code == 1, "one capture is cut short, and one patient has none"
    report = environment.screen("report", "1", "--json", **key)
    (case,) = [one for one in report.json["cases"] if one["submitted"]]
    assert (case["screened"], case["rejected"], case["verdict"]) == (12, 1, "all"), "all are found again on disk"
    submit = environment.screen("submit", archive, "--bundle", bundle.path, "--pseudonymize", "--json", **key)
    assert "nothing new" in submit.err
    for said in (done.out, done.err, report.out, submit.out, submit.err):
        assert "canary" not in said.lower()
        assert "ller" not in said.lower()
    page = (environment.folder / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "5.jpg" in page, "other names stay"
    assert naming(environment) == []


def test_what_the_database_refuses_names_nobody(
    environment: Environment, bundle: Bundle, archive: Path, key: dict[str, str]
) -> None:
    """A statement that fails holds the names that it should have written, and PostgreSQL's DETAIL repeats them."""
    environment.screen("db", "upgrade")
    with writing(open_engine(environment.database_url)) as connection:
        connection.execute(text("CREATE UNIQUE INDEX only_one ON patient (root)"))
    for words in (("--debug", "submit"), ("submit",)):
        done = environment.screen(*words, archive, "--bundle", bundle.path, SCREEN_LOG_LEVEL="debug")
        assert done.code == 70, done.err
        assert "IntegrityError" in done.err or "UniqueViolation" in done.err
        assert "Canary" not in done.out + done.err.replace(f"skipped (junk, 1): {CANARY}-1/Thumbs.db", "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("folder", "name", "is_repeated"),
    [
        ("Meier_Anna", "Meier_Anna_001.jpg", True), ("Meier_Anna", "anna-meier 1.jpg", True),
        ("Meier_Anna", "MEIER.tif", True), ("Meier_Anna", "0001.jpg", False), ("2026/Meier", "meier1.jpg", True),
        ("P001", "p-001_3.jpg", True), ("P001", "001.jpg", False), ("4711", "4711_2.jpg", True),
        ("P1", "P1.jpg", False),
        ("2026-11-26 Ng", "2026-11-26 a.jpg", False), ("M\u00fcller", "Mu\u0308ller.jpg", True),
    ],
)  # fmt: skip
def test_what_counts_as_the_folders_name(folder: str, name: str, is_repeated: bool) -> None:
    assert repeating(folder.encode())(name.encode()) is is_repeated
    key = PseudonymKey(b"k" * 32)
    hidden = key.path(f"{folder}/{name}".encode(), folder.count("/") + 1).rpartition(b"/")[2]
    assert (hidden != name.encode()) is is_repeated
    if is_repeated:
        assert hidden.startswith(b"px-")
        assert hidden.rpartition(b".")[2] == name.encode().rpartition(b".")[2].lower()


def test_under_their_names_they_are_other_patients_and_no_mix_up(
    environment: Environment, bundle: Bundle, archive: Path, key: dict[str, str]
) -> None:
    environment.screen("run", archive, "--bundle", bundle.path, "--pseudonymize", **key)
    plain = environment.screen("run", archive, "--bundle", bundle.path)
    assert plain.code == 1
    assert "has 1 runs of this archive with pseudonyms, the last is run 1" in plain.err
    again = environment.screen("submit", archive, "--bundle", bundle.path, "--pseudonymize", "--dry-run", **key)
    assert "has 1 runs of this archive under names, the last is run 2" in again.err
    assert "Canary" not in again.err
    report = json.loads(environment.screen("report", "2", "--json").out)
    assert {case["patient"] for case in report["cases"]} == {f"{CANARY}-1", f"{CANARY}-2"}
    assert report["identity_conflicts"] == []
    assert [case["identity_conflict"] for case in report["cases"]] == [False, False]


def test_a_worker_without_the_key_rejects_nothing_and_one_with_it_goes_on(
    environment: Environment, bundle: Bundle, archive: Path, key: dict[str, str]
) -> None:
    environment.screen("db", "upgrade")
    environment.screen("submit", archive, "--bundle", bundle.path, "--pseudonymize", **key)
    database = open_engine(environment.database_url)

    def is_given_back() -> bool:
        with reading(database) as connection:
            return connection.execute(select(Chunk.last_error)).scalar() is not None

    quick = {"SCREEN_SWEEP_SECONDS": "1", "SCREEN_REPUBLISH_SECONDS": "1"}
    keyless = environment.start("worker", log="keyless.log", **quick)
    try:
        wait_until(is_given_back, 60, what="the worker without the key to give the chunk back")
    finally:
        keyless.terminate()
        keyless.wait(60)
    with reading(database) as connection:
        (chunk,) = connection.execute(select(Chunk.attempts, Chunk.last_error)).all()
    assert chunk.attempts == 0
    assert "SCREEN_PSEUDONYM_KEY_FILE" in chunk.last_error
    assert progress(database, 1).ended == 0
    said = (environment.folder / "keyless.log").read_text()
    assert "this worker cannot screen runs 1: the patients have pseudonyms of the key" in said
    assert "Traceback" not in said
    worker = environment.start("worker", log="worker.log", **quick, **key)
    try:
        wait_until(lambda: progress(database, 1).finished, 60, what="the run to finish")
    finally:
        worker.terminate()
        worker.wait(60)
    assert "cannot screen" not in (environment.folder / "worker.log").read_text()
    assert progress(database, 1).rejected == 1, "the one that is cut short"
    assert all(finding.holds for finding in fsck(database, 1, grace_s=0))
    assert naming(environment) == []


def test_pseudonyms_depend_on_the_key_and_the_name_alone() -> None:
    one, same, other = PseudonymKey(b"k" * 32), PseudonymKey(b"k" * 32), PseudonymKey(b"l" * 32)
    assert one.pseudonym(b"P1") == same.pseudonym(b"P1")
    assert len({one.pseudonym(b"P1"), one.pseudonym(b"P2"), other.pseudonym(b"P1")}) == 3
    assert one.path(b"P1/a/1.jpg") == one.pseudonym(b"P1") + b"/a/1.jpg"
    assert len(one.pseudonym(b"P1")) == 23
    assert one.fingerprint != other.fingerprint


def test_a_folder_that_came_later_is_found_and_one_that_is_not_there_is_nowhere(tmp_path: Path) -> None:
    key = PseudonymKey(b"k" * 32)
    (tmp_path / "P1").mkdir()
    real = RealPaths(str(tmp_path).encode(), key)
    assert real(key.path(b"P1/1.jpg")) == b"P1/1.jpg"
    assert real(key.path(b"P2/1.jpg")) == key.path(b"P2/1.jpg")
    (tmp_path / "P2").mkdir()
    assert real(key.path(b"P2/1.jpg")) == b"P2/1.jpg"


def test_a_key_that_is_no_secret_is_refused(tmp_path: Path, key: dict[str, str]) -> None:
    file = Path(key["SCREEN_PSEUDONYM_KEY_FILE"])
    assert read_key(file).fingerprint
    with pytest.raises(PseudonymKeyMissing, match="another key"):
        real_paths(b"/a", "0" * 16, file)
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="others may read"):
        read_key(file)
    short = tmp_path / "short"
    short.write_bytes(b"short")
    short.chmod(0o600)
    with pytest.raises(SettingsError, match="fewer than 32"):
        read_key(short)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_key(tmp_path / "none")
    with pytest.raises(SettingsError, match="umask 077"):
        read_key(None)
