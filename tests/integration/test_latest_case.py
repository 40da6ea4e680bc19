"""Which case is a patient's latest: only one with a result, in a run that is not cancelled, replaces earlier ones.

In all tests P1 and P2 have one capture in common, byte for byte: the last of each. Cases count up with their runs:
P1 and P2 of run 1 are 1 and 2, of run 2 they are 3 and 4.
"""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, text, update

from contract.bundle import Bundle
from contract.states import CaptureState, NoCaptures, Verdict
from db.control import cancel, resume, retry
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Case, ReportQueue, Run
from db.purge import purge
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.run_report import read_run
from db.submission import submit
from tests.support.runs import claimed, digest, found, outcome, request, without

PATIENTS = ("P1", "P2")
SAME = digest(b"in both folders")
EARLIER_ONES = {1: True, 2: True, 3: False, 4: False}


def begun(database: Engine, bundle: Bundle, *patients: str) -> list[int]:
    """The chunks of a run of these patients, or of both, one for each."""
    files = [one for patient in patients or PATIENTS for one in found(patient, "0.jpg", "1.jpg", "2.jpg")]
    return submit(database, request(bundle, files, chunk_size=3, everything=True)).chunk_ids


def finish(database: Engine, chunk_id: int, *, shares: bool = True, rejected: int = 0) -> None:
    lease = claimed(database, chunk_id)
    ended = outcome(lease, rejected=rejected)
    if shares:
        ended.screened[-1] = replace(ended.screened[-1], sha256=SAME)
    finish_chunk(database, lease, ended)


def screened(database: Engine, bundle: Bundle, *, shares: bool = True, rejected: int = 0) -> None:
    for chunk_id in begun(database, bundle):
        finish(database, chunk_id, shares=shares, rejected=rejected)


def conflicts(database: Engine) -> dict[int, bool | None]:
    with reading(database) as connection:
        return dict(connection.execute(select(Case.id, Case.identity_conflict).order_by(Case.id)).all())


def mix_ups_found(database: Engine, *runs: int) -> list[bool]:
    """Whether fsck finds that all of them are noted, by run."""
    findings = [one for run in runs for one in fsck(database, run, grace_s=0)]
    return [one.holds for one in findings if "two patients" in one.invariant]


@pytest.mark.parametrize("second", ["waits", "cancelled"])
def test_a_run_without_results_hides_no_mix_up_of_an_earlier_one(database: Engine, bundle: Bundle, second: str) -> None:
    first = begun(database, bundle)
    begun(database, bundle)
    if second == "cancelled":
        cancel(database, 2, actor="test")
    for chunk_id in first:
        finish(database, chunk_id)
    assert conflicts(database) == {1: True, 2: True, 3: None, 4: None}
    assert mix_ups_found(database, 1) == [True]
    recompute(database, 1, bundle_policy(database, 1), apply=True, actor="test")
    assert conflicts(database) == {1: True, 2: True, 3: None, 4: None}


def test_the_later_result_replaces_the_earlier_one_when_it_is_there(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    later = begun(database, bundle)
    finish(database, later[0], shares=False)
    assert conflicts(database) == {1: True, 2: False, 3: False, 4: None}, "P1 has no such capture any more"
    finish(database, later[1], shares=False)
    assert conflicts(database) == {1: True, 2: False, 3: False, 4: False}, "nobody asks for a case that was replaced"
    assert mix_ups_found(database, 1, 2) == [True, True]


def test_cancelled_a_run_replaces_nothing_and_resumed_it_does_again(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    screened(database, bundle, shares=False)
    assert conflicts(database)[2] is False
    cancel(database, 2, actor="test")
    assert conflicts(database) == EARLIER_ONES
    assert mix_ups_found(database, 1, 2) == [True, True]
    resume(database, 2, actor="test")
    assert conflicts(database) == dict.fromkeys((1, 2, 3, 4), False)
    assert mix_ups_found(database, 1, 2) == [True, True]


def test_a_case_that_is_tried_again_replaces_nothing_until_it_has_a_result(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    screened(database, bundle, shares=False, rejected=1)
    again = retry(database, 2, states=[CaptureState.REJECTED], case_id=None, chunk_size=1, actor="test")
    assert conflicts(database) == {1: True, 2: True, 3: None, 4: None}
    assert mix_ups_found(database, 1) == [True]
    for chunk_id in again.chunk_ids:
        finish(database, chunk_id, shares=False)
    assert conflicts(database)[2] is False


def test_without_the_run_that_replaced_them_the_earlier_cases_are_in_conflict(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle)
    screened(database, bundle, shares=False)
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == 2).values(created_at=text("'2020-01-01 00:00:00'")))
    assert purge(database, 2, 365, force=True, actor="test") is not None
    assert conflicts(database) == {1: True, 2: True}


def test_an_earlier_case_that_never_got_its_result_holds_no_conflict_up(database: Engine, bundle: Bundle) -> None:
    """P1 has two chunks in run 1, and only one of them ends before run 2 has its result."""
    files = [*found("P1", "0.jpg", "1.jpg"), *found("P2", "0.jpg")]
    first = submit(database, request(bundle, files, chunk_size=1)).chunk_ids
    finish(database, first[0])
    finish(database, first[2])
    assert conflicts(database) == {1: None, 2: True}
    later = submit(database, request(bundle, files[1:], chunk_size=1, everything=True))
    finish(database, later.chunk_ids[0], shares=False)
    assert conflicts(database) == {1: None, 2: False, 3: False, 4: None}


def test_captures_that_come_back_as_copies_are_noted_at_the_other_patient_too(database: Engine, bundle: Bundle) -> None:
    """P1's capture is taken away and put back: nobody screens it again."""
    screened(database, bundle)
    here, there = found("P1", "0.jpg", "1.jpg", "2.jpg"), found("P2", "0.jpg", "1.jpg", "2.jpg")
    submit(database, request(bundle, [*here[:2], *there]))
    assert conflicts(database) == {1: True, 2: False, 3: False}
    assert submit(database, request(bundle, [*here, *there])).chunk_ids == []
    assert conflicts(database) == {1: True, 2: True, 3: False, 4: True}
    assert mix_ups_found(database, 1, 2, 3) == [True, True, True]


def test_a_patient_whose_captures_are_gone_withdraws_the_result_and_not_the_case_that_waits(
    database: Engine, bundle: Bundle
) -> None:
    finish(database, begun(database, bundle, "P1")[0])
    begun(database, bundle, "P1")
    gone = submit(database, request(bundle, [], absent=[without("P1", NoCaptures.EMPTY)]))
    (case,) = read_run(database, gone.run_id or 0).cases
    assert case.verdict == Verdict.INSUFFICIENT
    assert any("run 1" in reason.sentence and "ALL" in reason.sentence for reason in case.reasons)
    assert (case.priority or 0) > 6, "not less urgent than the result that it withdraws"


def test_fsck_sees_a_mix_up_that_the_view_does_not_show(database: Engine, bundle: Bundle) -> None:
    shown = "run_id, case_id, patient, capture_id, path, other_run_id, other_case_id, other_patient, other_capture_id"
    columns = f"{shown}, other_path, sha256, archive, other_archive, settled".split(", ")
    nothing = ", ".join(f"0 AS {name}" if name.endswith(("_id", "settled")) else f"'' AS {name}" for name in columns)
    with writing(database) as connection:
        connection.execute(text("DROP VIEW identity_conflicts"))
        connection.execute(text(f"CREATE VIEW identity_conflicts AS SELECT {nothing} WHERE 1 = 0"))
    screened(database, bundle)
    assert conflicts(database) == {1: False, 2: False}
    assert mix_ups_found(database, 1) == [False]
    with reading(database) as connection:
        assert connection.execute(select(ReportQueue.id)).scalars().all() == [1, 2]
