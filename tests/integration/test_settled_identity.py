"""A folder that is renamed ends its conflicts; what is really in two folders a reviewer settles.

Where nothing else is said, P1 and P2 have one capture in common, byte for byte: the last of each. Cases count up with
their runs: P1 and P2 of run 1 are 1 and 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete, select, text, update
from sqlalchemy.exc import DBAPIError

from contract.bundle import Bundle
from contract.errors import CaseHeld, UsageError
from contract.states import EventKind, ReviewAction, ReviewState, Verdict
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Case, Event, ReportQueue, Review, Run, SettledIdentity
from db.purge import purge
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.review import Reviewer, act, next_case
from db.review_queries import case_details, review_list
from db.run_report import read_run
from db.settling import settle_identity
from db.submission import Submission, submit
from producer.formats import load_formats
from tests.support.runs import claimed, digest, found, outcome, request

ANNA, BEN = Reviewer("anna", "1.2.3"), Reviewer("ben", "1.2.3")
NAMES = ("0.jpg", "1.jpg", "2.jpg")
SAME = digest(b"in both folders")
Shared = dict[bytes, str]
IN_BOTH: Shared = {b"P1/2.jpg": SAME, b"P2/2.jpg": SAME}


def begun(database: Engine, bundle: Bundle, *patients: str, **more: object) -> Submission:
    files = [one for patient in patients for one in found(patient, *NAMES)]
    return submit(database, request(bundle, files, **{"chunk_size": 3, **more}))  # type: ignore[arg-type]


def finish(database: Engine, chunk_id: int, shared: Shared) -> None:
    lease = claimed(database, chunk_id)
    ended = outcome(lease)
    paths = {one.id: one.path for one in lease.captures}
    ended.screened[:] = [
        replace(one, sha256=shared.get(paths[one.capture_id], digest(paths[one.capture_id]))) for one in ended.screened
    ]
    finish_chunk(database, lease, ended)


def screened(database: Engine, bundle: Bundle, *patients: str, shared: Shared = IN_BOTH, **more: object) -> int:
    run = begun(database, bundle, *patients, **more)
    for chunk_id in run.chunk_ids:
        finish(database, chunk_id, shared)
    assert run.run_id is not None
    return run.run_id


def conflicts(database: Engine) -> dict[int, bool | None]:
    with reading(database) as connection:
        return dict(connection.execute(select(Case.id, Case.identity_conflict).order_by(Case.id)).all())


def reasons(database: Engine, case_id: int) -> list[str]:
    with reading(database) as connection:
        stored = connection.execute(select(Case.reasons).where(Case.id == case_id)).scalar_one()
    return [reason["code"] for reason in stored or ()]


def broken(database: Engine, *runs: int) -> list[str]:
    return [one.invariant for run in runs for one in fsck(database, run, grace_s=0) if not one.holds]


def waiting(database: Engine) -> list[int]:
    return [row.case_id for row in review_list(database)[0]]


RENAMED = {b"P9/" + name.encode(): digest(b"P1/" + name.encode()) for name in NAMES}


@pytest.mark.parametrize("order", ["before", "after", "between"])
def test_a_renamed_folder_ends_in_no_conflict_whatever_is_finished_first(
    database: Engine, bundle: Bundle, order: str
) -> None:
    """P1 becomes P9, before or after a worker has read it."""
    first = begun(database, bundle, "P1", "P2")
    if order == "before":
        for chunk_id in first.chunk_ids:
            finish(database, chunk_id, {})
    second = begun(database, bundle, "P2", "P9")
    if order == "between":
        for chunk_id in first.chunk_ids:
            finish(database, chunk_id, {})
    for chunk_id in second.chunk_ids:
        finish(database, chunk_id, RENAMED)
    if order == "after":
        for chunk_id in first.chunk_ids:
            finish(database, chunk_id, {})
    in_force = {case.patient: case for case in read_run(database, second.run_id or 0).cases}
    assert (in_force["P1"].verdict, in_force["P1"].submitted) == (Verdict.INSUFFICIENT, 0)
    assert [in_force[name].identity_conflict for name in ("P1", "P9")] == [False, False]
    (moved,) = case_details(database, in_force["P1"].case_id, captures=1).moved_to
    assert (moved.patient, moved.case_id, moved.captures) == ("P9", in_force["P9"].case_id, 3)
    assert set(waiting(database)) == {2, in_force["P1"].case_id, in_force["P9"].case_id}, "the old ALL waits no more"
    assert broken(database, 1, 2) == []


def test_a_folder_renamed_there_and_back_is_never_in_conflict(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "P1", "P2", shared={})
    screened(database, bundle, "P2", "P9", shared=RENAMED)
    third = begun(database, bundle, "P1", "P2")
    assert third.chunk_ids == [], "the rows of P1 are copied"
    assert set(conflicts(database).values()) == {False}
    with reading(database) as connection:
        assert connection.execute(select(Event.id).where(Event.kind == EventKind.IDENTITY_CONFLICT)).all() == []
    assert broken(database, 1, 2, 3) == []


def test_removed_with_another_bundle_it_ends_the_conflict_with_another_archive(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle, "P1", "P3")
    there = screened(database, bundle, "P2", root=b"/b")
    assert conflicts(database) == {1: True, 2: False, 3: True}
    screened(database, replace(bundle, digest="f" * 64), "P3")
    assert [case.identity_conflict for case in read_run(database, there).cases] == [False]
    assert broken(database, 1, there) == []


def test_screened_with_another_bundle_without_the_capture_it_ends_the_conflict_with_another_archive(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle, "P1")
    there = screened(database, bundle, "P2", root=b"/b")
    assert conflicts(database) == {1: True, 2: True}
    screened(database, replace(bundle, digest="f" * 64), "P1", shared={})
    assert [case.identity_conflict for case in read_run(database, there).cases] == [False]
    assert broken(database, 1, there) == []


# A reviewer settles it


def test_what_is_settled_is_no_conflict_for_this_patient_and_still_one_for_the_other(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle, "P1", "P2")
    act(database, 1, ReviewAction.CONFIRM, BEN)
    assert next_case(database, ANNA, hold_s=600) == 2
    settled = settle_identity(database, 1, ANNA, comment="both are smears of the same slide")
    assert settled.against == {"P2": 1}
    assert (settled.review.state, settled.review.opinions) == (ReviewState.WAITING, 0), "ben saw another result"
    assert conflicts(database) == {1: False, 2: True}
    assert reasons(database, 1) == ["identity_settled", "score_high"]
    shown = case_details(database, 1, captures=1)
    assert (shown.conflicts, [one.action for one in shown.history][-1]) == ((), "settle_identity")
    assert shown.priority < 8 < case_details(database, 2, captures=1).priority
    with reading(database) as connection:
        rows = connection.execute(select(ReportQueue.case_id, ReportQueue.cause).order_by(ReportQueue.id)).all()
        (event,) = connection.execute(
            select(Event.actor, Event.detail).where(Event.kind == "identity_conflict", Event.actor == "anna")
        )
    assert tuple(rows[-1]) == (1, "recomputed")
    assert event.detail == {"conflict": False, "review_id": 2}
    assert broken(database, 1) == []
    settle_identity(database, 2, ANNA, comment="the same")
    assert conflicts(database) == {1: False, 2: False}
    assert broken(database, 1) == []
    assert read_run(database, 1).identity_conflicts == ()


def test_later_nights_recompute_and_retries_keep_it_and_a_new_mix_up_counts_again(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, bundle, "P1", "P2")
    for case in (1, 2):
        settle_identity(database, case, ANNA, comment="seen")
    recompute(database, 1, bundle_policy(database, 1), apply=True, actor="test")
    assert conflicts(database) == {1: False, 2: False}
    screened(database, bundle, "P1", "P2", everything=True)
    assert conflicts(database) == dict.fromkeys((1, 2, 3, 4), False)
    assert reasons(database, 3)[0] == "identity_settled"
    screened(database, bundle, "P1", "P2", everything=True, shared={**IN_BOTH, **dict.fromkeys(
        (b"P1/0.jpg", b"P2/0.jpg"), digest(b"another one"))})  # fmt: skip
    assert (conflicts(database)[5], conflicts(database)[6]) == (True, True), "another capture"
    assert reasons(database, 5)[:2] == ["identity_conflict", "identity_settled"]
    assert [one.path for one in case_details(database, 5, captures=1).conflicts] == ["P1/0.jpg"]
    assert settle_identity(database, 5, ANNA, comment="this too").against == {"P2": 1}
    assert broken(database, 1, 2, 3) == []


def test_a_third_patient_is_a_new_mix_up(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "P1", "P2")
    for case in (1, 2):
        settle_identity(database, case, ANNA, comment="seen")
    screened(database, bundle, "P1", "P2", "P3", shared={**IN_BOTH, b"P3/2.jpg": SAME})
    assert conflicts(database) == {1: True, 2: True, 3: True}
    assert settle_identity(database, 1, ANNA, comment="and P3").against == {"P3": 1}
    assert conflicts(database) == {1: False, 2: True, 3: True}
    assert broken(database, 1, 2) == []


def test_the_other_patient_is_told_when_a_settled_capture_comes_back(database: Engine, bundle: Bundle) -> None:
    """P1 has settled it, P2 has not; P1's capture is taken away and put back, and copied."""
    screened(database, bundle, "P1", "P2")
    settle_identity(database, 1, ANNA, comment="it is P1's")
    here, there = found("P1", *NAMES), found("P2", *NAMES)
    submit(database, request(bundle, [*here[:2], *there]))
    assert conflicts(database) == {1: False, 2: False, 3: False}
    assert submit(database, request(bundle, [*here, *there])).chunk_ids == []
    assert conflicts(database) == {1: False, 2: True, 3: False, 4: False}
    assert broken(database, 1, 2, 3) == []


def test_it_stays_when_its_run_is_purged_and_goes_with_the_patient(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "P1", "P2")
    settle_identity(database, 1, ANNA, comment="seen")
    screened(database, bundle, "P1", "P2", everything=True)

    def purged(run: int) -> None:
        with writing(database) as connection:
            connection.execute(update(Run).where(Run.id == run).values(created_at=text("'2020-01-01 00:00:00'")))
        assert purge(database, run, 365, force=True, actor="test") is not None

    purged(1)
    assert conflicts(database) == {3: False, 4: True}
    recompute(database, 2, bundle_policy(database, 2), apply=True, actor="test")
    assert conflicts(database) == {3: False, 4: True}
    assert reasons(database, 3)[0] == "identity_settled"
    assert broken(database, 2) == []
    purged(2)
    with reading(database) as connection:
        assert connection.execute(select(SettledIdentity.id)).all() == []


def test_what_cannot_be_settled(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "P1", "P2", "P3")
    with pytest.raises(UsageError, match="case 3 is in no conflict"):
        settle_identity(database, 3, ANNA, comment="seen")
    with pytest.raises(UsageError, match="say what you found out"):
        settle_identity(database, 1, ANNA, comment=" ")
    assert next_case(database, BEN, hold_s=600) == 1
    with pytest.raises(CaseHeld):
        settle_identity(database, 1, ANNA, comment="seen")
    settle_identity(database, 1, BEN, comment="seen")
    assert case_details(database, 1, captures=1).holder == "ben", "they still have to sign it"
    screened(database, bundle, "P1", "P2", "P3", everything=True)
    with pytest.raises(UsageError, match="was superseded by case"):
        settle_identity(database, 2, ANNA, comment="seen")
    with reading(database) as connection:
        assert len(connection.execute(select(Review.id)).all()) == 1


def test_a_settlement_is_never_changed_or_removed(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "P1", "P2")
    settle_identity(database, 1, ANNA, comment="seen")
    changes: list[Callable[[], object]] = [
        lambda: update(SettledIdentity).values(reviewer="ben"),
        lambda: delete(SettledIdentity),
    ]
    for change in changes:
        with pytest.raises(DBAPIError, match="append-only"), writing(database) as connection:
            connection.execute(change())  # type: ignore[call-overload]


def test_fsck_sees_what_nobody_settled_and_what_the_view_hides(database: Engine, bundle: Bundle) -> None:
    screened(database, bundle, "P1", "P2")
    with reading(database) as connection:
        patients: Sequence[int] = connection.execute(select(Case.patient_id).order_by(Case.id)).scalars().all()
    row = {"patient_id": patients[0], "other_patient_id": patients[1], "sha256": SAME, "case_id": 1, "review_id": 9,
           "reviewer": "nobody"}  # fmt: skip
    with writing(database) as connection:
        connection.execute(SettledIdentity.__table__.insert().values(row))
    assert broken(database, 1) == ["what is settled at a case a reviewer has settled"]
    with writing(database) as connection:
        connection.execute(update(Case).where(Case.id == 2).values(identity_conflict=False))
    assert "the same capture under two patients is noted at both cases" in broken(database, 1)


def test_every_report_says_who_settled_it_and_fhir_names_nobody(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle, "P1", "P2")
    settle_identity(database, 1, ANNA, comment="seen")
    texts = {name: one.render(read_run(database, run), None) for name, one in load_formats().items()}
    for name in ("json", "csv", "html"):
        assert "anna settled this" in texts[name], name
    assert "anna" not in texts["fhir"]
    assert "reviewers have looked at them and settled this" in texts["fhir"]
