"""Scores of a bundle's graph on labelled captures, whether they come from its own test split or from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.case_policy import CasePolicy
from contract.predictions import Predictions
from trainer import explain, figures, pictures
from trainer.data import LabelledData
from trainer.graph import GraphRunner
from trainer.metrics import Groups, Labelled, capture_metrics, patient_metrics
from trainer.progress import bar
from trainer.robustness import audit
from trainer.thresholds import blocks_of

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scored:
    """The captures `rows` of `pixels`; `found` is the graph's answer for them, `of` joins it with their true labels.

    `cases` are the same captures, grouped as the case rule groups them; `unit` says what a case is.
    """

    pixels: Pixels
    rows: NDArray[np.int64]
    of: Labelled
    cases: Labelled
    unit: str
    found: Predictions


def score(
    runner: GraphRunner,
    data: LabelledData,
    benign_label: str,
    pixels: Pixels,
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    title: str,
) -> Scored:
    """Run the graph over the captures `rows`, with `title` at the progress bar.

    `groups` [N] numbers the groups of captures that are alike; they stand for patients if those are unknown.
    """
    with bar(title, len(rows)) as progress:
        predictions = predict(runner, pixels, rows, progress.advance)
    probabilities = predictions.probabilities.astype(np.float64)
    targets = data.targets()[rows]
    benign = data.labels.index(benign_label)
    alike: Groups = [data.captures[i].patient for i in rows] if data.patients_known else groups[rows]
    cases = alike if data.patients_known else blocks_of([data.captures[i].path for i in rows], targets)
    return Scored(
        pixels, rows, Labelled(data.labels, benign, targets, probabilities, alike),
        Labelled(data.labels, benign, targets, probabilities, cases),
        "patient" if data.patients_known else "block", predictions,
    )  # fmt: skip


def predict(runner: GraphRunner, pixels: Pixels, rows: NDArray[np.int64], advance: Any = None) -> Predictions:
    """All outputs for the captures `rows` of a memory map, which is never loaded as a whole."""
    parts = [runner.predict(pixels[part], advance) for part in np.array_split(rows, max(1, len(rows) // 512))]
    return Predictions.joined(parts)


def metrics(scored: Scored, temperature: float, policy: CasePolicy, sites: Sequence[str | None]) -> dict[str, Any]:
    """Figures per capture; per patient, or per block if patients are unknown; per site if any is known; activation."""
    result = capture_metrics(scored.of, temperature)
    result[f"per_{scored.unit}"] = patient_metrics(policy, scored.cases)
    site_names = np.asarray([site or "" for site in sites])
    if (site_names != "").any():
        right = scored.of.probabilities.argmax(axis=1) == scored.of.targets
        result["per_site"] = {
            site: {"captures": int((site_names == site).sum()), "accuracy": float(right[site_names == site].mean())}
            for site in sorted(set(site_names.tolist()))
        }
    if scored.found.cam is not None:
        called = scored.of.probabilities.argmax(axis=1)
        shares, areas = explain.activation_share(scored.pixels, scored.rows, scored.found.cam, called)
        result["activation_on_cells"] = explain.by_label(scored.of.labels, scored.of.targets, shares, areas)
    return result


def robustness(runner: GraphRunner, scored: Scored, limit: int) -> dict[str, Any]:
    """The robustness table of at most `limit` of these captures."""
    return audit(runner, scored.pixels, scored.rows, scored.of, limit)


def draw(scored: Scored, measured: dict[str, Any], temperature: float, policy: CasePolicy) -> dict[str, bytes]:
    """The PNGs that belong to `measured`, the result of `metrics` with its robustness table and shortcuts."""
    drawn = {
        "roc": figures.roc(scored.of),
        "confusion": figures.confusion(scored.of.labels, measured["confusion"]),
        "reliability": figures.reliability(scored.of, temperature),
        "cases": figures.case_scores(scored.cases, policy, scored.unit),
        "predictions": pictures.predictions(scored.pixels, scored.rows, scored.of),
        "worst": pictures.worst(scored.pixels, scored.rows, scored.of, scored.found),
    }
    if "robustness" in measured:
        drawn["robustness"] = figures.robustness(measured["robustness"], measured["shortcuts"])
    return drawn
