"""What is said of a bundle's graph on labelled captures, whether they come from its own test or from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.case_policy import CasePolicy
from trainer import explain, figures, pictures
from trainer.data import LabelledData
from trainer.graph import GraphRunner, Predictions
from trainer.metrics import Groups, Labelled, capture_metrics, patient_metrics
from trainer.progress import bar
from trainer.robustness import audit
from trainer.thresholds import blocks_of

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scored:
    """The captures `rows` of `pixels`, what the graph answered, and in `of` what is true of them.

    `cases` are the same captures grouped as the case rule sees them; `unit` says what a case is.
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
    what: str,
) -> Scored:
    """Run the graph over the captures `rows`. `groups` [N] numbers what is alike where patients are unknown."""
    with bar(what, len(rows)) as progress:
        found = predict(runner, pixels, rows, progress.advance)
    targets = data.targets()[rows]
    benign = data.labels.index(benign_label)
    alike: Groups = [data.captures[i].patient for i in rows] if data.patients_known else groups[rows]
    cases = alike if data.patients_known else blocks_of([data.captures[i].path for i in rows], targets)
    return Scored(
        pixels, rows, Labelled(data.labels, benign, targets, found.probabilities, alike),
        Labelled(data.labels, benign, targets, found.probabilities, cases),
        "patient" if data.patients_known else "block", found,
    )  # fmt: skip


def predict(runner: GraphRunner, pixels: Pixels, rows: NDArray[np.int64], advance: Any = None) -> Predictions:
    """All outputs for the captures `rows` of a memory map, which is never loaded whole."""
    parts = [runner.predict(pixels[part], advance) for part in np.array_split(rows, max(1, len(rows) // 512))]
    return Predictions(
        np.concatenate([one.probabilities for one in parts]),
        np.concatenate([one.embedding for one in parts]),
        None if parts[0].cam is None else np.concatenate([one.cam for one in parts if one.cam is not None]),
    )


def metrics(scored: Scored, temperature: float, policy: CasePolicy, sites: Sequence[str | None]) -> dict[str, Any]:
    """Per capture; per patient, or per block where patients are unknown; per site where sites are; activation."""
    result = capture_metrics(scored.of, temperature)
    result[f"per_{scored.unit}"] = patient_metrics(policy, scored.cases)
    named = np.asarray([site or "" for site in sites])
    if (named != "").any():
        right = scored.of.probabilities.argmax(axis=1) == scored.of.targets
        result["per_site"] = {
            site: {"captures": int((named == site).sum()), "accuracy": float(right[named == site].mean())}
            for site in sorted(set(named.tolist()))
        }
    if scored.found.cam is not None:
        called = scored.of.probabilities.argmax(axis=1)
        shares, areas = explain.activation_share(scored.pixels, scored.rows, scored.found.cam, called)
        result["activation_on_cells"] = explain.by_label(scored.of.labels, scored.of.targets, shares, areas)
    return result


def robustness(runner: GraphRunner, scored: Scored, limit: int) -> dict[str, Any]:
    """The robustness table of these captures, of at most `limit` of them."""
    return audit(runner, scored.pixels, scored.rows, scored.of, limit)


def draw(scored: Scored, measured: dict[str, Any], temperature: float, policy: CasePolicy) -> dict[str, bytes]:
    """The figures that belong to `measured`, which `metrics` made, with its robustness table and shortcuts: PNGs."""
    found = {
        "roc": figures.roc(scored.of),
        "confusion": figures.confusion(scored.of.labels, measured["confusion"]),
        "reliability": figures.reliability(scored.of, temperature),
        "cases": figures.case_scores(scored.cases, policy, scored.unit),
        "predictions": pictures.predictions(scored.pixels, scored.rows, scored.of),
        "worst": pictures.worst(scored.pixels, scored.rows, scored.of, scored.found),
    }
    if "robustness" in measured:
        found["robustness"] = figures.robustness(measured["robustness"], measured["shortcuts"])
    return found
