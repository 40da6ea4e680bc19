"""`screen compare`: several recipes on one split with the same seeds, each measured through its exported graph."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from contract.bundle import MODEL, Bundle
from contract.errors import DataError, UsageError
from trainer import assess, figures, report
from trainer.config import Config
from trainer.graph import GraphRunner
from trainer.metrics import FIXED_SPECIFICITY
from trainer.progress import say
from trainer.robustness import MASKED
from trainer.run import Prepared, Work, prepare, split_of, train_or_keep
from trainer.splits import Split

PAPER_BACKBONES = (
    "efficientnet_b3", "mobilenetv3_large_100", "vgg19", "vgg16", "legacy_xception", "inception_v3", "resnetv2_50",
    "nasnetalarge", "inception_resnet_v2", "densenet201",
)  # fmt: skip
"""The ten that Ghaderzadeh et al. 2022 compare, by their names in timm; resnetv2_50 stands for their ResNet50V2."""
FIGURES = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("macro_auc", "macro AUC"),
    ("sensitivity", f"ALL sensitivity at specificity {FIXED_SPECIFICITY}"),
    ("ece", "calibration error"),
    ("worst_change", "worst accuracy in the audit"),
)
COSTS = (
    ("parameters", "parameters"),
    ("multiply_adds", "multiply-adds"),
    ("training_seconds", "training s"),
    ("training_rate", "training captures/s"),
    ("scoring_rate", "scoring captures/s"),
)


@dataclass(frozen=True)
class Contestant:
    """A recipe and its name in the table."""

    name: str
    config: Config


def contestants(recipes: Sequence[tuple[str, Config]], backbones: Sequence[str]) -> list[Contestant]:
    """The recipes, or the first recipe with each of the backbones. Raises UsageError if there are fewer than two."""
    if backbones:
        _, config = recipes[0]
        entrants = [Contestant(name, config.changed("model", architecture=name)) for name in backbones]
    else:
        entrants = [Contestant(Path(name).stem, config) for name, config in recipes]
    if len(entrants) < 2 or len({entrant.name for entrant in entrants}) < len(entrants):
        raise UsageError(
            "name at least two recipes, each once (--recipe A --recipe B), or backbones (--backbone A ...)"
        )
    return entrants


def compare(
    root: Path, out: Path, entrants: Sequence[Contestant], seeds: Sequence[int], *, given: Path | None, work: Work
) -> dict[str, Any]:
    """Train every contestant with every seed on the split of the first, and measure it. Bundles stay under `out`.

    A comparison that was killed goes on when it is called again: finished bundles are kept. Writes comparison.json and
    report.html. Raises DataError if labels differ.
    """
    if any(entrant.config.data.labels != entrants[0].config.data.labels for entrant in entrants):
        raise DataError("the recipes have different labels; give the same to all with --labels")
    split: Split | None = None
    rows: list[dict[str, Any]] = []
    called: dict[tuple[str, int], NDArray[np.int64]] = {}
    test = targets = np.zeros(0, np.int64)
    for entrant in entrants:
        prepared = prepare(root, entrant.config, work.cache)
        if split is None:
            split = split_of(prepared, entrant.config, given=given)
            test, targets = split.rows("test"), prepared.data.targets()
        for seed in seeds:
            say(f"{entrant.name}, seed {seed}")
            config = entrant.config.changed("training", seed=seed)
            bundle = train_or_keep(prepared, split, out / f"{entrant.name}-seed{seed}", config, work=work)
            assert bundle is not None
            row, called[entrant.name, seed] = _measure(entrant.name, seed, bundle, prepared, test)
            rows.append(row)
    assert split is not None
    summary = [_summary(entrant.name, [row for row in rows if row["name"] == entrant.name]) for entrant in entrants]
    summary.sort(key=lambda row: -row["accuracy"]["mean"])
    best = [row["name"] for row in summary[:2]]
    result = {
        "split": split.rule,
        "leaks": split.leaks,
        "captures": len(test),
        "seeds": list(seeds),
        "summary": summary,
        "runs": rows,
        "best_two": {
            "names": best,
            "mcnemar": [
                {"seed": seed, **mcnemar(*(called[name, seed] == targets[test] for name in best))} for seed in seeds
            ],
        },
    }
    (out / "comparison.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    drawn = {"comparison": figures.comparison(summary, rows)}
    report.write_figures(out, drawn)
    report.render("comparison.html", out / "report.html", drawn, c=result, figures=FIGURES, costs=COSTS)
    return result


def _measure(
    name: str, seed: int, bundle: Bundle, prepared: Prepared, test: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    measured, provenance = bundle.manifest.metrics["test"], bundle.manifest.provenance
    runner = GraphRunner(bundle.read(MODEL), bundle.manifest.outputs)
    started = time.monotonic()
    probabilities = assess.predict(runner, prepared.decoded.pixels, test).probabilities
    seconds = time.monotonic() - started
    # Bundles of earlier releases have the masked cells among the changes: there a fall is good.
    changes = [line for line in measured["robustness"]["lines"][1:] if line["change"] != MASKED]
    sensitivity = measured["all_versus_benign"]["sensitivity_at_specificity"]
    row = {
        "name": name,
        "seed": seed,
        "bundle": bundle.path.name,
        "accuracy": measured["accuracy"],
        "macro_f1": measured["macro_f1"],
        "macro_auc": measured["macro_auc"],
        "sensitivity": sensitivity[str(FIXED_SPECIFICITY)],
        "ece": measured["calibration"]["ece"],
        "worst_change": min(line["accuracy"] for line in changes),
        "parameters": provenance["parameters"],
        "multiply_adds": provenance["multiply_adds"],
        "training_seconds": provenance["seconds"],
        "training_rate": float(np.median([epoch["captures_per_second"] for epoch in provenance["history"]])),
        "scoring_rate": len(test) / seconds,
    }
    return row, probabilities.argmax(axis=1)


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": name}
    for key, _ in (*FIGURES, *COSTS):
        values = [row[key] for row in rows if row[key] is not None]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[key] = {"mean": float(np.mean(values)) if values else None, "deviation": deviation}
    return summary


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """McNemar's exact test on captures that only one of two recipes calls rightly (McNemar 1947).

    The test takes captures as independent, but captures of one patient are not: the true p is larger.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p": p}
