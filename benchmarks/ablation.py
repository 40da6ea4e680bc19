"""Measures how much each step of our recipe helps on data with a trap: the table of docs/model.md.

    screen synth SYNTH --patients 160 --captures 20 --seed 7
    python -m benchmarks.confounded SYNTH TRAP --last 100
    python -m benchmarks.confounded SYNTH CLEAN --first 101 --clean
    python -m benchmarks.ablation TRAP CLEAN OUT [--seeds 1] [--json FILE]

Every variant is trained on TRAP, where stain and scale bar reveal the label. It is scored on patients of TRAP that it
has not seen, on changed copies of the same captures, and on CLEAN, other patients whose captures reveal nothing. All
are EfficientNet-B0 at 112 px, trained from scratch, because two cores can train that often. Finished variants in OUT
are kept.
"""

import argparse
import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

BASE: dict[str, Any] = {
    "model": {"architecture": "efficientnet_b0", "initial_weights": "none", "dropout": 0.2},
    "image": {"size": 112},
    "data": {"split": "grouped", "validation": 0.15, "test": 0.2},
    "training": {
        "batch_size": 32,
        "phases": [
            {"stages": [{"size": 96, "epochs": 8}, {"size": 112, "epochs": 5}], "learning_rate": 3e-3, "warm_up": 0.2}
        ],
    },
    "augment": {
        "rotation": 20.0, "scale": 0.1, "translation": 0.08, "stain_scale": 0.0, "stain_shift": 0.0, "brightness": 0.0,
        "contrast": 0.0, "white_balance": 0.0, "blur": 0.0, "noise": 0.0,
    },
    "export": {"weights": False, "golden": 4, "audit_captures": 400},
}  # fmt: skip
JITTER = {
    "stain_scale": 0.3, "stain_shift": 0.08, "brightness": 0.15, "contrast": 0.2, "white_balance": 0.1, "grey": 0.1,
    "blur": 0.8, "noise": 0.04,
}  # fmt: skip
CORNERS = {"corner_mask": 0.3, "scale_bar": 0.3}
MORE_CORNERS = {"corner_mask": 0.6, "scale_bar": 0.5}
DENSITY = {"stain_normalisation": "density"}
EMA = {"ema_decay": 0.995}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "1-plain": {},
    "2-stain-jitter": {"augment": JITTER},
    "3-corners": {"augment": JITTER | CORNERS},
    "4-density": {"augment": JITTER | CORNERS, "model": DENSITY},
    "5-more-corners": {"augment": JITTER | MORE_CORNERS, "model": DENSITY},
    "6-ema": {"augment": JITTER | MORE_CORNERS, "model": DENSITY, "training": EMA},
    "7-cutmix": {"augment": JITTER | MORE_CORNERS | {"cutmix": 0.3}, "model": DENSITY, "training": EMA},
    "8-hsv": {"augment": JITTER | MORE_CORNERS, "model": DENSITY | {"second_input": "hsv"}, "training": EMA},
}
"""Name -> its changes to BASE."""
COLUMNS = (
    "test",
    "worst stain",
    "bar removed",
    "bar pasted",
    "corners covered",
    "grey",
    "cells masked",
    "clean",
    "ECE",
)


def run(trap: Path, clean: Path, out: Path, name: str, seed: int) -> dict[str, float]:
    """Train one variant, unless OUT contains it, and collect its figures."""
    config = copy.deepcopy(BASE) | {"name": name}
    for table, changes in VARIANTS[name].items():
        config[table] = config[table] | changes
    config["training"] = config["training"] | {"seed": seed}
    recipe, bundle = out / f"{name}.toml", out / f"{name}-s{seed}"
    recipe.write_text(tomli_w.dumps(config))
    if not bundle.is_dir():
        _screen("train", trap, "--recipe", recipe, "--out", bundle, "--cache", out / "cache")
    clean_file = bundle.with_name(f"{bundle.name}.clean.json")
    if not clean_file.is_file():
        evaluation = _screen("evaluate", bundle, clean, "--audit-captures", 0, "--json", "--cache", out / "cache")
        clean_file.write_text(evaluation)
    test = json.loads((bundle / "bundle.json").read_text())["metrics"]["test"]
    robustness = test["robustness"]
    lines = [*robustness["lines"], *robustness.get("masking", {"lines": []})["lines"]]
    changed = {line["change"]: line["accuracy"] for line in lines}
    figures = (
        test["accuracy"],
        min(value for change, value in changed.items() if change.startswith("stain")),
        changed["scale bar removed"],
        changed["scale bar pasted"],
        changed["all corners covered"],
        changed["greyscale"],
        changed.get("nucleated cells masked out", math.nan),
        json.loads(clean_file.read_text())["metrics"]["accuracy"],
        test["calibration"]["ece"],
    )
    return dict(zip(COLUMNS, figures, strict=True))


def _screen(*arguments: object) -> str:
    words = [sys.executable, "-m", "producer.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603


def main() -> None:
    """Run all variants and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trap", "clean", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print("| variant | seed | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 2) + "|")
    for seed in range(1, options.seeds + 1):
        for name in VARIANTS:
            figures = run(options.trap, options.clean, options.out, name, seed)
            rows.append({"variant": name, "seed": seed, **figures})
            print(f"| {name} | {seed} | " + " | ".join(f"{value:.3f}" for value in figures.values()) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
