"""Finishing chunks: every capture once, every case exactly one result and one row in the reporting queue."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import Engine, func, select, text, update

from contract.bundle import Bundle
from contract.errors import DatabaseUnavailable
from contract.states import CaptureState
from db import engine as db_engine
from db import schema
from db.aggregation import ToJudge, case_counts, case_results
from db.engine import reading, writing
from db.fsck import fsck
from db.lease import Lease
from db.mix_ups import one_at_a_time
from db.models import Capture, Case, Event, ReportQueue
from db.progress import progress, run_summaries
from db.results import finish_chunk
from db.run_report import CONFLICTS_OF_A_CASE, CaseRow, read_run
from db.submission import submit
from tests.support.commands import REPOSITORY
from tests.support.runs import claimed, digest, found, outcome, request, submitted


def test_the_last_chunk_of_a_case_writes_its_result(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=1, captures=6, chunk_size=4)
    first, last = run.chunk_ids
    lease = claimed(database, first)
    finish_chunk(database, lease, outcome(lease, 0.8))
    assert read_run(database, run.run_id or 0).cases[0].verdict is None
    lease = claimed(database, last)
    finish_chunk(database, lease, outcome(lease, 0.5, rejected=1))
    (case,) = read_run(database, run.run_id or 0).cases
    assert case.score == pytest.approx((4 * 0.8 + 0.5) / 5)
    assert (case.verdict, case.subtype, case.screened, case.rejected) == ("all", "Pro", 5, 1)
    assert codes(case) == ["score_high", "incomplete"]
    assert progress(database, run.run_id or 0).accounted_for


def test_an_outcome_that_forgets_a_capture_is_never_written(database: Engine, bundle: Bundle) -> None:
    (chunk_id,) = submitted(database, bundle, 1, 3).chunk_ids
    lease = claimed(database, chunk_id)
    whole = outcome(lease)
    whole.screened.pop()
    with pytest.raises(AssertionError, match="2 outcomes for 3"):
        finish_chunk(database, lease, whole)
    with reading(database) as connection:
        assert set(connection.execute(select(Capture.state)).scalars()) == {CaptureState.PENDING}


def test_two_workers_finishing_the_last_two_chunks_of_cases_at_once_aggregate_each_once(
    database: Engine, bundle: Bundle
) -> None:
    patients = 30 if database.dialect.name == "sqlite" else 100
    run = submitted(database, bundle, patients=patients, captures=2, chunk_size=1)
    leases = [claimed(database, chunk_id) for chunk_id in run.chunk_ids]
    barrier = threading.Barrier(2)

    def work(mine: int) -> None:
        for pair in range(patients):
            lease = leases[2 * pair + mine]
            barrier.wait()
            finish_chunk(database, lease, outcome(lease))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(database) as connection:
        assert connection.execute(select(func.count()).where(Case.state == "aggregated")).scalar() == patients
        queued = connection.execute(select(ReportQueue.case_id)).scalars().all()
        assert len(queued) == len(set(queued)) == patients


# The same capture under two patients


@dataclass(frozen=True)
class MixedUp:
    """A run of as many patients as wanted, of whom `first` and `second` have one capture in common."""

    run_id: int
    leases: list[Lease]

    @classmethod
    def submit(cls, database: Engine, bundle: Bundle, patients: int = 2) -> "MixedUp":
        run = submitted(database, bundle, patients=patients, captures=3, chunk_size=3)
        return cls(run.run_id or 0, [claimed(database, chunk_id) for chunk_id in run.chunk_ids])

    def finish(self, database: Engine, patient: int, *, shares: int | None = None) -> None:
        """Finish the patient's only chunk; its last capture is the last one of patient `shares`."""
        lease = self.leases[patient]
        ended = outcome(lease)
        if shares is not None:
            same = digest(self.leases[shares].captures[-1].path)
            ended.screened[-1] = replace(ended.screened[-1], sha256=same)
        finish_chunk(database, lease, ended)


def codes(case: CaseRow) -> list[str]:
    return [reason.code for reason in case.reasons]


def test_a_capture_under_two_patients_is_noted_at_both_cases_before_all_else(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle, patients=3)
    run.finish(database, 0)
    run.finish(database, 1)
    assert [codes(case) for case in read_run(database, run.run_id).cases if case.reasons] == [["score_high"]] * 2
    run.finish(database, 2, shares=0)
    cases = {case.patient: case for case in read_run(database, run.run_id).cases}
    assert codes(cases["P000"]) == codes(cases["P002"]) == ["identity_conflict", "score_high"]
    assert codes(cases["P001"]) == ["score_high"]
    assert [case.patient for case in read_run(database, run.run_id).cases] == ["P000", "P002", "P001"]
    assert all(finding.holds for finding in fsck(database, run.run_id, grace_s=0))
    pairs = [(one.patient, one.path, one.other_patient, one.other_path)
             for one in read_run(database, run.run_id).identity_conflicts]  # fmt: skip
    assert pairs == [
        ("P000", "P000/002.jpg", "P002", "P002/002.jpg"), ("P002", "P002/002.jpg", "P000", "P000/002.jpg"),
    ]  # fmt: skip


def test_one_picture_under_many_patients_is_reported_within_bounds(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle, patients=12)
    for patient in range(12):
        run.finish(database, patient, shares=0)
    assert len(read_run(database, run.run_id).identity_conflicts) == 12 * CONFLICTS_OF_A_CASE
    assert all(finding.holds for finding in fsck(database, run.run_id, grace_s=0))


def test_who_took_the_first_result_gets_a_row_that_replaces_it(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle)
    run.finish(database, 0)
    run.finish(database, 1, shares=0)
    first, second = (lease.captures[0].id for lease in run.leases)
    with reading(database) as connection:
        case_of = dict(connection.execute(select(Capture.id, Capture.case_id)).all())
        queued = connection.execute(
            select(ReportQueue.case_id, ReportQueue.cause, ReportQueue.replaces_id).order_by(ReportQueue.id)
        ).all()
        event = connection.execute(select(Event.case_id).where(Event.kind == "identity_conflict")).scalars().all()
    assert sorted(queued, key=lambda row: (row.case_id, row.cause == "recomputed")) == [
        (case_of[first], "screened", None), (case_of[first], "recomputed", 1), (case_of[second], "screened", None),
    ]  # fmt: skip
    assert event == [case_of[first]]


def test_a_third_patient_with_the_capture_corrects_nobody_again(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle, patients=3)
    for patient in range(3):
        run.finish(database, patient, shares=0)
    assert [codes(case)[0] for case in read_run(database, run.run_id).cases] == ["identity_conflict"] * 3
    with reading(database) as connection:
        assert connection.execute(select(func.count()).select_from(ReportQueue)).scalar() == 4


def test_rejected_captures_are_no_conflict_however_much_alike(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle)
    for patient in range(2):
        lease = run.leases[patient]
        ended = outcome(lease, rejected=1)
        ended.rejected[0] = replace(ended.rejected[0], sha256=digest(b"an empty file"))
        finish_chunk(database, lease, ended)
    assert not any(case.identity_conflict for case in read_run(database, run.run_id).cases)


def test_a_capture_twice_under_one_patient_is_no_conflict_and_counts_once(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle)
    lease = run.leases[0]
    ended = outcome(lease)
    ended.screened[0] = replace(ended.screened[0], sha256=ended.screened[1].sha256)
    finish_chunk(database, lease, ended)
    run.finish(database, 1)
    cases = {case.patient: case for case in read_run(database, run.run_id).cases}
    assert not any(case.identity_conflict for case in cases.values())
    assert (codes(cases["P000"]), codes(cases["P001"])) == (["score_high", "duplicates"], ["score_high"])
    assert all(finding.holds for finding in fsck(database, run.run_id, grace_s=0))


def test_a_patient_of_an_earlier_run_of_the_archive_is_the_other_side_too(database: Engine, bundle: Bundle) -> None:
    earlier = MixedUp.submit(database, bundle, patients=1)
    earlier.finish(database, 0)
    files = found("P-new", "000.jpg", "001.jpg", "002.jpg")
    old = found("P000", "000.jpg", "001.jpg", "002.jpg")
    later = submit(database, request(bundle, [*files, *old]))
    lease = claimed(database, later.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[0] = replace(ended.screened[0], sha256=digest(b"P000/001.jpg"))
    finish_chunk(database, lease, ended)
    (before,), (now,) = read_run(database, earlier.run_id).cases, read_run(database, later.run_id or 0).cases
    assert codes(before) == codes(now) == ["identity_conflict", "score_high"]


def test_a_patient_of_another_archive_is_the_other_side_too(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle, patients=1)
    run.finish(database, 0)
    other = submit(database, request(bundle, found("other", "0.jpg", "1.jpg", "2.jpg"), root=b"/b"))
    lease = claimed(database, other.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[0] = replace(ended.screened[0], sha256=digest(b"P000/001.jpg"))
    finish_chunk(database, lease, ended)
    (before,), (now,) = read_run(database, run.run_id).cases, read_run(database, other.run_id or 0).cases
    assert codes(before) == codes(now) == ["identity_conflict", "score_high"]
    (pair,) = read_run(database, other.run_id or 0).identity_conflicts
    assert (pair.patient, pair.archive, pair.other_patient, pair.other_archive) == ("other", "/b", "P000", "/a")
    assert pair.other_named == "P000 (/a)"
    for one in (run.run_id, other.run_id or 0):
        assert all(finding.holds for finding in fsck(database, one, grace_s=0))


def test_two_workers_that_write_it_at_the_same_instant_both_learn_of_it(database: Engine, bundle: Bundle) -> None:
    pairs = 20
    run = MixedUp.submit(database, bundle, patients=2 * pairs)
    barrier = threading.Barrier(2)

    def work(mine: int) -> None:
        for pair in range(pairs):
            barrier.wait()
            run.finish(database, 2 * pair + mine, shares=2 * pair)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [codes(case)[0] for case in read_run(database, run.run_id).cases] == ["identity_conflict"] * 2 * pairs
    assert all(finding.holds for finding in fsck(database, run.run_id, grace_s=0))


def test_a_worker_that_stands_still_within_its_write_holds_up_nobody(
    postgres_url: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, or cut off from the database, with the right to finish cases and the locks of its own."""
    monkeypatch.setattr(db_engine, "FROZEN_S", 1)
    frozen, database = db_engine.open_engine(postgres_url), db_engine.open_engine(postgres_url)
    schema.upgrade(database)
    run = MixedUp.submit(database, bundle)
    with pytest.raises(DatabaseUnavailable, match="idle-in"), writing(frozen) as connection:  # noqa: PT012 - the last
        one_at_a_time(connection)
        run.finish(database, 0)
        connection.execute(select(Case.id))
    assert [case.verdict for case in read_run(database, run.run_id).cases] == ["all", None]


STOPPED_WITHIN_ITS_ROWS = """
import sys
from sqlalchemy import text
from db import engine
engine.FROZEN_S = 1
rows = [{"name": str(number)} for number in range(200_000)]
with engine.writing(engine.open_engine(sys.argv[1])) as connection:
    connection.execute(text("UPDATE bundle SET name = 'one'"))
    print("begun", flush=True)
    connection.execute(text("UPDATE bundle SET name = :name"), rows)
"""


def test_a_worker_that_is_stopped_while_it_writes_many_rows_holds_up_nobody(postgres_url: str, bundle: Bundle) -> None:
    """Were they all sent at once, the server would wait for the rest of them, and for ever."""
    database = db_engine.open_engine(postgres_url)
    schema.upgrade(database)
    submitted(database, bundle, 1, 1)
    command = [sys.executable, "-c", STOPPED_WITHIN_ITS_ROWS, postgres_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(1)
            process.send_signal(signal.SIGSTOP)
            with writing(database) as connection:
                connection.execute(text("SET LOCAL lock_timeout = '30s'"))
                connection.execute(text("UPDATE bundle SET name = 'other'"))
        finally:
            process.kill()
    database.dispose()


def test_who_only_reads_may_think_as_long_as_it_likes(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db_engine, "FROZEN_S", 1)
    database = db_engine.open_engine(postgres_url)
    schema.upgrade(database)
    with reading(database) as connection:
        before = connection.execute(select(func.count()).select_from(Case)).scalar()
        time.sleep(1.5)
        assert connection.execute(select(func.count()).select_from(Case)).scalar() == before


def test_fsck_finds_a_conflict_that_a_case_does_not_name(database: Engine, bundle: Bundle) -> None:
    run = MixedUp.submit(database, bundle)
    for patient in range(2):
        run.finish(database, patient, shares=0)
    with writing(database) as connection:
        connection.execute(update(Case).values(identity_conflict=False))
    broken = [finding for finding in fsck(database, run.run_id, grace_s=0) if not finding.holds]
    assert [(finding.broken, finding.checked) for finding in broken] == [(2, 2)]
    assert "two patients" in broken[0].invariant


def test_a_result_is_recomputed_from_its_rows_to_the_same_figures(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=2, captures=5, chunk_size=3)
    for number, chunk_id in enumerate(run.chunk_ids):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, 0.13 + number / 7, rejected=number % 2))
    for case in read_run(database, run.run_id or 0).cases:
        with reading(database) as connection:
            to_judge = [ToJudge(case.case_id, case.submitted, bundle.manifest)]
            (again,) = case_results(connection, to_judge, case_counts(connection, to_judge))
        assert (again.score, again.score_low, again.score_high) == (
            case.score,
            case.score_low,
            case.score_high,
        )
        assert (again.verdict, again.subtype, again.priority) == (case.verdict, case.subtype, case.priority)


def test_the_summary_and_the_rejections_say_what_happened(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=1, captures=4)
    lease = claimed(database, run.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease, rejected=2))
    (summary,) = run_summaries(database)
    counted = ("submitted", "screened", "rejected", "quarantined", "pending", "cases", "cases_finished", "cases_all")
    assert [getattr(summary, name) for name in counted] == [4, 2, 2, 0, 0, 1, 1, 1]
    assert summary.finished_at.tzinfo is not None
    bad = read_run(database, run.run_id or 0).ended_badly
    assert [(one.path, one.reject_code) for one in bad] == [
        ("P000/000.jpg", "truncated"), ("P000/001.jpg", "truncated"),
    ]  # fmt: skip
