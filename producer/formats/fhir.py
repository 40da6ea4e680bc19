"""A run's results as FHIR R4 in one Bundle: for each case a Patient, a DiagnosticReport and its Observations. An
implausible run has a DetectedIssue before them all, and so has each patient without captures and without a case.

The models of fhir.resources make them, and refuse what FHIR does not allow. The models are those of R4B (4.3.0), in
which these resources are the same as in R4 (4.0.1). docs/data.md says what goes where. We claim no code of LOINC or
SNOMED for what a network proposes: the codes are this system's own, below `urn:slide-screen`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from contract.printable import printable, printable_json
from contract.signed import WITHOUT_NAMES
from contract.words import FOR_REVIEW
from db.absent import AbsentRow
from db.plausibility import Implausibility
from db.progress import RunSummary
from db.run_report import CaseRow, RunReport
from producer.formats import ExportFormat, Truth
from producer.formats.fhir_ids import SYSTEM, Names, names_of
from producer.output import say

PROPOSAL = f"Proposal. {FOR_REVIEW}"
SIGNED = "Reviewed and signed off."
SUPERSEDED = "A newer screening of this patient has taken the place of this one."
COUNTS = ("submitted", "screened", "rejected", "quarantined", "excluded")
VERDICTS = {
    "all": "acute lymphoblastic leukaemia (ALL)", "benign": "benign", "indeterminate": "indeterminate",
    "insufficient": "insufficient captures",
}  # fmt: skip


def render(report: RunReport, _: Truth | None) -> str:
    """The Bundle with the results so far. Says how many cases it leaves out because they have no result yet."""
    unfinished = sum(case.review is None for case in report.cases)
    if unfinished:
        say(f"{unfinished} cases are not finished and left out", "yellow")
    return fhir_bundle(report, datetime.now(UTC))


def fhir_bundle(report: RunReport, written: datetime) -> str:
    """The Bundle of a run's finished cases as JSON.

    The same case has the same ids in every export. Reviewers are not named. What the bundle says against itself is a
    note of the Device. Every report that no reviewer has signed says it too, and that a run is implausible, because a
    reader may take a single report out of the Bundle.
    """
    from fhir.resources.R4B.bundle import Bundle  # takes a quarter of a second, and most commands do not need it

    names = names_of(report)
    warnings = [*report.warnings, *([report.training_sentence] if report.training_sentence else [])]
    device = _device(report.run, names, report.warnings)  # it is the same in the exports of all runs
    finding = None if report.implausible is None else f"{report.implausible.finding}."
    resources = [device]
    for case in report.cases:
        if case.review is not None:
            resources += _of_case(names, report.run, case, device.id, [*([finding] if finding else []), *warnings])
    if report.implausible is not None:
        resources.insert(0, _issue(names, report.run, resources, report.implausible, device.id))
    for patient in report.without_captures:
        if patient.case_id is None:
            resources += _without_captures(names, report.run, patient, device.id)
    document = Bundle(type="collection", timestamp=written, entry=[_entry(resource) for resource in resources])
    return printable_json(document.model_dump_json(indent=1)) + "\n"


def _entry(resource: Any) -> dict[str, Any]:
    return {"fullUrl": f"urn:uuid:{resource.id}", "resource": resource}


def _device(run: RunSummary, names: Names, warnings: Sequence[str]) -> Any:
    from fhir.resources.R4B.device import Device

    return Device(
        id=names.of_archive("device", run.bundle_digest, run.software_version),
        identifier=[{"system": f"{SYSTEM}:bundle", "value": run.bundle_digest}],
        deviceName=[{"name": printable(f"slide-screen, bundle {run.bundle_name}"), "type": "model-name"}],
        version=[{"value": printable(run.software_version)}],
        note=[{"text": printable(sentence)} for sentence in warnings] or None,
    )


def _issue(names: Names, run: RunSummary, resources: Sequence[Any], implausible: Implausibility, device: str) -> Any:
    """The DetectedIssue of an implausible run; it points to all reports that no reviewer has signed."""
    from fhir.resources.R4B.detectedissue import DetectedIssue

    proposals = [
        resource
        for resource in resources
        if resource.__resource_type__ == "DiagnosticReport" and resource.status == "preliminary"
    ]
    return DetectedIssue(
        id=names.of_run("issue", run.run_id),
        identifier=names.number("run", run.run_id),
        status="preliminary" if implausible.so_far else "final",
        code=_code("issue", "implausible_run", "most captures of most patients do not count"),
        severity="high",
        author=_reference(device),
        implicated=[_reference(proposal.id) for proposal in proposals] or None,
        detail=f"{implausible.sentence}.",
    )


def _without_captures(names: Names, run: RunSummary, absent: AbsentRow, device: str) -> list[Any]:
    """The Patient, and a DetectedIssue that says why there is no result: a missing report would say nothing."""
    from fhir.resources.R4B.detectedissue import DetectedIssue

    patient = _patient(names, absent.patient)
    issue = DetectedIssue(
        id=names.of_run("issue", run.run_id, absent.patient),
        identifier=names.number("run", run.run_id),
        status="final",
        code=_code("issue", "patient_without_captures", "nothing of this patient was screened"),
        severity="high",
        patient=_reference(patient.id),
        identifiedDateTime=run.created_at,
        author=_reference(device),
        detail=printable(f"Nothing of this patient was screened: {absent.sentence}."),
    )
    return [patient, issue]


def _patient(names: Names, external_id: str) -> Any:
    from fhir.resources.R4B.patient import Patient

    return Patient(id=names.of_archive("patient", external_id), identifier=names.patient(external_id))


def _status(case: CaseRow) -> tuple[str, str]:
    """The status of the case's report and observations, and the sentence about what was signed before, if anything.

    As http://hl7.org/fhir/R4/valueset-diagnostic-report-status.html defines them: what was final and has another
    result now is `corrected`, what was final and was computed again `amended`.
    """
    review = case.review
    assert review is not None
    before = review.signed_otherwise
    signed_before = "" if before is None else f"signed off before as {_shown(before.verdict, before.subtype)}"
    if not review.closed:
        return "preliminary", f"{signed_before[:1].upper()}{signed_before[1:]}, and opened again." if before else ""
    if before is not None:
        return "corrected", f"Corrected: {signed_before}."
    if case.changed_after_sign_off:
        return "amended", "Amended: the result was computed again after it had been signed off."
    return "final", ""


def _of_case(names: Names, run: RunSummary, case: CaseRow, device: str, doubts: Sequence[str]) -> list[Any]:
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport
    from fhir.resources.R4B.observation import Observation

    review = case.review
    assert review is not None
    assert case.verdict is not None
    status, change = _status(case)
    verdict, subtype = case.verdict, case.subtype
    if review.closed:
        assert review.final_verdict is not None
        verdict, subtype = review.final_verdict, review.final_subtype
    patient = _patient(names, case.patient)

    def observation(name: str, text: str, **value: Any) -> Any:
        return Observation(
            id=names.of_case("observation", case, name, run.bundle_digest), status=status,
            code=_code("observation", name, text), subject=_reference(patient.id), device=_reference(device),
            effectiveDateTime=case.aggregated_at, **value,
        )  # fmt: skip

    observations = [
        observation("verdict", "verdict", valueCodeableConcept=_code("verdict", verdict, VERDICTS[verdict])),
        observation("score", "score for ALL, 0 to 1", **_score(case)),
        observation("captures", "captures", component=_counts(case)),
    ]
    if subtype is not None:
        concept = _code("subtype", subtype, subtype)
        observations.insert(1, observation("subtype", "subtype of ALL", valueCodeableConcept=concept))
    reasons = "; ".join(WITHOUT_NAMES.get(reason.code, reason.sentence) for reason in case.reasons)
    conclusion = [
        SIGNED if review.closed else PROPOSAL,
        change,
        "" if case.superseded_by is None else SUPERSEDED,
        *([] if review.closed else doubts),
        f"{_named(verdict, subtype)}.",
        reasons,
    ]
    report = DiagnosticReport(
        id=names.of_case("report", case, run.bundle_digest),
        identifier=names.number("case", case.case_id),
        status=status,
        code=_code("report", "screening", "screening of a blood smear for acute lymphoblastic leukaemia"),
        subject=_reference(patient.id),
        effectiveDateTime=case.aggregated_at,
        issued=review.closed_at if review.closed else case.aggregated_at,
        result=[_reference(observed.id) for observed in observations],
        conclusion=printable(" ".join(part for part in conclusion if part)),
        conclusionCode=[_code("verdict", verdict, VERDICTS[verdict])],
    )
    return [patient, report, *observations]


def _score(case: CaseRow) -> dict[str, Any]:
    """The score with its interval and the thresholds of the verdict, or the reason why there is no score."""
    if case.score is None:
        absent = {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "not-performed"}
        return {"dataAbsentReason": {"coding": [absent], "text": "no capture counts for the result"}}
    return {
        "valueQuantity": _number(case.score),
        "component": [
            {"code": _code("observation", name, text), "valueQuantity": _number(getattr(case, name))}
            for name, text in (("score_low", "lower end of the 95 % interval"), ("score_high", "upper end"))
        ],
        "referenceRange": [
            {"high": _number(case.policy.benign_at_most), "text": "benign up to here"},
            {"low": _number(case.policy.all_at_least), "text": "ALL from here on"},
        ],
    }


def _counts(case: CaseRow) -> list[dict[str, Any]]:
    return [
        {"code": _code("observation", name, f"captures {name}"), "valueInteger": getattr(case, name) or 0}
        for name in COUNTS
    ]


def _number(value: float) -> dict[str, Any]:
    return {"value": round(value, 6), "system": "http://unitsofmeasure.org", "code": "1"}


def _code(kind: str, code: str, text: str) -> dict[str, Any]:
    """A concept of ours. A code has no two blanks after one another (FHIR R4, "code")."""
    code, text = " ".join(printable(code).split()), printable(text)
    return {"coding": [{"system": f"{SYSTEM}:{kind}", "code": code, "display": text}], "text": text}


def _reference(resource: str | None) -> dict[str, str]:
    return {"reference": f"urn:uuid:{resource}"}


def _named(verdict: str, subtype: str | None) -> str:
    return f"Result: {_shown(verdict, subtype)}"


def _shown(verdict: str, subtype: str | None) -> str:
    return VERDICTS[verdict] + (f", subtype {subtype}" if subtype else "")


FORMAT = ExportFormat(
    "fhir", "Write a FHIR R4 Bundle as JSON to this file.", to_file=True, render=render, takes_truth=False
)
