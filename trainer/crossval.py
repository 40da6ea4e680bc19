"""Cross-validation: every capture is scored once, by the bundle that has not seen it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from contract.bundle import MODEL, Bundle
from trainer import assess
from trainer.export import SPLIT_FILE
from trainer.graph import GraphRunner
from trainer.metrics import Groups, Labelled, capture_metrics
from trainer.progress import bar
from trainer.run import Prepared
from trainer.splits import given_names

FILE = "cross-validation.json"


def pool(prepared: Prepared, bundles: list[Bundle], out: Path) -> dict[str, Any]:
    """Score each fold's test captures through its own graph; figures over all of them, and per fold. Writes FILE."""
    data = prepared.data
    count = len(data.captures)
    probabilities = np.full((count, len(data.labels)), np.nan)
    with bar("scoring folds", count) as progress:
        for bundle in bundles:
            rows = np.flatnonzero(np.asarray(given_names(bundle.path / SPLIT_FILE, data)) == "test")
            runner = GraphRunner(bundle.path / MODEL, bundle.manifest.outputs)
            probabilities[rows] = assess.predict(runner, prepared.decoded.pixels, rows, progress.advance).probabilities
    rows = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    groups: Groups = [data.captures[i].patient for i in rows] if data.patients_known else rows
    benign = data.labels.index(bundles[0].manifest.benign_label)
    pooled = capture_metrics(Labelled(data.labels, benign, data.targets()[rows], probabilities[rows], groups))
    del pooled["calibration_before"]  # each fold has a temperature of its own
    accuracies = [bundle.manifest.metrics["test"]["accuracy"] for bundle in bundles]
    result = {
        "folds": len(bundles),
        "split": bundles[0].manifest.provenance["split"]["rule"],
        "accuracy_by_fold": accuracies,
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_deviation": float(np.std(accuracies, ddof=1)),
        "pooled": pooled,
    }
    (out / FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_folds(result)
    return result


def print_folds(result: dict[str, Any]) -> None:
    """The table of the folds, on stderr."""
    low, high = result["pooled"]["accuracy_interval"]
    table = Table(
        title=f"{result['folds']} folds: accuracy {result['accuracy_mean']:.4f} ± {result['accuracy_deviation']:.4f}",
        caption=f"all captures together {result['pooled']['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}",
    )
    table.add_column("fold")
    table.add_column("accuracy", justify="right")
    for number, accuracy in enumerate(result["accuracy_by_fold"], start=1):
        table.add_row(str(number), f"{accuracy:.4f}")
    Console(file=sys.stderr).print(table)
