"""A run as one self-contained HTML file: results by urgency, with the captures that they rest on."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np

from contract.evidence import Picture, Pictures, pictures_of
from contract.settings import get_settings
from contract.states import Verdict
from contract.words import FOR_REVIEW, VERDICT_WORDS
from db.drift import drift_warning
from db.run_report import CaptureEvidence, CaseEvidence, EvidenceLimits, RunReport
from producer.formats import ExportFormat, Truth

EVIDENCE = EvidenceLimits(cases=40, counting=3, excluded=12)
"""More cases would make the file too large to open. The first few excluded captures have a picture, too."""
_LOADER = jinja2.PackageLoader("producer", "templates")


def render(report: RunReport, truth: Truth | None) -> str:
    """The report, below the warning for an implausible run. A capture that cannot be read any more has no picture."""
    run, key_file = report.run, get_settings().pseudonym_key_file
    show = pictures_of(report.root, report.pseudonym_key, key_file, run.patient_depth)
    pages = {
        case_id: _case_page(evidence, show, report.manifest.labels) for case_id, evidence in report.evidence.items()
    }
    environment = jinja2.Environment(loader=_LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(
        report=report,
        counts={verdict: sum(case.verdict == verdict for case in report.cases) for verdict in Verdict},
        recomputed=any(case.policy != report.manifest.case_policy for case in report.cases),
        pages=pages,
        drift=drift_warning(report.drift),
        truth=truth,
        verdict_words=VERDICT_WORDS,
        for_review=FOR_REVIEW,
        now=datetime.now(UTC),
    )


def _case_page(evidence: CaseEvidence, show: Pictures, labels: Sequence[str]) -> dict[str, Any]:
    """What a reviewer must see of a case: the captures with the highest P(ALL), those that do not count and why, and
    the distribution of P(ALL) over all captures.
    """
    return {
        "captures": [_figure(capture, labels, show(capture.path, capture.cam)) for capture in evidence.counting],
        "excluded": [
            _figure(capture, labels, show(capture.path, None) if place < EVIDENCE.counting else None)
            for place, capture in enumerate(evidence.excluded)
        ],
        "histogram": _histogram(evidence.scores),
        "scores": len(evidence.scores),
    }


def _figure(capture: CaptureEvidence, labels: Sequence[str], picture: Picture | None) -> dict[str, Any]:
    jpeg = None if picture is None or picture.jpeg is None else base64.b64encode(picture.jpeg).decode()
    return {
        "path": capture.path_text,
        "label": capture.label,
        "probability": capture.probability,
        "probabilities": list(zip(labels, capture.probabilities, strict=True)),
        "marks": [mark.sentence for mark in capture.marks],
        "picture": jpeg and f"data:image/jpeg;base64,{jpeg}",
        "problem": picture and picture.problem,
    }


def _histogram(scores: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """For each tenth of P(ALL), the captures that count and those that do not, as shares of the fullest tenth."""
    counts = np.zeros((10, 2))
    for p_all, excluded in scores:
        counts[min(int(p_all * 10), 9), int(excluded)] += 1
    most = max(1.0, counts.sum(axis=1).max())
    return [
        {"counted": float(counted / most), "excluded": float(excluded / most), "captures": int(counted + excluded)}
        for counted, excluded in counts
    ]


FORMAT = ExportFormat(
    "html",
    "Write one self-contained HTML file: the captures that carry each result, and those that do not count and why.",
    to_file=True,
    render=render,
    evidence=EVIDENCE,
)
