"""What `submit` writes, and what it leaves out the second time."""

import threading
from dataclasses import replace

from sqlalchemy import Engine, func, select, update

from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.states import CaptureState, RejectCode
from db.chunks import sweep
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Capture, Case, Chunk, Event, Patient, ReportQueue, Run
from db.progress import progress
from db.results import finish_chunk
from db.run_report import read_run
from db.submission import plan_submit, submit
from tests.support.runs import claimed, found, outcome, request, submitted


def count(database: Engine, model: type) -> int:
    with reading(database) as connection:
        return connection.execute(select(func.count()).select_from(model)).scalar_one()


def screen_all(database: Engine, chunk_ids: list[int], *, rejected: int = 0) -> None:
    for chunk_id in chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, rejected=rejected))


def test_a_run_is_written_with_its_cases_captures_and_chunks(database: Engine, bundle: Bundle) -> None:
    submission = submitted(database, bundle, patients=3, captures=3, chunk_size=4)
    assert submission.created
    assert len(submission.chunk_ids) == 3  # 9 captures, cut across patients: 4 + 4 + 1
    with reading(database) as connection:
        sizes = connection.execute(select(Chunk.captures).order_by(Chunk.id)).scalars().all()
        assert sizes == [4, 4, 1]
        assert connection.execute(select(Case.submitted)).scalars().all() == [3, 3, 3]
        run = connection.execute(select(Run.submitted, Run.cases, Run.bundle_digest)).one()
        assert tuple(run) == (9, 3, bundle.digest)
        assert set(connection.execute(select(Capture.state)).scalars()) == {CaptureState.PENDING}


def test_every_capture_is_in_exactly_one_chunk(database: Engine, bundle: Bundle) -> None:
    submission = submitted(database, bundle, patients=5, captures=7, chunk_size=8)
    leased = [one.path for chunk_id in submission.chunk_ids for one in claimed(database, chunk_id).captures]
    assert len(leased) == len(set(leased)) == 35


def test_the_plan_writes_nothing(database: Engine, bundle: Bundle) -> None:
    plan = plan_submit(database, request(bundle, found("P1", "a.jpg", "b.jpg")))
    assert (plan.cases, plan.pending) == (1, 2)
    assert count(database, Run) == count(database, Capture) == count(database, Patient) == 0


def test_the_same_folder_again_makes_no_second_run(database: Engine, bundle: Bundle) -> None:
    files = found("P1", "a.jpg") + found("P2", "a.jpg")
    first = submit(database, request(bundle, files))
    again = submit(database, request(bundle, files))
    assert not again.created
    assert again.run_id == first.run_id
    assert again.plan.unchanged == 2
    assert count(database, Run) == 1


def test_a_new_capture_screens_its_patient_anew_and_copies_what_is_unchanged(database: Engine, bundle: Bundle) -> None:
    files = found("P1", "a.jpg", "b.jpg") + found("P2", "a.jpg")
    screen_all(database, submit(database, request(bundle, files)).chunk_ids)
    second = submit(database, request(bundle, files + found("P1", "c.jpg")))
    assert second.created
    assert (second.plan.cases, second.plan.pending, second.plan.reused) == (1, 1, 2)
    screen_all(database, second.chunk_ids)
    with reading(database) as connection:
        case = connection.execute(select(Case).where(Case.run_id == second.run_id)).one()
        assert (case.submitted, case.screened, case.verdict) == (3, 3, "all")
        copied = connection.execute(
            select(Capture.reused_from, Capture.p_all).where(
                Capture.run_id == second.run_id, Capture.reused_from.is_not(None)
            )
        ).all()
        assert [p for _, p in copied] == [0.9, 0.9]


def test_a_changed_capture_is_screened_again(database: Engine, bundle: Bundle) -> None:
    screen_all(database, submit(database, request(bundle, found("P1", "a.jpg", "b.jpg"))).chunk_ids)
    changed = [*found("P1", "a.jpg"), *found("P1", "b.jpg", modified=2)]
    second = submit(database, request(bundle, changed))
    assert (second.plan.pending, second.plan.reused) == (1, 1)
    (chunk,) = second.chunk_ids
    assert [one.path for one in claimed(database, chunk).captures] == [b"P1/b.jpg"]


def test_a_capture_that_is_gone_gives_its_patient_a_new_result_without_it(database: Engine, bundle: Bundle) -> None:
    files = found("P1", "a.jpg", "b.jpg", "c.jpg", "d.jpg") + found("P2", "a.jpg")
    screen_all(database, submit(database, request(bundle, files)).chunk_ids)
    second = submit(database, request(bundle, files[1:]))
    assert (second.plan.cases, second.plan.pending, second.plan.reused, second.plan.unchanged) == (1, 0, 3, 1)
    assert second.chunk_ids == []
    assert progress(database, second.run_id or 0).finished
    (case,) = read_run(database, second.run_id or 0).cases
    assert (case.patient, case.submitted, case.screened, case.verdict) == ("P1", 3, 3, "all")
    assert all(finding.holds for finding in fsck(database, second.run_id or 0, grace_s=0))
    assert not submit(database, request(bundle, files[1:])).created


def test_an_archive_put_right_ends_the_conflict_of_its_patients(database: Engine, bundle: Bundle) -> None:
    files = found("P1", "a.jpg", "b.jpg", "c.jpg") + found("P2", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    first = submit(database, request(bundle, files, chunk_size=7))
    lease = claimed(database, first.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[-1] = replace(ended.screened[-1], sha256=ended.screened[0].sha256)
    finish_chunk(database, lease, ended)
    assert len(read_run(database, first.run_id or 0).identity_conflicts) == 2
    second = submit(database, request(bundle, files[:-1]))
    assert [(case.patient, case.identity_conflict) for case in read_run(database, second.run_id or 0).cases] == [
        ("P2", False)
    ]
    assert read_run(database, second.run_id or 0).identity_conflicts == ()
    left = {case.patient: case for case in read_run(database, first.run_id or 0).cases}["P1"]
    assert (left.identity_conflict, [reason.code for reason in left.reasons]) == (False, ["score_high"])
    with reading(database) as connection:
        causes = connection.execute(
            select(ReportQueue.cause).where(ReportQueue.case_id == left.case_id).order_by(ReportQueue.id)
        )
        assert causes.scalars().all() == ["screened", "recomputed"]


def test_all_screens_everything_again(database: Engine, bundle: Bundle) -> None:
    files = found("P1", "a.jpg", "b.jpg")
    screen_all(database, submit(database, request(bundle, files)).chunk_ids)
    again = submit(database, request(bundle, files, everything=True))
    assert again.created
    assert again.plan.pending == 2


def test_another_bundle_or_archive_shares_nothing(database: Engine, bundle: Bundle) -> None:
    screen_all(database, submit(database, request(bundle, found("P1", "a.jpg"))).chunk_ids)
    assert plan_submit(database, request(bundle, found("P1", "a.jpg"), root=b"/b")).pending == 1


def test_a_damaged_capture_keeps_its_rejection_but_a_missing_one_is_tried_again(
    database: Engine, bundle: Bundle
) -> None:
    files = found("P1", "a.jpg", "b.jpg")
    screen_all(database, submit(database, request(bundle, files)).chunk_ids, rejected=1)
    assert plan_submit(database, request(bundle, files)).cases == 0
    with writing(database) as connection:
        connection.execute(
            update(Capture).where(Capture.reject_code.is_not(None)).values(reject_code=RejectCode.MISSING)
        )
    again = submit(database, request(bundle, files))
    (chunk,) = again.chunk_ids
    assert [one.path for one in claimed(database, chunk).captures] == [b"P1/a.jpg"]


def test_captures_of_a_run_in_progress_are_not_submitted_twice(database: Engine, bundle: Bundle) -> None:
    submitted(database, bundle, patients=2, captures=3)
    assert not submitted(database, bundle, patients=2, captures=3).created


def test_names_that_are_not_utf8_are_kept_apart(database: Engine, bundle: Bundle) -> None:
    files = [FoundCapture(name + b"/a.jpg", name, 1, 1) for name in (b"M\xfcller", b"M\xc3\xbcller", rb"M\xfcller")]
    submission = submit(database, request(bundle, files))
    assert submission.plan.cases == 3
    with reading(database) as connection:
        patients = connection.execute(select(Patient.external_id)).scalars().all()
        assert sorted(patients) == sorted([r"M\xfcller", "Müller", r"M\\xfcller"])
        assert set(connection.execute(select(Capture.path)).scalars()) == {one.path for one in files}


def test_four_submits_at_once_make_one_run(database: Engine, bundle: Bundle) -> None:
    barrier = threading.Barrier(4)

    def one() -> None:
        barrier.wait()
        submitted(database, bundle, patients=10, captures=5)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database, Run) == 1
    assert count(database, Capture) == 50


def test_a_failure_in_the_middle_leaves_no_row(database: Engine, bundle: Bundle) -> None:
    twice = found("P1", "a.jpg", "a.jpg")  # breaks the unique key of captures, after run and cases are written
    try:
        submit(database, request(bundle, twice))
    except Exception as error:
        assert "unique" in str(error).lower()  # noqa: PT017 - the driver's own class differs
    for model in (Run, Case, Capture, Chunk, Patient, Event):
        assert count(database, model) == 0


def test_chunks_that_were_never_published_are_swept_up(database: Engine, bundle: Bundle) -> None:
    submission = submitted(database, bundle, patients=2, captures=4)
    assert sweep(database, waiting_messages=0, republish_seconds=60) == submission.chunk_ids
    assert sweep(database, waiting_messages=2, republish_seconds=60) == []
