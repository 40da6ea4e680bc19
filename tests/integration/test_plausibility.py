"""Whether a run as a whole can be believed, and that this is said before everything else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fhir.resources.R4B.bundle import Bundle as FhirBundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from contract.bundle import Bundle
from contract.errors import NoSuchRun
from contract.outcomes import ChunkOutcome, Mark
from contract.states import MarkCode, ReviewAction
from db.engine import open_engine
from db.lease import Lease
from db.models import Chunk
from db.plausibility import Implausibility, MarkShare, implausibility
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act
from db.run_report import read_run
from db.submission import submit
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.runs import claimed, found, outcome, request, states

NOVEL, BLURRED, EMPTY, PALE = MarkCode.NOVEL, MarkCode.OUT_OF_FOCUS, MarkCode.EMPTY_FIELD, MarkCode.PALE
EXCLUDING = (BLURRED, EMPTY, NOVEL)
Patient = Sequence[Sequence[MarkCode]]
"""The marks of each capture of a patient."""


def marked(lease: Lease, marks: Mapping[bytes, Sequence[MarkCode]]) -> ChunkOutcome:
    """All captures of a lease screened, each with the marks of its path."""
    plain = outcome(lease)
    screened = [
        replace(
            answer,
            marks=[Mark(code, f"it is {code}") for code in marks[capture.path]],
            excluded=any(code in EXCLUDING for code in marks[capture.path]),
        )
        for answer, capture in zip(plain.screened, lease.captures, strict=True)
    ]
    return replace(plain, screened=screened)


def run_of(database: Engine, bundle: Bundle, *patients: Patient, unfinished: int = 0, root: bytes = b"/a") -> int:
    """A run of these patients, screened but for the last `unfinished` chunks; a chunk is a patient's captures."""
    names = [[f"{number:03d}.jpg" for number in range(len(patient))] for patient in patients]
    captures = [one for place, files in enumerate(names) for one in found(f"P{place:03d}", *files)]
    marks = {
        f"P{place:03d}/{number:03d}.jpg".encode(): codes
        for place, patient in enumerate(patients)
        for number, codes in enumerate(patient)
    }
    size = max(map(len, patients))
    run = submit(database, request(bundle, captures, chunk_size=size, everything=True, root=root))
    assert run.run_id is not None
    for chunk_id in run.chunk_ids[: len(run.chunk_ids) - unfinished]:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, marked(lease, marks))
    return run.run_id


def test_a_run_of_captures_that_count_is_plausible(database: Engine, bundle: Bundle) -> None:
    run = run_of(database, bundle, [[], [PALE], []], [[PALE], [PALE], [PALE]])
    assert implausibility(database, run) is None


@pytest.mark.parametrize(
    ("patients", "implausible"),
    [
        ([[[NOVEL]]], True),
        ([[[NOVEL], [NOVEL], []]], True),
        ([[[NOVEL], []]], False),  # half of the captures is not more than half
        ([[[NOVEL], [NOVEL]], [[], []]], False),  # nor is half of the patients
        ([[[NOVEL], [NOVEL]], [[NOVEL], [NOVEL]], [[], []]], True),
        ([[[NOVEL], [BLURRED], [], [EMPTY]], [[BLURRED], [NOVEL], [], [EMPTY]]], True),  # whatever the reasons are
        ([[[NOVEL] for _ in range(100)], [[]], [[]]], False),  # patients are asked, however many captures they have
    ],
)
def test_more_than_half_of_the_captures_of_more_than_half_of_the_patients(
    database: Engine, bundle: Bundle, patients: Sequence[Patient], implausible: bool
) -> None:
    assert (implausibility(database, run_of(database, bundle, *patients)) is not None) is implausible


def test_the_figures_and_the_reason_of_most_patients(database: Engine, bundle: Bundle) -> None:
    run = run_of(
        database, bundle,
        [[NOVEL], [NOVEL, BLURRED], [NOVEL, PALE]], [[NOVEL], [NOVEL], []], [[EMPTY], [EMPTY], []], [[], [], [BLURRED]],
    )  # fmt: skip
    assert implausibility(database, run) == Implausibility(
        run, cases=4, affected=3, screened=9, excluded=7, so_far=False,
        marks=(MarkShare(NOVEL, 5, 2), MarkShare(EMPTY, 2, 1), MarkShare(BLURRED, 1, 0)),
    )  # fmt: skip


def test_patients_without_a_screened_capture_are_not_asked(database: Engine, bundle: Bundle) -> None:
    run = submit(database, request(bundle, [*found("P0", "0.jpg"), *found("P1", "0.jpg")], chunk_size=1))
    assert run.run_id is not None
    for chunk_id, rejected in zip(run.chunk_ids, (0, 1), strict=True):
        lease = claimed(database, chunk_id)
        strange = {capture.path: [NOVEL] for capture in lease.captures}
        finish_chunk(database, lease, outcome(lease, rejected=1) if rejected else marked(lease, strange))
    verdict = implausibility(database, run.run_id)
    assert verdict is not None
    assert (verdict.cases, verdict.affected) == (1, 1)


def test_of_a_run_that_goes_on_it_speaks_of_the_patients_so_far(database: Engine, bundle: Bundle) -> None:
    patient = [[NOVEL], [NOVEL]]
    going = implausibility(database, run_of(database, bundle, patient, patient, patient, unfinished=1))
    assert going is not None
    assert going.so_far
    assert "of 2 of 2 patients finished so far" in going.sentence
    assert implausibility(database, run_of(database, bundle, patient, unfinished=1)) is None


def test_other_runs_are_not_counted(database: Engine, bundle: Bundle) -> None:
    strange = run_of(database, bundle, [[NOVEL]], [[NOVEL]])
    sound = run_of(database, bundle, [[]], [[]])
    assert implausibility(database, sound) is None
    verdict = implausibility(database, strange)
    assert verdict is not None
    assert verdict.marks == (MarkShare(NOVEL, 2, 2),)
    with pytest.raises(NoSuchRun, match="there is no run 4711"):
        implausibility(database, 4711)


captures = st.lists(st.sampled_from((*EXCLUDING, PALE)), max_size=3, unique=True)
patients = st.lists(st.lists(captures, min_size=1, max_size=5), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patients)
def test_it_agrees_with_counting_by_hand(database: Engine, bundle: Bundle, patients: Sequence[Patient]) -> None:
    run = run_of(database, bundle, *patients)
    mostly = [one for one in patients if sum(any(c in EXCLUDING for c in marks) for marks in one) > len(one) / 2]
    verdict = implausibility(database, run)
    assert (verdict is not None) == (len(mostly) > len(patients) / 2)
    if verdict is None:
        return
    assert (verdict.cases, verdict.affected) == (len(patients), len(mostly))
    assert verdict.screened == sum(map(len, mostly))
    for share in verdict.marks:
        counts = [sum(share.mark in marks for marks in one) for one in mostly]
        assert share.captures == sum(counts) > 0
        assert share.cases == sum(count > len(one) / 2 for count, one in zip(counts, mostly, strict=True))
    reasons = [share.cases for share in verdict.marks]
    assert reasons == sorted(reasons, reverse=True)


def verdict_of(*marks: MarkShare, affected: int = 10, cases: int = 10) -> Implausibility:
    return Implausibility(7, cases, affected, 12 * affected, 12 * affected, marks, so_far=False)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (verdict_of(MarkShare(NOVEL, 12, 1), affected=1, cases=1), "most captures of 1 of 1 patient do not count"),
        (verdict_of(MarkShare(NOVEL, 119, 10)), "because they are unlike those that the network was trained on"),
        (verdict_of(MarkShare(NOVEL, 119, 10), MarkShare(BLURRED, 4, 0)), "120 screened captures: 119 novel, 4 out of"),
        (verdict_of(MarkShare(NOVEL, 110, 9)), "do not count, in 9 of these patients because they are unlike"),
        (verdict_of(MarkShare(EMPTY, 40, 0), MarkShare(NOVEL, 39, 0)), "for several reasons, above all because they"),
        (verdict_of(MarkShare(EMPTY, 120, 10)), "because they are almost without cells"),
        (verdict_of(MarkShare(MarkCode.COLOUR_CAST, 120, 10)), "because they are colour cast"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_figures_and_the_reason(verdict: Implausibility, said: str) -> None:
    assert said in verdict.sentence


@pytest.mark.parametrize(
    ("verdict", "steps"),
    [
        (verdict_of(MarkShare(NOVEL, 120, 10)), ["screen bundle verify BUNDLE --captures ARCHIVE", "screen adapt"]),
        (verdict_of(MarkShare(BLURRED, 120, 10)), ["check the microscope's focus; ", "screen reference BUNDLE"]),
        (verdict_of(MarkShare(EMPTY, 120, 10)), ["where on the slide", "screen reference BUNDLE"]),
        # A bundle must not be adapted to captures that are only out of focus.
        (verdict_of(MarkShare(NOVEL, 120, 10), MarkShare(BLURRED, 110, 8)),
         ["check the microscope's focus; ", "screen bundle verify", "screen adapt"]),
        (verdict_of(MarkShare(MarkCode.COLOUR_CAST, 120, 10)), ["look at the captures; ", "screen reference BUNDLE"]),
    ],
)  # fmt: skip
def test_the_sentence_says_what_to_do_and_in_which_order(verdict: Implausibility, steps: list[str]) -> None:
    places = [verdict.next_step.index(step) for step in steps]
    assert places == sorted(places)
    assert verdict.sentence.endswith(verdict.next_step)
    assert ("screen adapt" in verdict.sentence) == any(share.mark is NOVEL for share in verdict.marks)


@pytest.fixture
def two_runs(environment: Environment, bundle: Bundle) -> tuple[str, str]:
    """Numbers of a run that cannot be believed, and of one of another archive with a single strange patient."""
    assert environment.screen("db", "upgrade").code == 0
    engine = open_engine(environment.database_url)
    strange, sound = [[NOVEL], [NOVEL], []], [[], [], []]
    runs = (
        run_of(engine, bundle, strange, strange, sound),
        run_of(engine, bundle, sound, sound, strange, root=b"/b"),
    )
    engine.dispose()
    return str(runs[0]), str(runs[1])


WARNING = "Do not rely on run"


def test_status_watch_and_report_say_it_first_and_end_with_1(
    environment: Environment, two_runs: tuple[str, str], tmp_path: Path
) -> None:
    implausible, plausible = two_runs
    status = environment.screen("status", implausible)
    assert (status.code, status.out.startswith(WARNING)) == (0, True)
    assert "screen adapt BUNDLE ARCHIVE" in status.out.splitlines()[0]
    assert environment.screen("status", implausible, "--csv").err.startswith(WARNING)
    watched = environment.screen("watch", implausible)
    assert watched.code == 1
    assert watched.err.index(WARNING) < watched.err.index("submitted 9 = screened 9")
    shown = environment.screen("report", implausible)
    assert (shown.code, shown.out.startswith(WARNING)) == (1, True)
    rows = environment.screen("report", implausible, "--csv")
    assert (rows.code, rows.err.startswith(WARNING), WARNING in rows.out) == (1, True, False)
    html = environment.screen("report", implausible, "--html", tmp_path / "run.html")
    assert (html.code, html.err.startswith(WARNING)) == (1, True)
    page = (tmp_path / "run.html").read_text()
    assert page.index(WARNING) < page.index("<h1>")
    assert "<code>screen adapt BUNDLE ARCHIVE</code>" in page

    for command in ("status", "watch", "report"):
        done = environment.screen(command, plausible)
        assert (done.code, WARNING in done.out + done.err) == (0, False), command
    assert environment.screen("report", plausible, "--html", tmp_path / "other.html").code == 0
    assert WARNING not in (tmp_path / "other.html").read_text()


def test_a_reviewer_is_told_before_she_looks_at_a_case(environment: Environment, two_runs: tuple[str, str]) -> None:
    implausible, plausible = two_runs
    for number, warned in ((implausible, True), (plausible, False)):
        case = environment.screen("review", "list", "--run", number, "--json").json[0]["case_id"]
        for command in (("list", "--run", number), ("next", "--run", number, "--reviewer", "anna"), ("show", case)):
            done = environment.screen("review", *command)
            assert done.code == 0, command
            assert done.err.startswith(f"{WARNING} {number}") is warned, command
    of_both = environment.screen("review", "list", "--json")
    assert (of_both.err.count(WARNING), WARNING in of_both.out) == (1, False)


def test_submit_with_watch_ends_with_1_too(environment: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=3)
    assert environment.screen("db", "upgrade").code == 0
    run = environment.screen("submit", archive, "--bundle", bundle.path).out
    engine = open_engine(environment.database_url)
    (chunk_id,) = states(engine, Chunk)
    lease = claimed(engine, chunk_id)
    finish_chunk(engine, lease, marked(lease, {capture.path: [NOVEL] for capture in lease.captures}))
    engine.dispose()
    again = environment.screen("submit", archive, "--bundle", bundle.path, "--watch")
    assert (again.code, again.out) == (1, run), "nothing is new, so the run before is watched"
    assert again.err.index("most captures of 1 of 1 patient do not count") < again.err.index("submitted 3 = screened 3")


def test_json_carries_it_as_a_field(environment: Environment, two_runs: tuple[str, str]) -> None:
    implausible, plausible = two_runs
    of_status = environment.screen("status", implausible, "--json").json[0]
    report = environment.screen("report", implausible, "--json")
    assert report.code == 1
    assert next(iter(of_status)) == next(iter(report.json)) == "implausible"
    assert of_status["implausible"] == report.json["implausible"]
    figures = report.json["implausible"]
    assert figures["sentence"].startswith(WARNING)
    assert (figures["cases"], figures["affected"], figures["screened"], figures["excluded"]) == (3, 2, 6, 4)
    assert figures["marks"] == [{"mark": "novel", "captures": 4, "cases": 2}]
    assert environment.screen("status", plausible, "--json").json[0]["implausible"] is None
    assert environment.screen("report", plausible, "--json").json["implausible"] is None


def test_fhir_has_a_detected_issue_and_every_unsigned_report_says_it(
    environment: Environment, two_runs: tuple[str, str], tmp_path: Path
) -> None:
    implausible, plausible = two_runs
    engine = open_engine(environment.database_url)
    signed = read_run(engine, int(implausible)).cases[0].case_id
    act(engine, signed, ReviewAction.OVERRIDE, Reviewer("anna", "1.2.3"), opinion=Opinion("benign"), comment="seen")
    engine.dispose()
    assert environment.screen("report", implausible, "--fhir", tmp_path / "run.json").code == 1
    made = [entry.resource for entry in FhirBundle.model_validate_json((tmp_path / "run.json").read_text()).entry]
    issue = made[0]
    assert (issue.__resource_type__, issue.severity, issue.status) == ("DetectedIssue", "high", "final")
    assert issue.detail.startswith(WARNING)
    reports = {f"urn:uuid:{one.id}": one for one in made if one.__resource_type__ == "DiagnosticReport"}
    proposals = {name for name, one in reports.items() if one.status == "preliminary"}
    assert len(proposals) == 2
    assert {one.reference for one in issue.implicated} == proposals
    assert all((WARNING in one.conclusion) == (name in proposals) for name, one in reports.items())
    assert environment.screen("report", plausible, "--fhir", tmp_path / "other.json").code == 0
    other = json.loads((tmp_path / "other.json").read_text())
    assert "DetectedIssue" not in {entry["resource"]["resourceType"] for entry in other["entry"]}
    assert WARNING not in (tmp_path / "other.json").read_text()
