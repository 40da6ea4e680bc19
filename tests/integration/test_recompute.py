"""Results computed again: what would change is shown, and written only where that is asked for."""

import json

import pytest
from sqlalchemy import Engine, select

from contract.bundle import Bundle
from contract.case_policy import CasePolicy
from contract.errors import NoSuchRun
from contract.states import ReviewAction
from db.engine import reading
from db.fsck import fsck
from db.models import Case, Event, ReportQueue
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.review import Reviewer, act
from db.run_report import read_run
from producer.formats import load_formats
from producer.formats.fhir import fhir_bundle
from tests.support.runs import claimed, outcome, submitted


@pytest.fixture
def run(database: Engine, bundle: Bundle) -> int:
    """Three patients whose captures have P(ALL) 0.1, 0.5 and 0.9; the bundle's thresholds are 0.4 and 0.6."""
    found = submitted(database, bundle, patients=3, captures=4, chunk_size=4)
    for chunk_id, p_all in zip(found.chunk_ids, (0.1, 0.5, 0.9), strict=True):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all))
    return found.run_id or 0


def verdicts(database: Engine, run: int) -> dict[str, str]:
    return {case.patient: case.verdict for case in read_run(database, run).cases}


def changed(database: Engine, run: int, **other: object) -> CasePolicy:
    return CasePolicy.model_validate({**bundle_policy(database, run).model_dump(), **other})


def test_by_the_bundles_own_rule_nothing_changes(database: Engine, run: int) -> None:
    assert recompute(database, run, bundle_policy(database, run), apply=True, actor="me") == []


def test_what_would_change_is_shown_and_not_written(database: Engine, run: int) -> None:
    policy = changed(database, run, all_at_least=0.45)
    (change,) = recompute(database, run, policy, apply=False, actor="me")
    assert (change.patient, change.before.verdict, change.after.verdict) == ("P001", "indeterminate", "all")
    assert verdicts(database, run) == {"P000": "benign", "P001": "indeterminate", "P002": "all"}
    with reading(database) as connection:
        assert connection.execute(select(ReportQueue.cause).distinct()).scalars().all() == ["screened"]


def test_applied_it_is_written_corrected_and_kept_in_the_audit(database: Engine, run: int) -> None:
    policy = changed(database, run, rule="positive_share", positive_from=0.05, all_at_least=0.9)
    assert len(recompute(database, run, policy, apply=True, actor="me")) == 3
    assert set(verdicts(database, run).values()) == {"all"}
    with reading(database) as connection:
        rules = connection.execute(select(Case.case_rule, Case.case_policy)).all()
        assert {row.case_rule for row in rules} == {"positive_share/1"}
        assert all(CasePolicy.model_validate(row.case_policy) == policy for row in rules)
        causes = connection.execute(select(ReportQueue.cause).order_by(ReportQueue.id)).scalars().all()
        assert causes == ["screened"] * 3 + ["recomputed"] * 3
        (event,) = connection.execute(select(Event).where(Event.kind == "recomputed")).all()
    assert event.actor == "me"
    assert sorted(one["verdict"] for one in event.detail["results_before"].values()) == [
        "all",
        "benign",
        "indeterminate",
    ]
    assert all(finding.holds for finding in fsck(database, run, grace_s=0)), "by the policy that each case names"
    recompute(database, run, bundle_policy(database, run), apply=True, actor="me")
    assert verdicts(database, run) == {"P000": "benign", "P001": "indeterminate", "P002": "all"}
    with reading(database) as connection:
        assert connection.execute(select(Case.case_policy)).scalars().all() == [None] * 3


def test_every_format_shows_the_thresholds_that_each_result_is_by(database: Engine, run: int) -> None:
    """After a recompute they are the case's own: a reference range that contradicts the conclusion misleads."""
    policy = changed(database, run, all_at_least=0.95)
    recompute(database, run, policy, apply=True, actor="me")
    report = read_run(database, run)
    assert {case.policy for case in report.cases} == {policy}
    assert report.manifest.case_policy == bundle_policy(database, run) != policy
    resources = [entry["resource"] for entry in json.loads(fhir_bundle(report, report.run.created_at))["entry"]]
    ranges = [one["referenceRange"] for one in resources if "referenceRange" in one]
    assert [float(low["low"]["value"]) for _, low in ranges] == [0.95] * 3
    page = load_formats()["html"].render(report, None)
    assert page.count('<rect x="123.5" y="2" width="1" height="12" fill="#a6123b"/>') == 3
    assert "Recomputed with" in page
    rows = json.loads(load_formats()["json"].render(report, None))["cases"]
    assert {row["all_at_least"] for row in rows} == {0.95}


def test_what_a_reviewer_has_signed_stays_as_she_saw_it(database: Engine, run: int) -> None:
    signed = {case.patient: case.case_id for case in read_run(database, run).cases}["P001"]
    act(database, signed, ReviewAction.CONFIRM, Reviewer("she", "test"))
    (change,) = recompute(database, run, changed(database, run, all_at_least=0.45), apply=True, actor="me")
    assert (change.case_id, change.signed) == (signed, True)
    assert verdicts(database, run)["P001"] == "indeterminate"


def test_there_must_be_such_a_run(database: Engine) -> None:
    with pytest.raises(NoSuchRun, match="screen status"):
        bundle_policy(database, 7)
