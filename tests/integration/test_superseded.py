"""A patient who is screened again: the newer case supersedes the open one, and stands beside what was signed."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete, select, text, update

from contract.bundle import Bundle
from contract.errors import UsageError
from contract.states import EventKind, ReviewAction, ReviewState, Verdict
from db.control import cancel, resume
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Case, Event, ReportQueue, Run
from db.purge import purge
from db.report_queue import acknowledge, take
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act, next_case
from db.review_queries import case_details, review_list
from db.run_report import read_run
from db.submission import submit
from producer.formats import load_formats
from tests.support.owner import as_owner
from tests.support.runs import claimed, found, outcome, request

ANNA, BEN = Reviewer("anna", "1.2.3"), Reviewer("ben", "1.2.3")
CONFIRM, COMMENT = ReviewAction.CONFIRM, ReviewAction.COMMENT
Rows = list[tuple[int, str, int | None]]


def begun(database: Engine, bundle: Bundle, *, sign_off: bool = False, root: bytes = b"/a") -> tuple[int, int]:
    """A run of one patient: its number, and its only chunk."""
    wanted = request(bundle, found("P1", "0.jpg", "1.jpg"), everything=True, root=root)
    run = submit(database, replace(wanted, report_at_sign_off=sign_off))
    assert run.run_id is not None
    return run.run_id, run.chunk_ids[0]


def finish(database: Engine, chunk_id: int, p_all: float = 0.9) -> None:
    lease = claimed(database, chunk_id)
    finish_chunk(database, lease, outcome(lease, p_all))


def screened(
    database: Engine, bundle: Bundle, p_all: float = 0.9, *, sign_off: bool = False, root: bytes = b"/a"
) -> int:
    """A finished run of one patient; runs and their cases count up from 1 together."""
    run, chunk_id = begun(database, bundle, sign_off=sign_off, root=root)
    finish(database, chunk_id, p_all)
    return run


def superseded_by(database: Engine) -> dict[int, int | None]:
    with reading(database) as connection:
        return dict(connection.execute(select(Case.id, Case.superseded_by).order_by(Case.id)).all())


def queued(database: Engine) -> Rows:
    with reading(database) as connection:
        rows = connection.execute(
            select(ReportQueue.case_id, ReportQueue.cause, ReportQueue.replaces_id).order_by(ReportQueue.id)
        )
        return [(row.case_id, row.cause, row.replaces_id) for row in rows]


def waiting(database: Engine) -> list[int]:
    return [row.case_id for row in review_list(database)[0]]


def broken(database: Engine, runs: Sequence[int]) -> list[str]:
    """What does not hold; but for the audit, which harm by the owner breaks in any case (test_audit.py)."""
    findings = [one for run in runs for one in fsck(database, run, grace_s=0) if not one.holds]
    return [one.invariant for one in findings if not one.invariant.startswith("the audit")]


@pytest.mark.parametrize("delivered", ["waiting", "taken", "acknowledged"])
def test_a_newer_case_supersedes_the_open_one_and_its_row_replaces_that_ones(
    database: Engine, bundle: Bundle, delivered: str
) -> None:
    old = screened(database, bundle)
    assert next_case(database, ANNA, hold_s=600) == old
    if delivered != "waiting":
        take(database, "lis", limit=1, hold_s=60)
    if delivered == "acknowledged":
        acknowledge(database, "lis", [1])
    new = screened(database, bundle, 0.1)
    assert superseded_by(database) == {old: new, new: None}
    assert queued(database) == [(old, "screened", None), (new, "superseded", 1)]
    assert waiting(database) == [new]
    assert next_case(database, ANNA, hold_s=600) == new, "also from the hand of a reviewer"
    assert [row.case_id for row in review_list(database, state=ReviewState.SUPERSEDED)[0]] == [old]
    shown = case_details(database, old, captures=1)
    assert (shown.state, shown.superseded_by, shown.verdict) == (ReviewState.SUPERSEDED, new, Verdict.ALL)
    with pytest.raises(UsageError, match=f"case {old} was superseded by case {new}"):
        act(database, old, CONFIRM, BEN)
    act(database, old, COMMENT, BEN, comment="the first smear")
    with reading(database) as connection:
        events = connection.execute(
            select(Event.run_id, Event.case_id, Event.detail).where(Event.kind == EventKind.SUPERSEDED)
        ).all()
        views = connection.execute(text("SELECT case_id FROM review_queue")).scalars().all()
    assert [tuple(event) for event in events] == [(old, old, {"superseded_by": new})]
    assert views == [new]
    assert broken(database, [old, new]) == []


def test_another_archive_is_another_patient(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    screened(database, bundle, root=b"/b")
    assert superseded_by(database) == {1: None, 2: None}
    assert broken(database, [1, 2]) == []


@pytest.mark.parametrize(
    ("p_all", "code", "first"), [(0.1, "differs_from_signed", True), (0.95, "agrees_with_signed", False)]
)
def test_a_signed_case_stays_and_the_new_one_says_how_it_compares(
    database: Engine, bundle: Bundle, p_all: float, code: str, first: bool
) -> None:
    screened(database, bundle, 0.9)
    act(database, 1, CONFIRM, ANNA)
    screened(database, bundle, p_all)
    assert superseded_by(database) == {1: None, 2: None}
    assert case_details(database, 1, captures=0).state is ReviewState.CLOSED
    new = case_details(database, 2, captures=0)
    assert new.reasons[0].code == code
    assert "anna signed case 1 of run 1 as ALL, Pro on 2" in new.reasons[0].sentence
    assert (new.priority > 7) is first, "no verdict comes before it"
    shown = load_formats()["table"].render(read_run(database, 2), None)
    assert ("Another result than reviewers signed before" in shown) is first
    assert queued(database) == [(1, "screened", None), (1, "signed", 1), (2, "screened", None)]
    assert broken(database, [1, 2]) == []


def test_a_signed_newer_result_replaces_the_signed_older_one_where_results_wait_for_the_sign_off(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle, sign_off=True)
    act(database, 1, CONFIRM, ANNA)
    screened(database, bundle, 0.1, sign_off=True)
    assert queued(database) == [(1, "signed_off", None)], "an unsigned proposal replaces nothing"
    act(database, 2, CONFIRM, BEN)
    assert queued(database) == [(1, "signed_off", None), (2, "superseded", 1)]
    act(database, 1, ReviewAction.OVERRIDE, ANNA, opinion=Opinion(Verdict.BENIGN), comment="too late")
    assert len(queued(database)) == 2, "the newer result stands"
    assert broken(database, [1, 2]) == []


def test_where_results_wait_for_the_sign_off_only_the_signed_one_is_reported(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, sign_off=True)
    screened(database, bundle, 0.1, sign_off=True)
    act(database, 2, CONFIRM, BEN)
    assert queued(database) == [(2, "signed_off", None)]
    assert broken(database, [1, 2]) == []


def test_the_case_that_is_finished_later_but_submitted_earlier_is_superseded_from_the_start(
    database: Engine, bundle: Bundle
) -> None:
    _, late = begun(database, bundle)
    screened(database, bundle)
    finish(database, late)
    assert superseded_by(database) == {1: 2, 2: None}
    assert queued(database) == [(2, "screened", None)]
    assert broken(database, [1, 2]) == []


def test_a_cancelled_run_supersedes_nothing_until_it_is_resumed(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    run, chunk_id = begun(database, bundle)
    lease = claimed(database, chunk_id)
    cancel(database, run, actor="test")
    finish_chunk(database, lease, outcome(lease, 0.1))
    assert superseded_by(database) == {1: None, 2: None}
    assert sorted(waiting(database)) == [1, 2], "what is finished is to be reviewed"
    assert broken(database, [1, 2]) == []
    for _ in range(2):
        resume(database, run, actor="test")
        assert superseded_by(database) == {1: 2, 2: None}
        assert queued(database) == [(1, "screened", None), (2, "screened", None), (1, "superseded", 1)]
    assert waiting(database) == [2]
    assert broken(database, [1, 2]) == []


def test_three_screenings_are_one_chain_of_rows_and_one_open_case(database: Engine, bundle: Bundle) -> None:
    for p_all in (0.9, 0.1, 0.5):
        screened(database, bundle, p_all)
    assert superseded_by(database) == {1: 2, 2: 3, 3: None}
    assert [(case, replaces) for case, _, replaces in queued(database)] == [(1, None), (2, 1), (3, 2)]
    act(database, 3, CONFIRM, ANNA)
    assert queued(database)[3:] == [(3, "signed", 3)]
    assert broken(database, [1, 2, 3]) == []


def test_two_workers_that_finish_two_cases_of_a_patient_at_once_leave_one_open(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle)
    leases = [claimed(database, begun(database, bundle)[1], worker=name) for name in ("w1", "w2")]
    barrier, failures = threading.Barrier(2), list[BaseException]()

    def work(number: int) -> None:
        try:
            barrier.wait(30)
            finish_chunk(database, leases[number], outcome(leases[number], 0.9))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert waiting(database) == [3]
    with reading(database) as connection:
        replaced = select(ReportQueue.replaces_id).where(ReportQueue.replaces_id.is_not(None))
        current = select(ReportQueue.case_id).where(ReportQueue.id.not_in(replaced))
        assert connection.execute(current).scalars().all() == [3]
    assert broken(database, [1, 2, 3]) == []


def test_fsck_sees_an_open_case_beside_a_newer_one_and_a_row_that_nothing_replaces(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle)
    screened(database, bundle)
    with as_owner(database) as connection:
        connection.execute(delete(ReportQueue).where(ReportQueue.id == 2))
        connection.execute(text("INSERT INTO report_queue (run_id, case_id, cause) VALUES (2, 2, 'screened')"))
    assert broken(database, [1]) == ["the queue row of a superseded case is replaced"]
    with writing(database) as connection:
        connection.execute(update(Case).values(superseded_by=None))
    assert broken(database, [1, 2]) == ["a newer case supersedes each one that nobody signed"]


def test_a_purge_of_the_older_run_leaves_the_row_of_the_newer_case(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    screened(database, bundle)
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == 1).values(created_at=text("'2020-01-01 00:00:00'")))
    removed = purge(database, 1, 365, force=True, actor="test")
    assert removed is not None
    assert removed.not_signed == 0, "nobody will sign a superseded case"
    assert queued(database) == [(2, "superseded", None)]
    assert [row.case_id for row in take(database, "lis", limit=9, hold_s=60)] == [2]
    assert broken(database, [2]) == []
