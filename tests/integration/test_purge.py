"""Retention: runs whose time is over go wholly, and nothing else does."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update

from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.errors import UsageError
from contract.states import ReviewAction
from db.clock import db_now
from db.engine import open_engine, reading, writing
from db.fsck import fsck
from db.models import BundleRow, Capture, Case, Chunk, Event, Patient, ReportQueue, Review, Run
from db.purge import age_in_days, old_runs, purge, tidy
from db.report_queue import acknowledge, take
from db.results import finish_chunk
from db.review import Reviewer, act
from db.submission import submit
from tests.support.commands import Environment
from tests.support.runs import claimed, found, outcome, request

ANNA = Reviewer("anna", "1.2.3")
DAYS = 365


def screened(database: Engine, bundle: Bundle, files: list[FoundCapture], *, age_days: int, finish: bool = True) -> int:
    """A run of these files that was submitted so many days ago."""
    run = submit(database, request(bundle, files))
    assert run.run_id is not None
    for chunk_id in run.chunk_ids if finish else []:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, 0.9))
    with writing(database) as connection:
        past = db_now(-86_400 * age_days)
        connection.execute(update(Run).where(Run.id == run.run_id).values(created_at=past))
    return run.run_id


def settled(database: Engine, run: int) -> None:
    """Every result of the run is delivered and signed."""
    with reading(database) as connection:
        cases = connection.execute(select(Case.id).where(Case.run_id == run)).scalars().all()
    for case in cases:
        act(database, case, ReviewAction.CONFIRM, ANNA)
    while taken := take(database, "lis", limit=99, hold_s=60):  # the sign-off only after what it replaces
        acknowledge(database, "lis", [row.queue_id for row in taken])


def rows(database: Engine) -> dict[str, int]:
    tables = (Run, Chunk, Capture, Case, Review, ReportQueue, Patient, BundleRow)
    with reading(database) as connection:
        return {
            one.__tablename__: connection.execute(select(func.count()).select_from(one)).scalar_one() for one in tables
        }


def test_an_old_run_goes_with_all_that_belongs_to_it_and_the_audit_says_so(database: Engine, bundle: Bundle) -> None:
    old = screened(database, bundle, found("P1", "1.jpg", "2.jpg") + found("P2", "1.jpg"), age_days=800)
    settled(database, old)
    (one,) = old_runs(database, DAYS, force=False)
    assert (one.run_id, one.captures, one.cases, one.kept) == (old, 3, 2, None)
    assert purge(database, old, DAYS, force=False, actor="anna") is not None
    assert set(rows(database).values()) == {0}
    with reading(database) as connection:
        kinds = connection.execute(select(Event.kind, Event.actor, Event.detail).order_by(Event.id)).all()
    assert [kind.kind for kind in kinds] == ["submitted", "purged"]
    assert kinds[-1].actor == "anna"
    assert {name: kinds[-1].detail[name] for name in ("captures", "cases", "patients")} == {
        "captures": 3, "cases": 2, "patients": 2,
    }  # fmt: skip
    assert purge(database, old, DAYS, force=False, actor="anna") is None, "it is not there any more"


def test_a_later_run_that_rests_on_an_old_one_stays_whole(database: Engine, bundle: Bundle) -> None:
    files = found("P1", "1.jpg", "2.jpg")
    old = screened(database, bundle, files, age_days=800)
    settled(database, old)
    new = screened(database, bundle, files + found("P1", "3.jpg"), age_days=1)
    purge(database, old, DAYS, force=False, actor="anna")
    assert all(finding.holds for finding in fsck(database, new, grace_s=0))
    with reading(database) as connection:
        left = connection.execute(select(Capture.run_id, Capture.reused_from)).all()
        assert connection.execute(select(Patient.external_id)).scalars().all() == ["P1"]
    assert [tuple(row) for row in left] == [(new, None)] * 3
    again = submit(database, request(bundle, files + found("P1", "3.jpg", "4.jpg")))
    assert (again.plan.pending, again.plan.reused) == (1, 3)


@pytest.mark.parametrize("age_days", [1, 364])
def test_a_young_run_stays(database: Engine, bundle: Bundle, age_days: int) -> None:
    young = screened(database, bundle, found("P1", "1.jpg"), age_days=age_days)
    settled(database, young)
    assert old_runs(database, DAYS, force=True) == []
    assert purge(database, young, DAYS, force=True, actor="anna") is None
    assert rows(database)["capture"] == 1


def test_what_nobody_has_signed_or_acknowledged_stays_unless_forced(database: Engine, bundle: Bundle) -> None:
    old = screened(database, bundle, found("P1", "1.jpg"), age_days=800)
    kept = purge(database, old, DAYS, force=False, actor="anna")
    assert kept is not None
    assert kept.kept is not None
    assert "1 results are not acknowledged, 1 cases not signed off" in kept.kept
    assert rows(database)["capture"] == 1
    purge(database, old, DAYS, force=True, actor="anna")
    assert rows(database)["capture"] == 0


def test_an_unfinished_run_stays_even_if_forced(database: Engine, bundle: Bundle) -> None:
    old = screened(database, bundle, found("P1", "1.jpg"), age_days=800, finish=False)
    kept = purge(database, old, DAYS, force=True, actor="anna")
    assert kept is not None
    assert kept.kept == "it is not finished; cancel it first"
    assert rows(database)["run"] == 1


def test_names_are_not_left_in_the_file(tmp_path: Path, bundle: Bundle) -> None:
    environment = Environment(tmp_path, f"sqlite:///{tmp_path}/screening.db", "redis://127.0.0.1:1/0")
    environment.screen("db", "upgrade")
    database = open_engine(environment.database_url)
    old = screened(database, bundle, found("Canary-Patient", *(f"{n}.jpg" for n in range(50))), age_days=800)
    settled(database, old)
    purge(database, old, DAYS, force=False, actor="anna")
    tidy(database)
    for file in tmp_path.glob("screening.db*"):
        assert b"Canary-Patient" not in file.read_bytes(), file.name


@pytest.mark.parametrize(("age", "days"), [("90d", 90), ("18m", 540), ("2y", 730)])
def test_ages(age: str, days: int) -> None:
    assert age_in_days(age) == days


@pytest.mark.parametrize("age", ["", "2", "0d", "2 y", "-1d", "2w"])
def test_what_is_no_age_is_refused(age: str) -> None:
    with pytest.raises(UsageError, match="write 90d"):
        age_in_days(age)


def test_the_command_looks_first_and_asks(environment: Environment, bundle: Bundle) -> None:
    environment.screen("db", "upgrade")
    database = open_engine(environment.database_url)
    old = screened(database, bundle, found("P1", "1.jpg"), age_days=800)
    settled(database, old)
    dry = environment.screen("purge", "--older-than", "2y", "--dry-run", "--json")
    assert [(one["run_id"], one["removed"]) for one in json.loads(dry.out)] == [(old, False)]
    asked = environment.screen("purge", "--older-than", "2y")
    assert (asked.code, rows(database)["run"]) == (2, 1)
    assert "--yes" in asked.err
    done = environment.screen("purge", "--older-than", "2y", "--yes")
    assert (done.code, rows(database)["run"]) == (0, 0)
    assert "removed 1 runs" in done.err
