"""A run as JSON: everything, for programs."""

from dataclasses import asdict
from typing import Any

from contract.words import FOR_REVIEW
from db.run_report import CaseRow, RunReport
from producer.formats import ExportFormat, Truth
from producer.output import as_json
from producer.truth import is_right

BESIDE = ("policy", "review")
"""Fields of a case that the record has in another form, or not at all."""


def render(report: RunReport, truth: Truth | None) -> str:
    manifest = report.manifest
    return as_json(
        {
            "implausible": report.implausible and report.implausible.record(),
            "run": asdict(report.run),
            "notice": manifest.notice,
            "warnings": report.warnings,
            "in_training": report.in_training,
            "for_review": FOR_REVIEW,
            "labels": manifest.labels,
            "benign_label": manifest.benign_label,
            "engines": report.engines,
            "skipped": report.skipped,
            "cases": [case_record(case, truth, manifest.benign_label) for case in report.cases],
            "patients_without_captures": [
                asdict(patient) | {"sentence": patient.sentence} for patient in report.without_captures
            ],
            "identity_conflicts": [asdict(conflict) for conflict in report.identity_conflicts],
            "ended_badly": [asdict(capture) for capture in report.ended_badly],
            "drift": [asdict(drift) for drift in report.drift],
        }
    )


def case_record(case: CaseRow, truth: Truth | None, benign_label: str) -> dict[str, Any]:
    """A case as flat values with the thresholds of its result; with `truth` also the true label, and if it is right."""
    record = {name: value for name, value in asdict(case).items() if name not in BESIDE}
    record |= {name: getattr(case.policy, name) for name in ("benign_at_most", "all_at_least")}
    if truth is not None:
        label = truth.get(case.patient)
        record |= {"truth": label, "right": None if label is None else is_right(case, label, benign_label)}
    return record


FORMAT = ExportFormat("json", "Everything as JSON on stdout.", to_file=False, render=render, says_warnings=True)
