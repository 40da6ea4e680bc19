"""Nucleated cells called one by one beside whole captures, both by frozen features, on looks that they have not seen.

Labelled captures are divided into five folds by look, twice. Two heads are fitted without each fold: one on whole
captures (recipe `fast`), one on their cells as `screen data cells` cuts them out (recipe `cell`); neither sees
augmented copies. A capture is then called by the mean probabilities of its cells, or of those among them that look most
like ALL. A capture without a cell cannot be called by cells and counts as wrong there.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.record import console, finish, json_option, table, work_folder, work_option
from contract.errors import CaptureRejected
from contract.imaging import RGBImage, decode
from trainer import probe, splits
from trainer.cell_cuts import cuts_of
from trainer.config import Config, load_config
from trainer.data import LabelledData
from trainer.model import build_network
from trainer.run import Prepared, prepare
from trainer.splits import Fold, Split

FOLDS = 5
BATCH = 32
TOP = (3, 10)
"""Of so many cells, those with the highest P(ALL), the mean is taken; beside that of all cells."""
NO_CALL = -1
"""The label of a capture that cannot be called."""
Probabilities = NDArray[np.float64]
Rows = NDArray[np.int64]


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(2025, 2026), show_default=True, help="Seed of the folds."
)
@work_option
@json_option
def command(data: Path, seeds: tuple[int, ...], work: Path | None, json_file: Path | None) -> None:
    """Cells called one by one beside whole captures, on unseen looks of the labelled captures in DATA."""
    whole, single = load_config("fast"), load_config("cell")
    with work_folder(work) as folder:
        prepared = prepare(data, whole, folder / "cache")
    labels, benign = len(prepared.data.labels), prepared.data.labels.index(whole.data.benign_label)
    targets = prepared.data.targets()
    console.print("features of whole captures")
    captures = probe.FrozenFeatures(build_network(whole.model, labels), whole.image.size).of(
        prepared.decoded.pixels[start : start + BATCH] for start in range(0, len(targets), BATCH)
    )
    console.print("features of cells")
    cells, capture_of = _cell_features(data, prepared.data, single)
    drawn = [_called(prepared, whole, single, captures, cells, capture_of, seed, benign) for seed in seeds]
    rows = [{"called by": way, **_figures([draw[way] for draw in drawn], targets, benign)} for way in drawn[0]]
    without = len(targets) - len(np.unique(capture_of))
    record = {"captures": len(targets), "cells": len(cells), "without": without, "rows": rows}
    title = f"{len(targets):,} captures, {len(cells):,} cells, {without} captures without one"
    finish("cellwise", record, [table(title, list(rows[0]), [list(row.values()) for row in rows])], json_file)


def _cell_features(root: Path, data: LabelledData, config: Config) -> tuple[probe.Features, Rows]:
    """The features of all cells [C, F], and each one's capture [C]."""
    capture_of: list[int] = []

    def pixels() -> Iterator[RGBImage]:
        for number, capture in enumerate(data.captures):
            try:
                cuts = list(cuts_of((root / capture.path).read_bytes(), blot=True))
            except CaptureRejected:
                continue
            for cut in cuts:
                capture_of.append(number)
                yield decode(cut.png(), config.image).pixels

    def batches() -> Iterator[NDArray[np.uint8]]:
        batch: list[RGBImage] = []
        for cell in pixels():
            batch.append(cell)
            if len(batch) == BATCH:
                yield np.stack(batch)
                batch.clear()
        if batch:
            yield np.stack(batch)

    frozen = probe.FrozenFeatures(build_network(config.model, len(data.labels)), config.image.size)
    return frozen.of(batches()), np.array(capture_of, np.int64)


def _called(
    prepared: Prepared, whole: Config, single: Config, captures: probe.Features, cells: probe.Features,
    capture_of: Rows, seed: int, benign: int,
) -> dict[str, list[tuple[Rows, Rows]]]:  # fmt: skip
    """By way of calling, for each fold: the rows of its test captures and the labels that they are given."""
    targets = prepared.data.targets()
    folds: dict[str, list[tuple[Rows, Rows]]] = {}
    table_of_data = whole.data.model_copy(update={"split": "appearance"})
    for number in range(1, FOLDS + 1):
        split = splits.assign(prepared.data, prepared.traits, list(prepared.decoded.unreadable), table_of_data, seed,
                              fold=Fold(number, FOLDS))  # fmt: skip
        test = split.rows("test")
        by_whole = _held_out(whole, captures, np.arange(len(targets)), targets, split)
        by_cell = _held_out(single, cells, capture_of, targets, split)
        folds.setdefault("the whole capture", []).append((test, _label(by_whole)))
        of_test = capture_of[np.isin(capture_of, test)]
        for way, top in (("the mean of its cells", None), *((f"the {k} cells most like ALL", k) for k in TOP)):
            by_capture = np.stack([_pooled(by_cell[of_test == row], benign, top, len(by_whole[0])) for row in test])
            folds.setdefault(way, []).append((test, _label(by_capture)))
            if top is None:
                both = np.where(np.isnan(by_capture), by_whole, (by_whole + by_capture) / 2)
                folds.setdefault("both, each by its mean", []).append((test, _label(both)))
    return folds


def _held_out(config: Config, features: probe.Features, capture_of: Rows, targets: Rows, split: Split) -> Probabilities:
    """Probabilities of the rows of `features` whose captures are tested, by a head fitted on those of all others."""
    test = np.isin(capture_of, split.rows("test"))
    fitted = np.isin(capture_of, np.union1d(split.rows("train"), split.rows("validation")))
    labels = targets[capture_of[fitted]]
    counts = np.bincount(labels)
    network = build_network(config.model, len(counts))
    phase = config.training.phases[0]
    probe.fit_head(network, [features[fitted]], labels, len(labels) / (len(counts) * counts), phase.inverse_penalty)
    return probe.probabilities(network, features[test])


def _pooled(cells: Probabilities, benign: int, top: int | None, labels: int) -> Probabilities:
    """The mean [L] of the probabilities [c, L] of a capture's cells, or of the `top` that look most like ALL."""
    if not len(cells):
        return np.full(labels, np.nan)
    mean: Probabilities = cells[np.argsort(cells[:, benign], kind="stable")[:top]].mean(axis=0)
    return mean


def _label(probabilities: Probabilities) -> Rows:
    known = ~np.isnan(probabilities[:, 0])
    return np.where(known, np.nan_to_num(probabilities).argmax(axis=1), NO_CALL)


def _figures(draws: list[list[tuple[Rows, Rows]]], targets: Rows, benign: int) -> dict[str, str]:
    """The figures of a way of calling over the folds of each draw, first / second."""
    by_draw: list[dict[str, float]] = []
    for folds in draws:
        rows, called = (np.concatenate(parts) for parts in zip(*folds, strict=True))
        truth = targets[rows]
        by_draw.append({
            "accuracy": float((called == truth).mean()),
            "worst": min(float((given == targets[test]).mean()) for test, given in folds),
            "macro_f1": float(f1_score(truth, called, labels=np.unique(targets), average="macro")),
            "all_or_benign": float(((called != NO_CALL) & ((called == benign) == (truth == benign))).mean()),
        })  # fmt: skip
    return {key: " / ".join(f"{figures[key]:.3f}" for figures in by_draw) for key in by_draw[0]}
