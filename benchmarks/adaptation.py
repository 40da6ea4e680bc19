"""Tests `screen adapt` on captures that a bundle does not know. Afterwards the bundle should know captures of other
patients from the same microscope, but not photographs and other smears.

The patients of an archive are divided into parts, and each part in turn is held out of the adaptation. Where labels are
known (a labels.csv, or the test captures of a split.csv, whose looks were held out of training), accuracy is shown too.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.novelty import photographs
from benchmarks.record import console, finish, json_option, rounded, table
from contract.archive import FoundCapture, walk_archive
from contract.bundle import MODEL, Bundle
from contract.errors import DataError, UsageError
from contract.novelty import Novelty, read_novelty
from contract.predictions import Predictions
from contract.quality import MEASURES
from contract.tables import read_table
from trainer import adapt_reference
from trainer.adapt_archive import Looked, measured, pixels_of
from trainer.adapt_majority import majority
from trainer.graph import GraphRunner
from trainer.labelled import LABELS_FILE

CONTAMINATION = 0.2
"""Share of photographs, or of captures of another kind, in the archive for the adaptation."""
BLOCK = 20
"""Captures of a held-out look with consecutive names that replace a patient where patients are unknown."""
SEED = 4711


@dataclass(frozen=True)
class Captures:
    """N captures: `pixels` uint8 [N, S, S, 3], their `patients`, the indices of their labels as `targets` (-1 where
    unknown), quality `measures` [N, M], and the outputs of a graph: `probabilities` [N, L], `embedding` [N, D].
    """

    pixels: NDArray[np.uint8]
    patients: NDArray[np.str_]
    targets: NDArray[np.int64]
    measures: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32]

    @classmethod
    def seen(
        cls, runner: GraphRunner, pixels: NDArray[np.uint8], patients: NDArray[np.str_], targets: NDArray[np.int64]
    ) -> "Captures":
        answers, measures = runner.predict(pixels), measured(pixels)
        columns = np.column_stack([measures[name] for name in MEASURES])
        return cls(pixels, patients, targets, columns, answers.probabilities, answers.embedding)

    def of(self, rows: NDArray[Any]) -> "Captures":
        return Captures(*(array[rows] for array in vars(self).values()))

    def joined(self, other: "Captures") -> "Captures":
        return Captures(*(np.concatenate([array, getattr(other, name)]) for name, array in vars(self).items()))

    def looked(self) -> Looked:
        """These captures in the form that `screen adapt` gets from an archive."""
        captures = tuple(
            FoundCapture(f"{patient}/{row}".encode(), patient.encode(), 0, 0)
            for row, patient in enumerate(self.patients)
        )
        measures = dict(zip(MEASURES, self.measures.T, strict=True))
        answers = Predictions(self.probabilities, None, self.embedding)
        return Looked(b"", captures, measures, answers, len(captures), len(np.unique(self.patients)), 0)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="The bundle to adapt.")
@click.option("--archive", type=click.Path(path_type=Path), help="A folder per patient, without labels.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled captures, with --split.")
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="The named split of the parent's training.")
@click.option("--other", type=click.Path(path_type=Path, exists=True), multiple=True, help="Smears that stay novel.")
@click.option("--parts", default=4, show_default=True, help="Number of parts that the patients are divided into.")
@json_option
def command(
    bundle: Path,
    archive: Path | None,
    data: Path | None,
    split: Path | None,
    other: tuple[Path, ...],
    parts: int,
    json_file: Path | None,
) -> None:
    """Share of novel captures and accuracy before and after `screen adapt`, on patients that it did not see."""
    parent = Bundle.open(bundle)
    runner = GraphRunner(parent.read(MODEL), parent.manifest.outputs)
    if archive is not None:
        captures = _of_archive(archive, parent, runner)
    elif data is not None and split is not None:
        captures = _of_split(data, split, parent, runner)
    else:
        raise UsageError("name an --archive, or --data with --split")
    photos = np.stack(photographs(parent.manifest.image.size))
    no_patients, no_targets = np.full(len(photos), "-"), np.full(len(photos), -1)
    foreign = {"photographs": Captures.seen(runner, photos, no_patients, no_targets)}
    foreign |= {folder.name: _of_archive(folder, parent, runner) for folder in other}
    rows = [
        {"mixed in": mixed or "-", **_measured(parent, captures, foreign, mixed, parts)} for mixed in (None, *foreign)
    ]
    shown = [[rounded(value) if isinstance(value, float) else value for value in row.values()] for row in rows]
    figures = {"bundle": parent.manifest.name, "captures": len(captures.pixels), "parts": parts, "rows": rows}
    finish("adaptation", figures, [table("On patients that were not adapted to", [*rows[0]], shown)], json_file)


def _of_archive(folder: Path, parent: Bundle, runner: GraphRunner) -> Captures:
    walk = walk_archive(folder)
    captures = list(walk.captures)
    pixels = np.concatenate(list(pixels_of(walk.root, captures, parent.manifest.image)))
    patients = np.asarray([capture.patient.decode() for capture in captures])
    targets = np.full(len(captures), -1)
    if (folder / LABELS_FILE).exists():
        listed = read_table(folder / LABELS_FILE, needed=("path", "label"))
        labels = {row["path"]: parent.manifest.labels.index(row["label"]) for row in listed.rows}
        targets = np.asarray([labels[capture.path.decode()] for capture in captures])
    return Captures.seen(runner, pixels, patients, targets)


def _of_split(data: Path, split: Path, parent: Bundle, runner: GraphRunner) -> Captures:
    """The test captures of a split by looks; each BLOCK captures of a look replace a patient."""
    listed = read_table(split, needed=("path", "label", "split", "group"))
    rows = sorted((row for row in listed.rows if row["split"] == "test"), key=lambda row: (row["group"], row["path"]))
    places: dict[str, int] = {}
    patients = []
    for row in rows:
        place = places[row["group"]] = places.get(row["group"], -1) + 1
        patients.append(f"{row['group']}-{place // BLOCK}")
    captures = [FoundCapture(row["path"].encode(), b"", 0, 0) for row in rows]
    pixels = np.concatenate(list(pixels_of(os.fsencode(data.resolve()), captures, parent.manifest.image)))
    targets = np.asarray([parent.manifest.labels.index(row["label"]) for row in rows])
    return Captures.seen(runner, pixels, np.asarray(patients), targets)


def _measured(
    parent: Bundle, captures: Captures, foreign: dict[str, Captures], mixed: str | None, parts: int
) -> dict[str, Any]:
    """Means over the parts; each part is held out of the adaptation and then measured."""
    rng = np.random.default_rng(SEED)
    before = read_novelty(parent)
    assert before is not None
    part_figures: list[dict[str, float | None]] = []
    for part in np.array_split(rng.permutation(np.unique(captures.patients)), parts):
        held_out = np.isin(captures.patients, part)
        seen, sets = captures.of(~held_out), {"": captures.of(held_out), **foreign}
        if mixed is not None:
            seen = seen.joined(_among(foreign[mixed], seen, rng))
        looked = seen.looked()
        try:
            is_own = majority(looked, adapt_reference.blocks_of(parent.manifest, captures.embedding.shape[1])).own
        except DataError as error:
            console.print(f"{mixed or 'nothing'} mixed in: {error}")
            continue
        figures = _shares(before, sets[""], "before")
        with TemporaryDirectory() as folder:
            adapted = adapt_reference.take(
                Path(folder), parent.manifest, before,
                seen.embedding[is_own], 1 - seen.probabilities[is_own, parent.manifest.benign_index],
                {name: values[is_own] for name, values in looked.measures.items()}, looked.patient_numbers()[is_own],
            ).known  # fmt: skip
        figures |= _shares(adapted, sets[""], "after")
        figures |= {f"{name} novel": float((adapted.of(sets[name].embedding) > 1).mean()) for name in foreign}
        part_figures.append(figures)
    names = part_figures[0] if part_figures else {}
    means = {name: _mean(np.asarray([figures[name] for figures in part_figures])) for name in names}
    return {"refused": parts - len(part_figures), **means}


def _shares(novelty: Novelty, captures: Captures, when: str) -> dict[str, float | None]:
    """Share of captures that are novel, share called right, and share called right among those that are not novel."""
    novel = novelty.of(captures.embedding) > 1
    right, labelled = captures.probabilities.argmax(axis=1) == captures.targets, captures.targets >= 0
    return {
        f"novel {when}": _mean(novel),
        f"right {when}": _mean(right[labelled]),
        f"right of not novel {when}": _mean(right[labelled & ~novel]),
    }


def _mean(values: NDArray[Any]) -> float | None:
    measured_values = [float(value) for value in values if value is not None]
    return sum(measured_values) / len(measured_values) if measured_values else None


def _among(foreign: Captures, seen: Captures, rng: np.random.Generator) -> Captures:
    """Foreign captures, assigned to the patients of `seen`: enough to be the share CONTAMINATION of all captures."""
    count = round(len(seen.pixels) * CONTAMINATION / (1 - CONTAMINATION))
    rows = rng.choice(len(foreign.pixels), count, replace=count > len(foreign.pixels))
    return replace(foreign.of(rows), patients=rng.choice(np.unique(seen.patients), count))
