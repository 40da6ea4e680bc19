"""Each patient ends as a case, unchanged, or named as without captures; and no result outlives its captures."""

import csv
import io
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update

from contract.archive import MAX_PATH_BYTES, FoundCapture
from contract.bundle import Bundle
from contract.errors import UsageError
from contract.names import display_name
from contract.states import NoCaptures, RejectCode, ReviewAction, Verdict
from db.clock import db_now
from db.control import cancel
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Capture, Patient, PatientWithoutCaptures, ReportQueue, Run
from db.progress import progress
from db.purge import purge
from db.recompute import bundle_policy, recompute
from db.results import finish_chunk
from db.review import Reviewer, act
from db.review_queries import case_details, review_list
from db.run_report import CaseRow, read_run
from db.submission import Submission, plan_submit, submit
from db.submit_plan import SubmitRequest
from producer.formats import load_formats
from tests.support.bundles import colour_bundle
from tests.support.runs import claimed, found, outcome, request, without

FILES = found("P1", "a.jpg", "b.jpg", "c.jpg") + found("P2", "a.jpg", "b.jpg")
P2 = FILES[3:]
ANNA = Reviewer("anna", "1.2.3")


def screened(database: Engine, wanted: SubmitRequest, p_all: float = 0.9) -> Submission:
    """Submit, and screen what there is to screen."""
    submission = submit(database, wanted)
    for chunk_id in submission.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all))
    if submission.run_id is not None:
        assert [f.invariant for f in fsck(database, submission.run_id, grace_s=0) if not f.holds] == []
    return submission


def cases_of(database: Engine, submission: Submission) -> dict[str, CaseRow]:
    return {case.patient: case for case in read_run(database, submission.run_id or 0).cases}


def sum_of_patients(database: Engine, submission: Submission) -> str:
    return str(progress(database, submission.run_id or 0).patients_accounting)


def rows(database: Engine, model: Any) -> int:
    with reading(database) as connection:
        return connection.execute(select(func.count()).select_from(model)).scalar_one()


# Who never had any


def test_a_patient_without_captures_is_named_and_counted(database: Engine, bundle: Bundle) -> None:
    absent = [without("P8"), without("P9", NoCaptures.NO_CAPTURE_FILES)]
    first = screened(database, request(bundle, FILES, absent=absent))
    report = read_run(database, first.run_id or 0)
    assert [(one.patient, one.code, one.case_id, one.sentence) for one in report.without_captures] == [
        ("P8", "empty", None, "its folder is empty"),
        ("P9", "no_capture_files", None, "its folder is no_capture_files"),
    ]
    assert {case.patient for case in report.cases} == {"P1", "P2"}
    assert sum_of_patients(database, first) == "patients 4 = in this run 2 + unchanged 0 + without captures 2"
    assert (report.run.patients, report.run.patients_without_captures, report.run.patient_depth) == (4, 2, 1)
    assert not report.ended_well
    assert read_run(database, screened(database, request(bundle, FILES, root=b"/b")).run_id or 0).ended_well


def test_the_same_patients_without_captures_make_no_second_run(database: Engine, bundle: Bundle) -> None:
    first = screened(database, request(bundle, FILES, absent=[without("P9")]))
    again = screened(database, request(bundle, FILES, absent=[without("P9")]))
    assert (again.created, again.run_id) == (False, first.run_id)
    assert [patient.patient for patient in again.plan.absent] == ["P9"], "who submits must hear of it again"
    assert not screened(database, request(bundle, FILES)).created, "a folder that held nothing and was removed"


@pytest.mark.parametrize("absent", [without("P8"), without("P9", NoCaptures.NOT_READABLE)])
def test_a_patient_newly_without_captures_makes_a_run_that_is_finished(
    database: Engine, bundle: Bundle, absent: Any
) -> None:
    screened(database, request(bundle, FILES, absent=[without("P9")]))
    plan = plan_submit(database, request(bundle, FILES, absent=[absent]))
    assert (plan.writes_a_run, plan.cases) == (True, 0)
    second = screened(database, request(bundle, FILES, absent=[absent]))
    assert second.created
    report = read_run(database, second.run_id or 0)
    assert (report.cases, report.run.submitted, report.run.finished_at is not None) == ((), 0, True)
    assert sum_of_patients(database, second) == "patients 3 = in this run 0 + unchanged 2 + without captures 1"


def test_every_run_names_all_patients_without_captures(database: Engine, bundle: Bundle) -> None:
    screened(database, request(bundle, FILES, absent=[without("P9")]))
    more = screened(database, request(bundle, FILES + found("P3", "a.jpg"), absent=[without("P9")]))
    assert [one.patient for one in read_run(database, more.run_id or 0).without_captures] == ["P9"]
    assert sum_of_patients(database, more) == "patients 4 = in this run 1 + unchanged 2 + without captures 1"


# Who had some


@pytest.mark.parametrize(
    ("absent", "why"), [((), "no folder of it is among"), ((without("P1"),), "its folder is empty")]
)
def test_who_lost_all_captures_gets_a_new_result_that_withdraws_the_one_before(
    database: Engine, bundle: Bundle, absent: Any, why: str
) -> None:
    first = screened(database, request(bundle, FILES, absent=[]))
    before = cases_of(database, first)["P1"]
    assert before.verdict is Verdict.ALL
    second = screened(database, request(bundle, P2, absent=absent))
    assert (second.plan.cases, second.plan.pending, second.chunk_ids) == (1, 0, [])
    case = cases_of(database, second)["P1"]
    assert (case.verdict, case.score, case.submitted, case.screened) == (Verdict.INSUFFICIENT, None, 0, 0)
    codes, sentences = zip(*((reason.code, reason.sentence) for reason in case.reasons), strict=True)
    assert codes == ("no_captures", "result_before")
    assert sentences[0].startswith(f"no captures are left: {why}")
    assert sentences[1] == f"the result before, in run {first.run_id}, was ALL, Pro, reviewed by nobody"
    assert case.priority == before.priority, "not less urgent than what nobody has signed"
    (named,) = read_run(database, second.run_id or 0).without_captures
    assert (named.patient, named.case_id, named.earlier_case_id) == ("P1", case.case_id, before.case_id)
    assert named.sentence.endswith(f"its result in run {first.run_id} (ALL, Pro) is withdrawn by case {case.case_id}")
    assert sum_of_patients(database, second) == "patients 2 = in this run 0 + unchanged 1 + without captures 1"
    assert not read_run(database, second.run_id or 0).ended_well
    third = screened(database, request(bundle, P2, absent=absent))
    assert third.run_id == second.run_id, "it is withdrawn once"


def test_the_new_result_reaches_reviewers_and_other_systems(database: Engine, bundle: Bundle) -> None:
    screened(database, request(bundle, FILES))
    second = screened(database, request(bundle, P2))
    case_id = cases_of(database, second)["P1"].case_id
    waiting, _ = review_list(database, run_id=second.run_id)
    assert [row.case_id for row in waiting] == [case_id]
    assert not case_details(database, case_id, captures=3).top_captures
    with reading(database) as connection:
        queued = connection.execute(select(ReportQueue.cause).where(ReportQueue.case_id == case_id)).scalars().all()
    assert queued == ["superseded"]


def test_a_result_that_reviewers_signed_is_named_as_theirs_and_adds_no_urgency(
    database: Engine, bundle: Bundle
) -> None:
    first = screened(database, request(bundle, FILES))
    act(database, cases_of(database, first)["P1"].case_id, ReviewAction.CONFIRM, ANNA)
    case = cases_of(database, screened(database, request(bundle, P2)))["P1"]
    assert (
        case.reasons[1].sentence
        == f"the result before, in run {first.run_id}, was ALL, Pro, signed off by the reviewers"
    )
    assert case.priority == 3.0


def test_a_case_that_was_still_open_is_withdrawn_too(database: Engine, bundle: Bundle) -> None:
    first = submit(database, request(bundle, FILES))
    case = cases_of(database, screened(database, request(bundle, P2)))["P1"]
    assert case.reasons[1].sentence == f"the result before, in run {first.run_id}, was still open"


def test_captures_that_come_back_give_a_result_again(database: Engine, bundle: Bundle) -> None:
    screened(database, request(bundle, FILES))
    screened(database, request(bundle, P2))
    back = screened(database, request(bundle, FILES))
    assert (back.plan.cases, back.plan.pending, back.plan.reused) == (1, 0, 3)
    assert cases_of(database, back)["P1"].verdict is Verdict.ALL
    assert not screened(database, request(bundle, FILES)).created


def test_with_another_bundle_no_result_outlives_its_captures_either(
    database: Engine, bundle: Bundle, tmp_path: Any
) -> None:
    screened(database, request(bundle, FILES))
    other = colour_bundle(tmp_path / "other.bundle", name="other")
    second = screened(database, request(other, P2))
    assert cases_of(database, second)["P1"].verdict is Verdict.INSUFFICIENT
    back = screened(database, request(bundle, FILES))
    assert (back.plan.cases, back.plan.pending, cases_of(database, back)["P1"].verdict) == (1, 0, Verdict.ALL)


def test_what_cannot_be_read_keeps_its_result_and_says_so(database: Engine, bundle: Bundle) -> None:
    first = screened(database, request(bundle, FILES))
    second = screened(database, request(bundle, P2, absent=[without("P1", NoCaptures.NOT_READABLE)]))
    assert cases_of(database, second) == {}
    (named,) = read_run(database, second.run_id or 0).without_captures
    assert (named.case_id, named.earlier_run_id) == (None, first.run_id)
    assert named.sentence.endswith(f"its result in run {first.run_id} (ALL, Pro) stays as it is")


def test_nobody_is_gone_below_a_folder_that_could_not_be_listed(database: Engine, bundle: Bundle) -> None:
    screened(database, request(bundle, FILES))
    absent = [without("2026-11", NoCaptures.NOT_READABLE)]
    second = screened(database, request(bundle, P2, absent=absent, patients_complete=False))
    assert [one.patient for one in read_run(database, second.run_id or 0).without_captures] == ["2026-11"]
    assert cases_of(database, second) == {}


def test_patients_of_other_archives_and_of_cancelled_runs_are_not_gone(database: Engine, bundle: Bundle) -> None:
    screened(database, request(bundle, FILES, root=b"/elsewhere"))
    cancel(database, screened(database, request(bundle, FILES)).run_id or 0, actor="test")
    assert cases_of(database, screened(database, request(bundle, P2))).keys() == {"P2"}


def test_a_mix_up_ends_when_the_whole_patient_was_a_mistake(database: Engine, bundle: Bundle) -> None:
    first = submit(database, request(bundle, FILES, chunk_size=9))
    lease = claimed(database, first.chunk_ids[0])
    ended = outcome(lease)
    ended.screened[0] = replace(ended.screened[0], sha256=ended.screened[-1].sha256)
    finish_chunk(database, lease, ended)
    assert cases_of(database, first)["P2"].identity_conflict
    second = screened(database, request(bundle, P2))
    assert not cases_of(database, first)["P2"].identity_conflict
    assert read_run(database, second.run_id or 0).identity_conflicts == ()
    case = cases_of(database, second)["P1"]
    assert case.priority is not None
    assert 6 < case.priority < 8


def test_recomputing_leaves_a_withdrawal_as_it_is(database: Engine, bundle: Bundle) -> None:
    first = screened(database, request(bundle, FILES))
    act(database, cases_of(database, first)["P1"].case_id, ReviewAction.CONFIRM, ANNA)
    second = screened(database, request(bundle, P2))
    policy = bundle_policy(database, second.run_id or 0).model_copy(update={"min_captures": 9})
    assert recompute(database, second.run_id or 0, policy, apply=True, actor="test") == []
    assert len(cases_of(database, second)["P1"].reasons) == 2


def test_who_has_no_captures_is_purged_with_the_run(database: Engine, bundle: Bundle) -> None:
    first = screened(database, request(bundle, FILES, absent=[without("P9")]))
    second = screened(database, request(bundle, P2, absent=[without("P9")]))
    with writing(database) as connection:
        connection.execute(update(Run).where(Run.id == first.run_id).values(created_at=db_now(-86_400 * 800)))
    purge(database, first.run_id or 0, 700, force=True, actor="test")
    with reading(database) as connection:
        left = connection.execute(select(Patient.external_id).order_by(Patient.external_id)).scalars().all()
    assert left == ["P1", "P9"], "the second run names both"
    named = {one.patient: one for one in read_run(database, second.run_id or 0).without_captures}
    assert named["P1"].earlier_run_id is None
    assert [finding.invariant for finding in fsck(database, second.run_id or 0, grace_s=0) if not finding.holds] == []
    with writing(database) as connection:
        connection.execute(update(Run).values(created_at=db_now(-86_400 * 800)))
    purge(database, second.run_id or 0, 700, force=True, actor="test")
    assert (rows(database, Patient), rows(database, PatientWithoutCaptures)) == (0, 0)


# What counts as the same


def test_a_submit_from_a_mount_that_rounds_times_changes_nothing(database: Engine, bundle: Bundle) -> None:
    exact = found("P1", "a.jpg", "b.jpg", modified=1_700_000_001_123_456_789)
    rounded = found("P1", "a.jpg", "b.jpg", modified=1_700_000_001_000_000_000)
    screened(database, request(bundle, exact))
    assert not screened(database, request(bundle, rounded)).created
    changed = [*rounded[:1], *found("P1", "b.jpg", modified=1_700_000_001_000_000_000, size=101)]
    assert screened(database, request(bundle, changed)).plan.pending == 1


def test_what_the_latest_case_lacked_is_tried_again_although_an_earlier_case_had_it(
    database: Engine, bundle: Bundle
) -> None:
    screened(database, request(bundle, FILES))
    second = screened(database, request(bundle, FILES, everything=True))
    with writing(database) as connection:
        connection.execute(
            update(Capture)
            .where(Capture.run_id == second.run_id, Capture.path == FILES[0].path)
            .values(state="rejected", reject_code=RejectCode.MISSING, probabilities=None)
        )
    third = submit(database, request(bundle, FILES))
    assert (third.plan.cases, third.plan.pending, third.plan.reused) == (1, 0, 3)


# What the database takes


def test_the_longest_paths_and_names_and_the_latest_times_are_stored(database: Engine, bundle: Bundle) -> None:
    """The walk lets no longer ones through. Random bytes: PostgreSQL compresses others."""
    dice = random.Random(4)
    letters = bytes(byte for byte in range(1, 256) if byte not in b"/\\")
    longest = bytes(dice.choices(letters, k=MAX_PATH_BYTES + 22))
    name = "".join(dice.choices([chr(code) for code in range(0xA1, 0x17F)], k=MAX_PATH_BYTES // 2)).encode()
    files = [
        FoundCapture(longest, b"P1", 1, 2**63 - 1),
        FoundCapture(name + b"/a.jpg", name, 2**62, -(2**63)),
    ]
    run = screened(database, request(bundle, files, absent=[without("P\n\x1b[2J"), without("\u200b")]))
    assert set(cases_of(database, run)) == {"P1", display_name(name)}
    with reading(database) as connection:
        stored = connection.execute(select(Capture.path, Capture.modified_ns)).all()
    assert {(bytes(row.path), row.modified_ns) for row in stored} == {(one.path, one.modified_ns) for one in files}
    assert not screened(database, request(bundle, files, absent=[without("P\n\x1b[2J"), without("\u200b")])).created


# The depth of the patients

DEEP = found("2026-11-23/P1", "a.jpg", "b.jpg")


def test_the_depth_is_stored_and_another_one_is_refused(database: Engine, bundle: Bundle) -> None:
    flat = [replace(capture, patient=b"2026-11-23") for capture in DEEP]
    first = screened(database, request(bundle, flat))
    for submitting in (submit, plan_submit):
        with pytest.raises(UsageError, match=f"run {first.run_id} of this archive .* --patient-depth 1, or first"):
            submitting(database, request(bundle, DEEP, patient_depth=2))
    assert rows(database, Run) == 1
    cancel(database, first.run_id or 0, actor="test")
    second = screened(database, request(bundle, DEEP, patient_depth=2))
    assert read_run(database, second.run_id or 0).run.patient_depth == 2
    assert {name: case.identity_conflict for name, case in cases_of(database, second).items()} == {
        "2026-11-23/P1": False
    }
    with pytest.raises(UsageError, match="2 levels below it, this submit 1 level"):
        submit(database, request(bundle, flat))
    assert not screened(database, request(bundle, DEEP, patient_depth=2)).created


def test_captures_at_two_depths_are_no_mix_up_under_pseudonyms_either(database: Engine, bundle: Bundle) -> None:
    """A pseudonym replaces more of a deeper path, so the same capture has two paths."""
    first = screened(database, request(bundle, found("px-date", "P1/a.jpg")))
    cancel(database, first.run_id or 0, actor="test")
    second = submit(database, request(bundle, found("px-patient", "a.jpg"), patient_depth=2))
    lease = claimed(database, second.chunk_ids[0])
    ended = outcome(lease)
    with reading(database) as connection:
        digest = connection.execute(select(Capture.sha256).where(Capture.run_id == first.run_id)).scalar_one()
    ended.screened[0] = replace(ended.screened[0], sha256=str(digest))
    finish_chunk(database, lease, ended)
    assert [case.identity_conflict for case in cases_of(database, second).values()] == [False]


# In every format


@pytest.fixture
def texts(database: Engine, bundle: Bundle) -> dict[str, str]:
    """A run with a case, a withdrawn result, and a patient without any, in every format."""
    screened(database, request(bundle, FILES))
    second = screened(database, request(bundle, P2 + found("P3", "a.jpg"), absent=[without("P9")]))
    report = read_run(database, second.run_id or 0)
    return {name: file_format.render(report, None) for name, file_format in load_formats().items()}


def test_every_format_names_who_has_no_captures(texts: dict[str, str]) -> None:
    assert "patients 4 = in this run 1 + unchanged 1 + without captures 2" in texts["table"].replace("\n", " ")
    for name, text in texts.items():
        assert "P9" in text, name
        assert "its folder is empty" in text.replace("\n", " "), name
        assert "P1" in text, name


def test_csv_has_a_row_for_each_patient(texts: dict[str, str]) -> None:
    lines = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert {line["patient"]: (line["verdict"], line["submitted"]) for line in lines} == {
        "P1": ("insufficient", "0"), "P3": ("all", "1"), "P9": ("", "0"),
    }  # fmt: skip
    (empty,) = [line for line in lines if line["patient"] == "P9"]
    assert json.loads(empty["reasons"]) == [{"code": "empty", "sentence": "its folder is empty"}]
    assert empty["case_id"] == ""


def test_fhir_says_why_a_patient_has_no_report(texts: dict[str, str]) -> None:
    resources = [entry["resource"] for entry in json.loads(texts["fhir"])["entry"]]
    (issue,) = [resource for resource in resources if resource["resourceType"] == "DetectedIssue"]
    patients = {
        f"urn:uuid:{resource['id']}": resource["identifier"][0]["value"]
        for resource in resources
        if resource["resourceType"] == "Patient"
    }
    assert sorted(patients.values()) == ["P1", "P3", "P9"]
    assert patients[issue["patient"]["reference"]] == "P9"
    assert issue["detail"] == "Nothing of this patient was screened: its folder is empty."
    reported = [
        patients[resource["subject"]["reference"]]
        for resource in resources
        if resource["resourceType"] == "DiagnosticReport"
    ]
    assert sorted(reported) == ["P1", "P3"]
