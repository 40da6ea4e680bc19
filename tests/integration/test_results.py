"""Finishing chunks: every capture once, every case exactly one result and one row in the reporting queue."""

import threading

import pytest
from sqlalchemy import Engine, func, select

from contract.bundle import Bundle
from contract.states import CaptureState
from db.engine import reading
from db.models import Capture, Case, ReportQueue
from db.queries import case_results, ended_badly, progress, run_summaries
from db.results import case_counts, case_result, finish_chunk
from tests.support.runs import claimed, outcome, submitted


def test_the_last_chunk_of_a_case_writes_its_result(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=1, captures=6, chunk_size=4)
    first, last = run.chunk_ids
    lease = claimed(database, first)
    finish_chunk(database, lease, outcome(lease, 0.8))
    assert case_results(database, run.run_id or 0)[0]["verdict"] is None
    lease = claimed(database, last)
    finish_chunk(database, lease, outcome(lease, 0.5, rejected=1))
    (case,) = case_results(database, run.run_id or 0)
    assert case["score"] == pytest.approx((4 * 0.8 + 0.5) / 5)
    assert (case["verdict"], case["subtype"], case["screened"], case["rejected"]) == ("all", "Pro", 5, 1)
    assert [reason["code"] for reason in case["reasons"]] == ["score_high", "incomplete"]
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


def test_a_result_is_recomputed_from_its_rows_to_the_same_figures(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=2, captures=5, chunk_size=3)
    for number, chunk_id in enumerate(run.chunk_ids):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, 0.13 + number / 7, rejected=number % 2))
    for case in case_results(database, run.run_id or 0):
        with reading(database) as connection:
            counts = case_counts(connection, case["case_id"], case["submitted"])
            again = case_result(connection, case["case_id"], counts, bundle.manifest)
        assert (again.score, again.score_low, again.score_high) == (
            case["score"],
            case["score_low"],
            case["score_high"],
        )
        assert (again.verdict, again.subtype, again.priority) == (case["verdict"], case["subtype"], case["priority"])


def test_the_summary_and_the_rejections_say_what_happened(database: Engine, bundle: Bundle) -> None:
    run = submitted(database, bundle, patients=1, captures=4)
    lease = claimed(database, run.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease, rejected=2))
    (summary,) = run_summaries(database)
    counted = ("submitted", "screened", "rejected", "quarantined", "pending", "cases", "cases_finished", "cases_all")
    assert [summary[name] for name in counted] == [4, 2, 2, 0, 0, 1, 1, 1]
    assert summary["finished_at"].tzinfo is not None
    bad = ended_badly(database, run.run_id or 0)
    assert [(one["path"], one["reject_code"]) for one in bad] == [
        ("P000/000.jpg", "truncated"), ("P000/001.jpg", "truncated"),
    ]  # fmt: skip
