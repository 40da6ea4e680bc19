"""What `screen fsck` finds in rows whose sums are right."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, text, update

from contract.bundle import Bundle
from contract.outcomes import Rejected
from contract.states import RejectCode
from db.engine import writing
from db.fsck import fsck
from db.incarnation import restored
from db.models import Capture
from db.results import finish_chunk
from db.submission import submit
from tests.support.runs import claimed, found, outcome, request

COPIES = "a reused capture says what the row says that it was copied from"
LEFT_EMPTY = "no worker of an earlier release left columns empty"
DISKS = "no patient lost most captures at once, as when a disk is away"
UUID = "the database's UUID is the one that its last restore gave it"


def broken(database: Engine, run: int) -> dict[str, list[str]]:
    return {one.invariant: one.examples for one in fsck(database, run, grace_s=0) if not one.holds}


@pytest.fixture
def second(database: Engine, bundle: Bundle) -> int:
    """A run of one patient with a new capture beside four that are copied from the run before."""
    files = found("P1", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    for captures in (files, [*files, *found("P1", "5.jpg")]):
        run = submit(database, request(bundle, captures, chunk_size=2))
        for chunk_id in run.chunk_ids:
            lease = claimed(database, chunk_id)
            finish_chunk(database, lease, outcome(lease))
    assert run.run_id is not None
    assert broken(database, run.run_id) == {}
    return run.run_id


@pytest.mark.parametrize("change", [{"label": "Early"}, {"p_all": None, "sha256": "0" * 64}, {"size_bytes": 7}])
def test_a_copy_that_differs_from_what_it_was_copied_from(
    database: Engine, second: int, change: dict[str, object]
) -> None:
    with writing(database) as connection:
        copy = connection.execute(
            select(Capture.id).where(Capture.run_id == second, Capture.reused_from.is_not(None)).limit(1)
        ).scalar_one()
        connection.execute(update(Capture).where(Capture.id == copy).values(change))
    assert broken(database, second)[COPIES] == [f"capture {copy}"]


def test_a_copy_of_a_copy(database: Engine, bundle: Bundle, second: int) -> None:
    files = found("P1", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg")
    third = submit(database, request(bundle, files)).run_id
    assert third is not None
    with writing(database) as connection:
        copies = connection.execute(select(Capture.id).where(Capture.path_text == "P1/1.jpg").order_by(Capture.id))
        _, middle, last = copies.scalars().all()
        connection.execute(update(Capture).where(Capture.id == last).values(reused_from=middle))
    assert broken(database, third)[COPIES] == [f"capture {last}"]


@pytest.mark.parametrize(("chunk", "named"), [(0, False), (1, True)])
def test_rows_without_a_column_that_rows_before_them_have(
    database: Engine, second: int, chunk: int, named: bool
) -> None:
    """As those of a worker that did not know the column. A run that was begun before an upgrade may begin so."""
    with writing(database) as connection:
        ids = connection.execute(select(Capture.id).where(Capture.run_id == 1).order_by(Capture.id)).scalars().all()
        empty = ids[2 * chunk : 2 * chunk + 2]
        connection.execute(text(f"UPDATE capture SET quality = NULL WHERE id IN {tuple(empty)}"))
    assert broken(database, 1).get(LEFT_EMPTY) == ([f"capture {one}" for one in empty] if named else None)


@pytest.mark.parametrize(("missing", "named"), [(2, False), (3, True)])
def test_a_patient_of_whom_most_captures_were_missing(
    database: Engine, bundle: Bundle, missing: int, named: bool
) -> None:
    run = submit(database, request(bundle, found("P1", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"), chunk_size=8))
    lease = claimed(database, run.chunk_ids[0])
    ended = outcome(lease)
    gone = [Rejected(one.id, RejectCode.MISSING, "it is gone", None) for one in lease.captures[:missing]]
    finish_chunk(database, lease, replace(ended, screened=ended.screened[missing:], rejected=gone))
    assert (DISKS in broken(database, run.run_id or 0)) is named


@pytest.mark.parametrize("laid_over", [False, True])
def test_a_copy_laid_over_a_restored_database(database: Engine, second: int, laid_over: bool) -> None:
    restored(database, actor="anna")
    if laid_over:
        with writing(database) as connection:
            connection.execute(text("UPDATE this_database SET uuid = '00000000-0000-4000-8000-000000000000'"))
    assert (UUID in broken(database, second)) is laid_over
