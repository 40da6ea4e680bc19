"""The FHIR export, read back through the library that made it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle as FhirBundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from pydantic import ValidationError
from sqlalchemy import Engine, update

from contract.bundle import Bundle
from contract.states import ReviewAction
from db.engine import open_engine, writing
from db.models import Case
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act
from db.run_report import read_run
from db.schema import upgrade
from db.submission import submit
from producer.formats.fhir import fhir_bundle
from tests.support.commands import Environment
from tests.support.runs import claimed, found, outcome, request

ANNA, BEN = Reviewer("anna", "1.2.3"), Reviewer("ben", "1.2.3")
STATUSES = {"registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled",
            "entered-in-error", "unknown"}  # fmt: skip
"""Of a DiagnosticReport: http://hl7.org/fhir/R4/valueset-diagnostic-report-status.html."""


def screened(
    database: Engine, bundle: Bundle, *, root: bytes = b"/a", site: str | None = None, everything: bool = False
) -> int:
    """Three patients: ALL, benign, and one none of whose captures could be screened."""
    files = [one for p in range(3) for one in found(f"P{p}", "0.jpg", "1.jpg")]
    run = submit(database, request(bundle, files, chunk_size=2, root=root, site=site, everything=everything))
    for chunk_id, p_all, rejected in zip(run.chunk_ids, (0.9, 0.1, 0.5), (0, 0, 2), strict=True):
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease, p_all, rejected=rejected))
    assert run.run_id is not None
    return run.run_id


def exported(database: Engine, run: int) -> Any:
    """The Bundle, parsed and validated by the library."""
    report = read_run(database, run)
    return FhirBundle.model_validate_json(fhir_bundle(report, report.run.created_at))


def resources(bundle: Any, kind: str) -> list[Any]:
    found = [entry.resource for entry in bundle.entry]
    return [one for one in found if one.__resource_type__ == kind]


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [one for inner in value.values() for one in references(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in references(inner)]
    return []


def test_every_case_has_its_report_and_every_reference_leads_somewhere(database: Engine, bundle: Bundle) -> None:
    made = exported(database, screened(database, bundle))
    assert [len(resources(made, kind)) for kind in ("Device", "Patient", "DiagnosticReport", "Observation")] == [
        1, 3, 3, 10,
    ]  # fmt: skip
    there = {entry.fullUrl for entry in made.entry}
    assert len(there) == len(made.entry)
    named = references(json.loads(made.model_dump_json()))
    assert len(named) == 3 + 10 + 10 + 10, "subjects of reports, results, subjects and devices of observations"
    assert set(named) <= there
    names = {one.identifier[0].value for one in resources(made, "Patient")}
    assert names == {"P0", "P1", "P2"}


def test_a_proposal_is_preliminary_and_says_so(database: Engine, bundle: Bundle) -> None:
    first, *_ = resources(exported(database, screened(database, bundle)), "DiagnosticReport")
    assert first.status == "preliminary"
    assert first.conclusion.startswith("Proposal. For review by a haematologist")
    assert "Result: acute lymphoblastic leukaemia (ALL), subtype Pro" in first.conclusion
    assert first.conclusionCode[0].coding[0].code == "all"


def test_signed_off_it_is_final_with_the_reviewers_verdict_and_without_her_name(
    database: Engine, bundle: Bundle
) -> None:
    run = screened(database, bundle)
    by_patient = {case.patient: case.case_id for case in read_run(database, run).cases}
    act(database, by_patient["P0"], ReviewAction.OVERRIDE, ANNA, opinion=Opinion("benign"), comment="reactive cells")
    made = exported(database, run)
    status = {one.identifier[0].value: one.status for one in resources(made, "DiagnosticReport")}
    assert status == {str(case): "final" if patient == "P0" else "preliminary" for patient, case in by_patient.items()}
    (final,) = (one for one in resources(made, "DiagnosticReport") if one.status == "final")
    assert final.conclusion.startswith("Reviewed and signed off. Result: benign.")
    assert len(final.result) == 3, "no subtype"
    assert {one.status for one in resources(made, "Observation")} == {"final", "preliminary"}
    assert "anna" not in made.model_dump_json()
    assert "reactive cells" not in made.model_dump_json()


def test_a_score_has_its_interval_and_thresholds_and_none_says_why(database: Engine, bundle: Bundle) -> None:
    made = exported(database, screened(database, bundle))
    scores = [one for one in resources(made, "Observation") if one.code.coding[0].code == "score"]
    known = [one for one in scores if one.valueQuantity is not None]
    assert sorted(float(one.valueQuantity.value) for one in known) == pytest.approx([0.1, 0.9])
    assert all(len(one.component) == len(one.referenceRange) == 2 for one in known)
    (absent,) = (one for one in scores if one.valueQuantity is None)
    assert absent.dataAbsentReason.coding[0].code == "not-performed"


def test_the_same_case_has_the_same_ids_in_every_export(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle)
    before = [entry.fullUrl for entry in exported(database, run).entry]
    assert [entry.fullUrl for entry in exported(database, run).entry] == before


def ids(bundle: Any) -> dict[str, str]:
    """The id of each resource, with its kind."""
    return {one.id: one.__resource_type__ for one in (entry.resource for entry in bundle.entry)}


def test_ids_are_unique_across_sites_databases_archives_and_runs(tmp_path: Path, bundle: Bundle) -> None:
    """Only a patient, and the device, are the same in two runs of one archive."""
    exports = {}
    for site, name in (("north", "one"), ("south", "two"), (None, "three"), (None, "four")):
        database = open_engine(f"sqlite:///{tmp_path}/{name}.db")
        upgrade(database)
        for root in (b"/a", b"/b"):
            run = screened(database, bundle, root=root, site=site)
            exports[name, root] = exported(database, run)
        if name == "one":
            again = exported(database, screened(database, bundle, site=site, everything=True))
        database.dispose()
    seen = [one for made in exports.values() for one in ids(made)]
    assert len(seen) == len(set(seen)) == 8 * (1 + 3 + 3 + 10)
    assert all(re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", one) for one in seen)
    shared = ids(again).keys() & set(seen)
    assert sorted(ids(again)[one] for one in shared) == ["Device", *["Patient"] * 3]
    assert shared <= ids(exports["one", b"/a"]).keys()
    patients = [one.identifier[0] for made in exports.values() for one in resources(made, "Patient")]
    assert len({(one.system, one.value) for one in patients}) == 8 * 3
    assert {one.assigner.display for one in patients if one.assigner} == {"north", "south"}
    assert {one.system.split(":database:")[0] for one in patients} == {
        "urn:slide-screen:site:north", "urn:slide-screen:site:south", "urn:slide-screen",
    }  # fmt: skip
    cases = [one.identifier[0] for made in exports.values() for one in resources(made, "DiagnosticReport")]
    assert len({(one.system, one.value) for one in cases}) == 8 * 3


def reported(database: Engine, run: int, patient: str) -> Any:
    """The report of a patient, after a look at its observations: they have its status."""
    made = exported(database, run)
    (subject,) = (one for one in resources(made, "Patient") if one.identifier[0].value == patient)
    (report,) = (one for one in resources(made, "DiagnosticReport") if one.subject.reference.endswith(subject.id))
    observed = [one for one in resources(made, "Observation") if one.subject.reference.endswith(subject.id)]
    assert {one.status for one in observed} == {report.status}
    return report


def test_a_result_that_changes_after_it_was_final_is_corrected_and_keeps_its_id(
    database: Engine, bundle: Bundle
) -> None:
    run = screened(database, bundle)
    case = next(case.case_id for case in read_run(database, run).cases if case.patient == "P0")
    first = reported(database, run, "P0")
    act(database, case, ReviewAction.CONFIRM, ANNA)
    final = reported(database, run, "P0")
    act(database, case, ReviewAction.SECOND_OPINION, BEN)
    reopened = reported(database, run, "P0")
    for who in (ANNA, BEN):
        act(database, case, ReviewAction.OVERRIDE, who, opinion=Opinion("benign"), comment="reactive")
    corrected = reported(database, run, "P0")
    reports = (first, final, reopened, corrected)
    assert [one.status for one in reports] == ["preliminary", "final", "preliminary", "corrected"]
    assert len({one.id for one in reports}) == 1
    before = "igned off before as acute lymphoblastic leukaemia (ALL), subtype Pro"
    assert [before in one.conclusion for one in reports] == [False, False, True, True]
    assert corrected.conclusion.startswith("Reviewed and signed off. Corrected: s")
    assert {one.status for one in resources(exported(database, run), "DiagnosticReport")} <= STATUSES
    assert reported(database, run, "P1").status == "preliminary"


def test_a_result_that_was_computed_again_after_it_was_final_is_amended(database: Engine, bundle: Bundle) -> None:
    run = screened(database, bundle)
    case = next(case.case_id for case in read_run(database, run).cases if case.patient == "P0")
    act(database, case, ReviewAction.OVERRIDE, ANNA, opinion=Opinion("benign"), comment="reactive")
    assert reported(database, run, "P0").status == "final"
    with writing(database) as connection:
        connection.execute(update(Case).where(Case.id == case).values(result_version=Case.result_version + 1))
    amended = reported(database, run, "P0")
    assert (amended.status, "Amended:" in amended.conclusion) == ("amended", True)


def test_the_library_refuses_what_fhir_does_not_know() -> None:
    with pytest.raises(ValidationError):
        DiagnosticReport(status="final", code={"text": "x"}, verdict="all")
    with pytest.raises(ValidationError):
        DiagnosticReport(code={"text": "x"})


def test_the_command_writes_a_file(environment: Environment, bundle: Bundle, tmp_path: Path) -> None:
    environment.screen("db", "upgrade")
    run = screened(open_engine(environment.database_url), bundle)
    file = tmp_path / "out" / "run.json"
    done = environment.screen("report", str(run), "--fhir", file)
    assert done.code == 1, "two captures were rejected"
    made = FhirBundle.model_validate_json(file.read_text())
    assert {one.status for one in resources(made, "DiagnosticReport")} <= STATUSES
