"""Accuracy of frozen features on looks that they have not seen, by stage, normalisation, augmented copies and penalty.

Labelled captures are divided into five folds: twice by look, and once at random. Each capture is called by a head that
was fitted without its fold (trainer/probe.py); some captures are also changed as a camera might change them. A row
takes minutes, because no network is trained. docs/model.md compares this with other recipes, measured by
`screen train --cross-validate 5 --split-rule appearance`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import console, finish, json_option, rounded, table, work_folder, work_option
from contract.spread import evenly_spread
from trainer import probe, splits
from trainer.augment import Augment, from_unit
from trainer.config import Config, load_config
from trainer.metrics import Labelled, capture_metrics
from trainer.model import build_network
from trainer.robustness import CHANGES, changed
from trainer.run import Prepared, prepare
from trainer.splits import Fold

FOLDS = 5
BATCH = 32
VIEWS = ("none", "density", "white", "grey")
CHANGED = (
    "JPEG quality 50", "defocus (sigma 0.7 % of the side)", "noise (deviation 0.04)", "brighter (x 1.15)",
    "turned by 15 degrees", "all corners covered",
)  # fmt: skip
CHANGED_CAPTURES = 400
"""Number of captures that are also changed, spread over all captures."""
COPIES = 3


@dataclass(frozen=True)
class Row:
    """A way to use frozen features. `stages` None means the whole backbone. `views` are normalisations from VIEWS."""

    stages: int | None
    views: tuple[str, ...]
    copies: int = 0
    inverse_penalty: float = 0.3
    copies_weight: float = 1.0
    label_smoothing: float = 0.0
    """As in a recipe (trainer/config.py)."""

    @property
    def name(self) -> str:
        where = "whole backbone" if self.stages is None else f"{self.stages} stages"
        fit = f", C {self.inverse_penalty:g}" if self.inverse_penalty != 0.3 else ""
        copies = f", {self.copies} augmented copies that count {self.copies_weight:g}" if self.copies else ""
        smoothed = f", labels smoothed by {self.label_smoothing:g}" if self.label_smoothing else ""
        return f"{where}, {' + '.join(self.views)}{copies}{fit}{smoothed}"


THREE = ("density", "white", "grey")
ROWS = (
    Row(None, ("density",)),
    Row(3, ("density",)),
    *(Row(4, (view,)) for view in VIEWS),
    Row(4, THREE),
    Row(4, THREE, inverse_penalty=0.03),
    Row(4, THREE, inverse_penalty=3.0),
    Row(4, THREE, COPIES, copies_weight=COPIES),
    Row(4, THREE, COPIES, copies_weight=1.0),
    Row(4, THREE, COPIES, 3.0, 0.3),
    Row(4, THREE, COPIES, 3.0, 0.3, 0.05),
    Row(4, THREE, COPIES, 3.0, 0.3, 0.02),
)


@dataclass(frozen=True)
class Features:
    """Features [N, F] by view: of all captures as they are, of augmented copies [K], and of the changed captures."""

    plain: dict[str, probe.Features]
    copies: list[dict[str, probe.Features]]
    altered: dict[str, dict[str, probe.Features]]


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--recipe", default="fast", show_default=True, help="Recipe with the architecture, weights and augmentation."
)
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(2025, 2026), show_default=True, help="Seed of the folds."
)
@work_option
@json_option
def command(data: Path, recipe: str, seeds: tuple[int, ...], work: Path | None, json_file: Path | None) -> None:
    """Accuracy of frozen features on unseen looks of the labelled captures in DATA."""
    config = load_config(recipe)
    with work_folder(work) as folder:
        prepared = prepare(data, config, folder / "cache")
        rows: list[dict[str, Any]] = []
        for stages in dict.fromkeys(row.stages for row in ROWS):
            stage_rows = [row for row in ROWS if row.stages == stages]
            features = _features(prepared, config, stages, stage_rows)
            rows += [_measured(prepared, config, row, features, seeds) for row in stage_rows]
    columns = list(rows[0])
    lines = [list(row.values()) for row in rows]
    finish("looks", {"captures": len(prepared.data.captures), "rows": rows}, [table("Unseen looks", columns, lines)],
           json_file)  # fmt: skip


def _features(prepared: Prepared, config: Config, stages: int | None, rows: Sequence[Row]) -> Features:
    """Features by one network that sees every view of these rows; each view has its own columns."""
    views = tuple(dict.fromkeys(view for row in rows for view in row.views))
    network = build_network(config.model.model_copy(update={"stages": stages, "stain_normalisation": views}), 2)
    frozen = probe.FrozenFeatures(network, config.image.size)
    pixels, count = prepared.decoded.pixels, len(prepared.data.captures)
    generator = torch.Generator().manual_seed(config.training.seed)
    augment = Augment(config.augment, generator)

    def by_view(batches: Iterator[NDArray[np.uint8]], kind: str) -> dict[str, probe.Features]:
        console.print(f"{stages or 'all'} stages, {', '.join(views)}: {kind}")
        return dict(zip(views, np.split(frozen.of(batches), len(views), axis=1), strict=True))

    def batches_of(rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        yield from (pixels[rows[start : start + BATCH]] for start in range(0, len(rows), BATCH))

    all_rows, changed_rows = np.arange(count), _changed_rows(count)
    copies = [
        by_view(
            (from_unit(augment(torch.from_numpy(batch), config.image.size)) for batch in batches_of(all_rows)), "a copy"
        )
        for _ in range(max(row.copies for row in rows))
    ]
    altered = {
        name: by_view((changed(batch, CHANGES[name]) for batch in batches_of(changed_rows)), name) for name in CHANGED
    }  # fmt: skip
    return Features(by_view(batches_of(all_rows), "as they are"), copies, altered)


def _changed_rows(count: int) -> NDArray[np.int64]:
    return evenly_spread(count, CHANGED_CAPTURES)


def _joined(features: dict[str, probe.Features], row: Row) -> probe.Features:
    return np.concatenate([features[view] for view in row.views], axis=1)


def _measured(prepared: Prepared, config: Config, row: Row, features: Features, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of one row: random folds, then each draw of the folds by look, then changed captures by look."""
    console.print(row.name)
    figures: dict[str, Any] = {"frozen features": row.name}
    random_folds, _ = _folds(prepared, config, row, features, "random", seeds[0])
    figures["random"] = rounded(random_folds["accuracy"])
    drawn = [_folds(prepared, config, row, features, "appearance", seed) for seed in seeds]
    for key in ("accuracy", "worst", "macro_f1", "ece", "all_or_benign"):
        figures[f"looks: {key}"] = " / ".join(f"{pooled[key]:.3f}" for pooled, _ in drawn)
    return figures | {f"looks: {name}": rounded(value) for name, value in drawn[0][1].items()}


def _folds(
    prepared: Prepared, config: Config, row: Row, features: Features, rule: str, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Pooled figures over the folds of one draw, and the accuracy on changed test captures of the folds."""
    data, targets = prepared.data, prepared.data.targets()
    table_of_data = config.data.model_copy(update={"split": rule})
    plain, changed_rows = _joined(features.plain, row), _changed_rows(len(targets))
    benign = data.labels.index(config.data.benign_label)
    probabilities, by_fold = np.zeros((len(targets), len(data.labels))), []
    right_by_change = {name: np.zeros(len(changed_rows), bool) for name in CHANGED}
    network = build_network(config.model.model_copy(update={"stages": row.stages, "stain_normalisation": row.views}),
                            len(data.labels))  # fmt: skip
    for number in range(1, FOLDS + 1):
        split = splits.assign(data, prepared.traits, list(prepared.decoded.unreadable), table_of_data, seed,
                              fold=Fold(number, FOLDS))  # fmt: skip
        fitted, test = np.union1d(split.rows("train"), split.rows("validation")), split.rows("test")
        counts = np.bincount(targets[fitted], minlength=len(data.labels))
        passes = [plain[fitted], *(_joined(copy, row)[fitted] for copy in features.copies[: row.copies])]
        weights = len(fitted) / (len(counts) * counts)
        probe.fit_head(network, passes, targets[fitted], weights, row.inverse_penalty, row.copies_weight,
                       row.label_smoothing)  # fmt: skip
        probabilities[test] = probe.probabilities(network, plain[test])
        by_fold.append(float((probabilities[test].argmax(axis=1) == targets[test]).mean()))
        in_test = np.isin(changed_rows, test)
        for name, right in right_by_change.items():
            called = probe.probabilities(network, _joined(features.altered[name], row)[in_test]).argmax(axis=1)
            right[in_test] = called == targets[changed_rows[in_test]]
    pooled = capture_metrics(Labelled(data.labels, benign, targets, probabilities, np.arange(len(targets))))
    called = probabilities.argmax(axis=1)
    figures = {
        "accuracy": pooled["accuracy"],
        "worst": min(by_fold),
        "macro_f1": pooled["macro_f1"],
        "ece": pooled["calibration"]["ece"],
        "all_or_benign": float(((called == benign) == (targets == benign)).mean()),
    }
    return figures, {name: float(right.mean()) for name, right in right_by_change.items()}
