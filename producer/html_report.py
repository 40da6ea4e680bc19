"""The run report as one self-contained HTML file: results by urgency, with the captures that carry them."""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from math import isqrt
from typing import Any

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Engine

from contract.case_policy import CasePolicy
from contract.errors import CaptureRejected, PseudonymKeyMissing
from contract.imaging import decode_full
from contract.pseudonyms import real_paths
from contract.settings import get_settings
from contract.states import Verdict
from db.drift import drift
from db.plausibility import Implausibility
from db.queries import (
    capture_scores,
    case_results,
    ended_badly,
    evidence_of,
    identity_conflicts,
    progress,
    run_details,
    run_summaries,
)
from producer.drifting import drift_warning
from producer.watching import accounting_line

EVIDENCE_CAPTURES = 3
EXCLUDED_NAMED = 12
"""Captures of a case that do not count, of which so many are named and EVIDENCE_CAPTURES pictured."""
EVIDENCE_CASES = 40
"""Cases, the most urgent first, whose evidence is pictured: more would make the file too large to open."""
THUMBNAIL_PX = 320
_LOADER = jinja2.PackageLoader("producer", "templates")


def render_html(
    database: Engine, run_id: int, implausible: Implausibility | None, truth: Mapping[str, str] | None = None
) -> str:
    """The report of a run, below why it cannot be believed. A capture that cannot be read any more is named without its
    picture.

    Raises NoSuchRun.
    """
    summary = run_summaries(database, run_id)[0]
    details = run_details(database, run_id)
    cases = case_results(database, run_id)
    pictured = [case["case_id"] for case in cases if case["verdict"]][:EVIDENCE_CASES]
    labels = details["manifest"]["labels"]
    show = _pictures(details)
    evidence = {case_id: _case_page(database, case_id, show, labels) for case_id in pictured}
    environment = jinja2.Environment(loader=_LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(
        summary=summary,
        details=details,
        manifest=details["manifest"],
        policy=CasePolicy.model_validate(details["manifest"]["case_policy"]),
        cases=cases,
        counts={verdict: sum(case["verdict"] == verdict for case in cases) for verdict in Verdict},
        evidence=evidence,
        pictured=len(pictured),
        ended_badly=ended_badly(database, run_id),
        conflicts=identity_conflicts(database, run_id),
        implausible=implausible,
        drift=drift_warning(drift(database, run_id)),
        accounting=accounting_line(progress(database, run_id)),
        truth=truth,
        verdict_text=VERDICT_TEXT,
        now=datetime.now(UTC),
    )


VERDICT_TEXT = {
    Verdict.ALL: "ALL",
    Verdict.INDETERMINATE: "Indeterminate",
    Verdict.INSUFFICIENT: "Insufficient",
    Verdict.BENIGN: "Benign",
}


Picture = Callable[[bytes, bytes | None], tuple[str | None, str | None]]
"""Path and activation map of a capture -> (data URI of it, why there is none)."""


def _pictures(details: Mapping[str, Any]) -> Picture:
    """Pictures of a run's captures; none where its patients have pseudonyms and their key is not here."""
    root, fingerprint = details["root"], details["pseudonym_key"]
    if fingerprint is None:
        return partial(_picture, root)
    try:
        real_path = real_paths(root, fingerprint, get_settings().pseudonym_key_file)
        return lambda path, cam: _picture(root, real_path(path), cam)
    except PseudonymKeyMissing:
        return lambda _path, _cam: (None, "the key of the patients' pseudonyms is not here")


def _case_page(database: Engine, case_id: int, show: Picture, labels: Sequence[str]) -> dict[str, Any]:
    """What a reviewer wants to see of a case: the captures with the highest P(ALL), those that do not count and why,
    and how P(ALL) is spread over all of them.
    """
    counted = evidence_of(database, case_id, excluded=False, limit=EVIDENCE_CAPTURES)
    excluded = evidence_of(database, case_id, excluded=True, limit=EXCLUDED_NAMED)
    scores = capture_scores(database, case_id)
    return {
        "captures": [_figure(show, one, labels) for one in counted],
        "excluded": [
            _figure(show, {**one, "cam": None}, labels, pictured=place < EVIDENCE_CAPTURES)
            for place, one in enumerate(excluded)
        ],
        "histogram": _histogram(scores),
        "scores": len(scores),
    }


def _figure(show: Picture, row: Mapping[str, Any], labels: Sequence[str], *, pictured: bool = True) -> dict[str, Any]:
    picture, problem = show(row["path"], row["cam"]) if pictured else (None, None)
    return {
        "path": row["path_text"],
        "label": row["label"],
        "probability": row["probability"],
        "probabilities": list(zip(labels, row["probabilities"], strict=True)),
        "marks": [mark["sentence"] for mark in row["marks"] or ()],
        "picture": picture,
        "problem": problem,
    }


def _histogram(scores: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """Of each tenth of P(ALL) the captures that count and those that do not, as shares of the fullest tenth."""
    counts = np.zeros((10, 2))
    for p_all, excluded in scores:
        counts[min(int(p_all * 10), 9), int(excluded)] += 1
    most = max(1.0, counts.sum(axis=1).max())
    return [{"counted": float(a / most), "excluded": float(b / most), "captures": int(a + b)} for a, b in counts]


def _picture(root: bytes, path: bytes, cam: bytes | None) -> tuple[str | None, str | None]:
    """(data URI of the capture with its activation map over it, why there is none)."""
    try:
        with open(os.path.join(root, path), "rb") as stream:  # noqa: PTH118, PTH123 - bytes
            image = decode_full(stream.read())
    except OSError as error:
        return None, f"the file cannot be read any more ({error.strerror})"
    except CaptureRejected as error:
        return None, f"the file has changed: {error}"
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    pixels = np.asarray(image)
    if cam is not None:
        pixels = overlay(pixels, cam)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), None


def overlay(pixels: NDArray[np.uint8], cam: bytes) -> NDArray[np.uint8]:
    """Frame on the capture, uint8 [H, W, 3], the places of the activation map that speak most for its label.

    `cam` is float16 [h, w], h = w: h x w places, each a rectangle of the capture. The strongest tenth is framed in red,
    the strongest quarter in yellow. Places are framed as they are: a smooth curve would promise a sharper eye than the
    network has, and a heat map would hide the cell.
    """
    values = np.frombuffer(cam, dtype=np.float16)
    side = isqrt(values.size)
    rank = np.argsort(np.argsort(-values, kind="stable"), kind="stable").reshape(side, side)
    height, width = pixels.shape[:2]
    drawn = pixels.copy()
    for share, colour, thickness in ((0.25, (255, 196, 0), 1), (0.10, (220, 0, 60), 2)):
        strongest = (rank < max(1, round(share * values.size))).astype(np.uint8)
        mask = cv2.resize(strongest, (width, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, contours, -1, colour, thickness)
    return drawn
