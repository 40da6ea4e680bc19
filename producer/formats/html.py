"""A run as one self-contained HTML file: results by urgency, with the cells and captures that they rest on."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np

from contract.bundle_warnings import training_sentence
from contract.cells import StoredCell
from contract.evidence import Picture, Pictures, pictures_of
from contract.html import finalized, with_policy
from contract.outcomes import ScreenedFile
from contract.settings import get_settings
from contract.states import Verdict
from contract.words import FOR_REVIEW, VERDICT_WORDS, WHAT_TO_DO, cells_words, explained_marks, local_time
from db.drift import drift_warning
from db.review_queries import CaseDetails
from db.run_report import CaptureEvidence, CaseEvidence, CaseRow, EvidenceLimits, RunReport
from producer.formats import ExportFormat, Truth
from producer.gallery import GalleryCell, gallery_of

EVIDENCE = EvidenceLimits(cases=40, counting=3, excluded=12)
"""More cases would make the file too large to open. The first few excluded captures have a picture, too."""
EVIDENCE_OF_ONE = EvidenceLimits(cases=1, counting=12, excluded=60)
"""On the page of a single case there is room."""
_LOADER = jinja2.PackageLoader("producer", "templates")


def render(report: RunReport, truth: Truth | None) -> str:
    """The report, below the warning for an implausible run. A capture that cannot be read any more has no picture."""
    return _rendered(
        "report.html.j2",
        report,
        EVIDENCE,
        counts={verdict: sum(case.verdict == verdict for case in report.cases) for verdict in Verdict},
        recomputed=any(case.policy != report.manifest.case_policy for case in report.cases),
        drift=drift_warning(report.drift),
        truth=truth,
    )


def render_case(report: RunReport, case: CaseDetails) -> str:
    """The page of one case: a report that holds only this case, and what reviewers know of it."""
    training = training_sentence(case.in_training, case.screened)
    return _rendered("case.html.j2", report, EVIDENCE_OF_ONE, history=case.history, training=training)


def _rendered(template: str, report: RunReport, limits: EvidenceLimits, **values: Any) -> str:
    run, key_file = report.run, get_settings().pseudonym_key_file
    show = pictures_of(report.root, report.pseudonym_key, key_file, run.patient_depth)
    environment = jinja2.Environment(
        loader=_LOADER,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalized,
    )
    environment.filters["local_time"] = local_time
    environment.globals |= {
        "verdict_words": VERDICT_WORDS, "what_to_do": WHAT_TO_DO, "for_review": FOR_REVIEW,
        "explained_marks": explained_marks, "cells_words": cells_words, "now": datetime.now(UTC),
    }  # fmt: skip
    cases = {case.case_id: case for case in report.cases}
    pages = {
        case_id: _case_page(evidence, cases[case_id], show, report, limits.counting)
        for case_id, evidence in report.evidence.items()
    }
    return with_policy(environment.get_template(template).render(report=report, pages=pages, **values))


def _case_page(
    evidence: CaseEvidence, case: CaseRow, show: Pictures, report: RunReport, pictured: int
) -> dict[str, Any]:
    """What a reviewer must see of a case: the nucleated cells that speak most for its result and against it, the fields
    they are in and those with the highest P(ALL), the captures that do not count and why, the first `pictured` of them
    as pictures, and the distribution of P(ALL) over all captures.
    """
    gallery = gallery_of(evidence.cells, report.manifest, case.verdict, case.subtype)
    of_file, window = gallery.by_capture(), gallery.window
    fields = {capture.file: capture for capture in evidence.counting}
    pictures = {file: show(file, of_file.get(file, ()), window) for file in dict.fromkeys((*fields, *of_file))}
    cells = {
        (file, cell): _embedded(jpeg)
        for file, cells in of_file.items()
        for cell, jpeg in zip(cells, pictures[file].cells, strict=False)
    }
    labels = report.manifest.labels
    others = {one.capture.file: one.capture for one in (*gallery.speaking, *gallery.against)}
    return {
        "result": gallery.result,
        "speaking": [_cell(one, cells) for one in gallery.speaking],
        "against": [_cell(one, cells) for one in gallery.against],
        "captures": [_figure(capture, labels, pictures[file]) for file, capture in fields.items()],
        "fields": [
            {"id": capture.capture_id, "path": capture.path_text, "picture": _embedded(pictures[file].field),
             "problem": pictures[file].problem, "marks": ()}
            for file, capture in others.items()
            if file not in fields
        ],
        "excluded": [
            _figure(capture, labels, show(capture.file, (), 0) if place < pictured else None)
            for place, capture in enumerate(evidence.excluded)
        ],
        "histogram": _histogram(evidence.scores),
        "scores": len(evidence.scores),
    }  # fmt: skip


def _cell(one: GalleryCell, pictures: Mapping[tuple[ScreenedFile, StoredCell], str | None]) -> dict[str, Any]:
    return {
        "capture": one.capture.capture_id,
        "path": one.capture.path_text,
        "label": one.label,
        "share": one.share,
        "picture": pictures.get((one.capture.file, one.cell)),
    }


def _figure(capture: CaptureEvidence, labels: Sequence[str], picture: Picture | None) -> dict[str, Any]:
    return {
        "id": capture.capture_id,
        "path": capture.path_text,
        "label": capture.label,
        "probability": capture.probability,
        "probabilities": list(zip(labels, capture.probabilities, strict=True)),
        "marks": [mark.sentence for mark in capture.marks],
        "picture": picture and _embedded(picture.field),
        "problem": picture and picture.problem,
    }


def _embedded(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


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
    "Write one self-contained HTML file: the cells and captures that carry each result, and what does not count.",
    to_file=True,
    render=render,
    evidence=EVIDENCE,
)
