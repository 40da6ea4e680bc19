"""Cross-validation: every capture is scored once, by the bundle that was not trained on it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from contract.bundle import MODEL, Bundle
from contract.novelty import read_novelty
from contract.terminal import terminal
from trainer import assess
from trainer.export import SPLIT_FILE
from trainer.graph import GraphRunner
from trainer.metrics import Groups, Labelled, capture_metrics
from trainer.progress import bar
from trainer.run import Prepared
from trainer.splits import given_names

FILE = "cross-validation.json"
CONFIDENT = 0.9
"""A call with at least this probability counts as sure: if it is wrong and not novel, nothing warns of it."""


@dataclass(frozen=True)
class HeldOut:
    """For every capture of the data: `fold` [N], the fold that held it out, -1 for none; and the answers of that fold's
    bundle, `probabilities` [N, L] and `novel` [N].
    """

    fold: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    novel: NDArray[np.bool_]


def pool(prepared: Prepared, bundles: list[Bundle], out: Path) -> dict[str, Any]:
    """Score each fold's test captures with its own graph; figures over all of them, and per fold. Writes FILE."""
    data = prepared.data
    held_out = _scored(prepared, bundles)
    rows = np.flatnonzero(held_out.fold >= 0)
    groups: Groups = [data.captures[i].patient for i in rows] if data.patients_known else rows
    benign = data.labels.index(bundles[0].manifest.benign_label)
    targets, probabilities = data.targets()[rows], held_out.probabilities[rows]
    pooled = capture_metrics(Labelled(data.labels, benign, targets, probabilities, groups))
    del pooled["calibration_before"]  # each fold has its own temperature
    called = probabilities.argmax(axis=1)
    right = called == targets
    by_fold = [float(right[held_out.fold[rows] == number].mean()) for number in range(len(bundles))]
    result = {
        "folds": len(bundles),
        "split": bundles[0].manifest.provenance["split"]["rule"],
        "accuracy_by_fold": by_fold,
        "accuracy_mean": float(np.mean(by_fold)),
        "accuracy_deviation": float(np.std(by_fold, ddof=1)),
        "accuracy_worst": min(by_fold),
        "all_or_benign_right": float(((called == benign) == (targets == benign)).mean()),
        "warned": warned(right, probabilities.max(axis=1), held_out.novel[rows]),
        "pooled": pooled,
    }
    (out / FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_folds(result)
    return result


def _scored(prepared: Prepared, bundles: list[Bundle]) -> HeldOut:
    data = prepared.data
    count = len(data.captures)
    held_out = HeldOut(np.full(count, -1), np.full((count, len(data.labels)), np.nan), np.zeros(count, bool))
    with bar("scoring folds", count) as progress:
        for number, bundle in enumerate(bundles):
            names = given_names(bundle.path / SPLIT_FILE, data, bundle.read(SPLIT_FILE))
            rows = np.flatnonzero(np.asarray(names) == "test")
            runner = GraphRunner(bundle.read(MODEL), bundle.manifest.outputs)
            answers = assess.predict(runner, prepared.decoded.pixels, rows, progress.advance)
            held_out.fold[rows] = number
            held_out.probabilities[rows] = answers.probabilities
            if (novelty := read_novelty(bundle)) is not None:
                held_out.novel[rows] = novelty.of(answers.embedding) > 1
    return held_out


def warned(right: NDArray[np.bool_], confidence: NDArray[np.float64], novel: NDArray[np.bool_]) -> dict[str, Any]:
    """Whether a network knows where it is wrong: the share of the wrong, and of the right, captures that are novel or
    called with a probability below 0.9. `right`, `confidence`, `novel` [N]; None if there is no such capture.
    """

    def share(chosen: NDArray[np.bool_], group: NDArray[np.bool_]) -> float | None:
        return float(chosen[group].mean()) if group.any() else None

    doubtful = novel | (confidence < CONFIDENT)
    return {
        "below": CONFIDENT,
        "of_wrong": share(doubtful, ~right),
        "of_right": share(doubtful, right),
        "novel_of_wrong": share(novel, ~right),
        "novel_of_right": share(novel, right),
    }


def print_folds(result: dict[str, Any]) -> None:
    """Print the table of the folds, and the figures over all of them, to stderr."""
    pooled, doubts = result["pooled"], result["warned"]
    low, high = pooled["accuracy_interval"]
    table = Table(
        title=f"{result['folds']} folds: accuracy {result['accuracy_mean']:.4f} ± {result['accuracy_deviation']:.4f}, "
        f"worst {result['accuracy_worst']:.4f}"
    )
    table.add_column("fold")
    table.add_column("accuracy", justify="right")
    for number, accuracy in enumerate(result["accuracy_by_fold"], start=1):
        table.add_row(str(number), f"{accuracy:.4f}")
    console = terminal(stderr=True)
    console.print(table)
    console.print(
        f"All captures together: accuracy {pooled['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), macro F1 "
        f"{pooled['macro_f1']:.4f}, calibration error {pooled['calibration']['ece']:.4f}, ALL or benign right in "
        f"{result['all_or_benign_right']:.4f}.",
        highlight=False,
    )
    if doubts["of_wrong"] is not None:
        console.print(
            f"{doubts['of_wrong']:.1%} of the captures that are called wrongly are novel or below {CONFIDENT:g}, and "
            f"{doubts['of_right'] or 0:.1%} of those called rightly.",
            highlight=False,
        )
