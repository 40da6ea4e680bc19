"""A file under an earlier one's path, with its size and time: inode or change time tell, and the digest decides."""

import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text, update

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.errors import ArchiveUnavailable
from contract.pseudonyms import PseudonymKey, RealPaths
from contract.states import CaptureState
from db import rereading, schema
from db.engine import open_engine, reading, writing
from db.fsck import fsck
from db.models import Capture, Case, Run
from db.rereading import ReadAgain
from db.results import finish_chunk
from db.submission import Submission, plan_submit, submit
from db.submit_plan import SubmitRequest
from producer.pseudonymous import Pseudonymous
from tests.support.commands import Environment
from tests.support.earlier import RUN, write_at
from tests.support.runs import claimed, outcome

NAMES = ("0.jpg", "1.jpg")
KEY = PseudonymKey(b"k" * 32)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """P1 and P2, whose files have the same sizes and times and other bytes."""
    for patient in ("P1", "P2"):
        (tmp_path / "archive" / patient).mkdir(parents=True)
        for name in NAMES:
            file = tmp_path / "archive" / patient / name
            file.write_bytes(f"{patient}/{name}".encode())
            os.utime(file, ns=(10**18, 10**18))
    return tmp_path / "archive"


def wanted(bundle: Bundle, archive: Path, *, verify: bool = False, pseudonyms: bool = False) -> SubmitRequest:
    walked = walk_archive(archive)
    return SubmitRequest(
        walked.root, bundle, Pseudonymous(walked, KEY) if pseudonyms else walked.captures, {}, 9, "test",
        verify=verify, pseudonym_key=KEY.fingerprint if pseudonyms else None,
    )  # fmt: skip


def screened(database: Engine, request: SubmitRequest) -> Submission:
    """Submit, and let each file of the run end with its own digest; "P2" in it makes it benign."""
    done = submit(database, request)
    real = RealPaths(request.root, KEY) if request.pseudonym_key else lambda path: path
    for chunk_id in done.chunk_ids:
        lease = claimed(database, chunk_id)
        ended = outcome(lease)
        for number, (one, capture) in enumerate(zip(ended.screened, lease.captures, strict=True)):
            data = Path(os.fsdecode(request.root + b"/" + real(capture.path))).read_bytes()
            p_all = 0.1 if data.startswith(b"P2") else 0.9
            ended.screened[number] = replace(
                one, sha256=sha256(data).hexdigest(), p_all=p_all, probabilities=[1 - p_all, 0, 0, p_all]
            )
        finish_chunk(database, lease, ended)
    return done


def exchange(first: Path, second: Path) -> None:
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


def numbers(again: ReadAgain) -> tuple[int, int, int, int]:
    """Moved, verified; unchanged, changed."""
    return again.moved, again.verified, again.unchanged, len(again.changed)


def verdicts(database: Engine, run_id: int | None) -> dict[str, str]:
    with reading(database) as connection:
        rows = connection.execute(
            text('SELECT external_id, verdict FROM "case" JOIN patient ON patient.id = patient_id WHERE run_id = :run'),
            {"run": run_id},
        )
        return dict(rows.all())


def runs(database: Engine) -> int:
    with reading(database) as connection:
        return connection.execute(select(func.count()).select_from(Run)).scalar_one()


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_two_folders_that_were_exchanged_are_screened(
    database: Engine, bundle: Bundle, archive: Path, pseudonyms: bool
) -> None:
    first = screened(database, wanted(bundle, archive, pseudonyms=pseudonyms))
    before = verdicts(database, first.run_id)
    exchange(archive / "P1", archive / "P2")
    plan = plan_submit(database, wanted(bundle, archive, pseudonyms=pseudonyms))
    assert (plan.pending, plan.cases, *numbers(plan.read_again)) == (4, 2, 4, 0, 0, 4)
    second = screened(database, wanted(bundle, archive, pseudonyms=pseudonyms))
    assert (second.plan.pending, *numbers(second.plan.read_again)) == (4, 4, 0, 0, 4)
    after = verdicts(database, second.run_id)
    assert sorted(before.values()) == ["all", "benign"]
    assert after == dict(zip(before, reversed(before.values()), strict=True))
    with reading(database) as connection:
        conflicts = select(Case.identity_conflict).where(Case.run_id == second.run_id)
        assert connection.execute(conflicts).scalars().all() == [False, False]
    assert [one for one in fsck(database, second.run_id or 0, grace_s=0) if not one.holds] == []
    again = screened(database, wanted(bundle, archive, pseudonyms=pseudonyms))
    assert (again.created, *numbers(again.plan.read_again)) == (False, 0, 0, 0, 0)


def test_a_file_that_was_overwritten_in_place_with_its_time_set_back(
    database: Engine, bundle: Bundle, archive: Path
) -> None:
    screened(database, wanted(bundle, archive))
    file = archive / "P1" / "0.jpg"
    inode = file.stat().st_ino
    file.write_bytes(b"P2/0.jpg")
    os.utime(file, ns=(10**18, 10**18))
    assert file.stat().st_ino == inode
    done = screened(database, wanted(bundle, archive))
    assert (done.plan.pending, done.plan.reused, *numbers(done.plan.read_again)) == (1, 1, 1, 0, 0, 1)


@pytest.mark.parametrize("also_new", [False, True])
def test_a_chmod_of_everything_costs_reading_once_and_no_screening(
    database: Engine, bundle: Bundle, archive: Path, also_new: bool
) -> None:
    """`also_new`: one patient has a new capture, so that the others of the patient are copied."""
    screened(database, wanted(bundle, archive))
    for file in archive.glob("*/*"):
        file.chmod(0o640)
    if also_new:
        (archive / "P1" / "2.jpg").write_bytes(b"P1/2.jpg")
    plan = plan_submit(database, wanted(bundle, archive))
    assert (plan.pending, plan.writes_a_run, *numbers(plan.read_again)) == (also_new, also_new, 4, 0, 4, 0)
    done = screened(database, wanted(bundle, archive))
    assert (done.created, done.plan.pending, *numbers(done.plan.read_again)) == (also_new, also_new, 4, 0, 4, 0)
    again = screened(database, wanted(bundle, archive))
    assert (again.created, *numbers(again.plan.read_again)) == (False, 0, 0, 0, 0)
    assert runs(database) == 1 + also_new


def forget(database: Engine, archive: Path, how: str) -> None:
    """Let the rows tell nothing: they are of an earlier schema, or somebody could set inode and change time too."""
    with writing(database) as connection:
        for file in archive.glob("*/*"):
            status = file.stat()
            known = {"inode": None, "changed_ns": None}
            if how == "equal":
                known = {"inode": status.st_ino, "changed_ns": status.st_ctime_ns}
            path = os.fsencode(file.relative_to(archive))
            connection.execute(update(Capture).where(Capture.path == path).values(known))


@pytest.mark.parametrize("how", ["equal", "unknown"])
def test_verify_finds_what_inode_and_times_do_not_show(
    database: Engine, bundle: Bundle, archive: Path, how: str
) -> None:
    screened(database, wanted(bundle, archive))
    exchange(archive / "P1" / "0.jpg", archive / "P2" / "0.jpg")
    forget(database, archive, how)
    assert not screened(database, wanted(bundle, archive)).created, "nothing shows it"
    done = screened(database, wanted(bundle, archive, verify=True))
    assert (done.plan.pending, done.plan.reused, *numbers(done.plan.read_again)) == (2, 2, 0, 4, 2, 2)
    again = screened(database, wanted(bundle, archive, verify=True))
    assert (again.created, *numbers(again.plan.read_again)) == (False, 0, 4, 4, 0)
    with reading(database) as connection:
        unknown = select(func.count()).where(Capture.run_id == done.run_id, Capture.inode.is_(None))
        assert connection.execute(unknown).scalar_one() == 0, "verified, they are in doubt when they change again"


def test_submit_says_how_many_it_read_and_why(
    database: Engine, database_url: str, bundle: Bundle, archive: Path, tmp_path: Path
) -> None:
    commands = Environment(tmp_path, database_url, "redis://127.0.0.1:1/0")
    screened(database, wanted(bundle, archive))
    (archive / "P1" / "1.jpg").chmod(0o640)
    exchange(archive / "P1" / "0.jpg", archive / "P2" / "0.jpg")
    done = commands.screen("submit", archive, "--bundle", bundle.path, "--dry-run", "--verify", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["read_again"] == {"moved": 3, "verified": 1, "unchanged": 2, "changed": 2}
    assert (
        "captures read again: 3 have another inode or change time than at an earlier submit and 1 were verified; "
        "2 hold the same bytes and keep their results, 2 do not, or cannot be read, and are screened"
    ) in done.err
    quiet = commands.screen("submit", archive, "--bundle", bundle.path, "--dry-run", "--all")
    assert "read again" not in quiet.err


def test_a_rejected_capture_without_a_digest_is_tried_again(database: Engine, bundle: Bundle, archive: Path) -> None:
    screened(database, wanted(bundle, archive))
    rejected = {"state": CaptureState.REJECTED, "reject_code": "too_large", "sha256": None, "probabilities": None}
    with writing(database) as connection:
        connection.execute(update(Capture).where(Capture.path == b"P1/0.jpg").values(rejected))
    assert not submit(database, wanted(bundle, archive, verify=True)).created
    (archive / "P1" / "0.jpg").chmod(0o640)
    done = submit(database, wanted(bundle, archive))
    assert (done.plan.pending, *numbers(done.plan.read_again)) == (1, 1, 0, 0, 1)


def test_a_capture_that_waits_is_not_in_doubt(database: Engine, bundle: Bundle, archive: Path) -> None:
    submit(database, wanted(bundle, archive))
    exchange(archive / "P1", archive / "P2")
    assert not submit(database, wanted(bundle, archive)).created, "the worker will read what is there"


def test_an_archive_that_goes_away_meanwhile_stops_the_submit(database: Engine, bundle: Bundle, archive: Path) -> None:
    screened(database, wanted(bundle, archive))
    for file in archive.glob("*/*"):
        file.chmod(0o640)
    request = wanted(bundle, archive)
    request = replace(request, captures=list(request.captures))
    archive.rename(archive.with_name("away"))
    with pytest.raises(ArchiveUnavailable, match="nothing was submitted"):
        submit(database, request)
    assert runs(database) == 1


def test_files_are_read_while_no_transaction_is_open(
    database: Engine, bundle: Bundle, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker must be able to write meanwhile: on SQLite there is one writer."""
    screened(database, wanted(bundle, archive))
    (archive / "P1" / "0.jpg").chmod(0o640)
    digest_of = rereading.digest_of_capture
    seen = []

    def while_another_writes(*arguments: object) -> str:
        with writing(database) as connection:
            connection.execute(update(Run).values(software_version="meanwhile"))
        seen.append(arguments[1])
        return digest_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rereading, "digest_of_capture", while_another_writes)
    assert not submit(database, wanted(bundle, archive)).created
    assert seen == [b"P1/0.jpg"]


def test_captures_of_an_earlier_schema_are_not_in_doubt(database_url: str, bundle: Bundle, archive: Path) -> None:
    for file in (archive / "P1" / "1.jpg", *archive.glob("P2/*")):
        file.unlink()
    (archive / "P2").rmdir()
    same = sha256(b"P1/0.jpg").hexdigest()
    engine = open_engine(database_url)
    with writing(engine) as connection:
        write_at(connection, "0010", [one.replace("'d'", f"'{bundle.digest}'") for one in RUN])
        for table in ("run", "patient"):
            connection.execute(text(f"UPDATE {table} SET root = :root"), {"root": os.fsencode(archive)})
        file = {"path": b"P1/0.jpg", "size": 8, "time": 10**18, "digest": same}
        columns = "path = :path, size_bytes = :size, modified_ns = :time, sha256 = :digest"
        connection.execute(text(f"UPDATE capture SET {columns}"), file)
    schema.upgrade(engine)
    done = submit(engine, wanted(bundle, archive))
    assert (done.created, *numbers(done.plan.read_again)) == (False, 0, 0, 0, 0)
    done = submit(engine, wanted(bundle, archive, verify=True))
    assert (done.created, *numbers(done.plan.read_again)) == (False, 0, 1, 1, 0)
    (archive / "P1" / "0.jpg").chmod(0o640)
    done = submit(engine, wanted(bundle, archive))
    assert (done.created, *numbers(done.plan.read_again)) == (False, 1, 0, 1, 0)
    engine.dispose()
