"""What `screen adapt` makes of captures that a bundle does not know: of other patients of their microscope, which it
should know afterwards, and of photographs and other smears, which it should not.

An archive's patients are cut into parts; each part in turn is what was not adapted to. Where labels are known (a
labels.csv, or the test captures of a split.csv, whose looks were held out of training) accuracy is shown, too.
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
from contract.quality import MEASURES
from trainer import adapt_reference
from trainer.adapt_archive import Looked, measured, pixels_of
from trainer.adapt_majority import majority
from trainer.data import LABELS_FILE, read_csv
from trainer.graph import GraphRunner, Predictions

CONTAMINATION = 0.2
"""Share of photographs, or of captures of another kind, in the archive that is adapted to."""
BLOCK = 20
"""Captures of a held-out look with consecutive names that stand for a patient where patients are unknown."""
SEED = 4711


@dataclass(frozen=True)
class Captures:
    """N captures: `pixels` uint8 [N, S, S, 3], whose they are, their labels where known, as indices, else -1, their
    quality `measures` [N, M], and what a graph answered: `probabilities` [N, L], `embedding` [N, D].
    """

    pixels: NDArray[np.uint8]
    patients: NDArray[np.str_]
    targets: NDArray[np.int64]
    measures: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    embedding: NDArray[np.float32]

    @classmethod
    def seen(
        cls, runner: GraphRunner, pixels: NDArray[np.uint8], patients: NDArray[np.str_], targets: NDArray[np.int64]
    ) -> "Captures":
        answers, measures = runner.predict(pixels), measured(pixels)
        columns = np.column_stack([measures[name] for name in MEASURES])
        return cls(pixels, patients, targets, columns, answers.probabilities, answers.embedding)

    def of(self, rows: NDArray[Any]) -> "Captures":
        return Captures(*(one[rows] for one in vars(self).values()))

    def joined(self, other: "Captures") -> "Captures":
        return Captures(*(np.concatenate([one, getattr(other, name)]) for name, one in vars(self).items()))

    def looked(self) -> Looked:
        """As an archive of them would be seen."""
        named = enumerate(self.patients)
        found = tuple(FoundCapture(f"{patient}/{row}".encode(), patient.encode(), 0, 0) for row, patient in named)
        measures = dict(zip(MEASURES, self.measures.T, strict=True))
        answers = Predictions(self.probabilities, self.embedding, None)
        return Looked(b"", found, measures, answers, len(found), len(np.unique(self.patients)), 0)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="The parent.")
@click.option("--archive", type=click.Path(path_type=Path), help="A folder per patient, without labels.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled captures, with --split.")
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="The named split of the parent's training.")
@click.option("--other", type=click.Path(path_type=Path, exists=True), multiple=True, help="Smears that stay novel.")
@click.option("--parts", default=4, show_default=True, help="Parts that the patients are cut into.")
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
    runner = GraphRunner(parent.path / MODEL, parent.manifest.outputs)
    if archive is not None:
        own = _of_archive(archive, parent, runner)
    elif data is not None and split is not None:
        own = _of_split(data, split, parent, runner)
    else:
        raise UsageError("name an --archive, or --data with --split")
    photos = np.stack(photographs(parent.manifest.image.size))
    nobody = np.full(len(photos), "-"), np.full(len(photos), -1)
    strange = {"photographs": Captures.seen(runner, photos, *nobody)}
    strange |= {one.name: _of_archive(one, parent, runner) for one in other}
    rows = [{"mixed in": mixed or "-", **_measured(parent, own, strange, mixed, parts)} for mixed in (None, *strange)]
    shown = [[rounded(value) if isinstance(value, float) else value for value in row.values()] for row in rows]
    figures = {"bundle": parent.manifest.name, "captures": len(own.pixels), "parts": parts, "rows": rows}
    finish("adaptation", figures, [table("On patients that were not adapted to", [*rows[0]], shown)], json_file)


def _of_archive(folder: Path, parent: Bundle, runner: GraphRunner) -> Captures:
    found = walk_archive(folder)
    captures = list(found.captures)
    pixels = np.concatenate(list(pixels_of(found.root, captures, parent.manifest.image)))
    patients = np.asarray([one.patient.decode() for one in captures])
    targets = np.full(len(captures), -1)
    if (folder / LABELS_FILE).exists():
        listed, _ = read_csv(folder / LABELS_FILE, needed=("path", "label"))
        labels = {row["path"]: parent.manifest.labels.index(row["label"]) for row in listed}
        targets = np.asarray([labels[one.path.decode()] for one in captures])
    return Captures.seen(runner, pixels, patients, targets)


def _of_split(data: Path, split: Path, parent: Bundle, runner: GraphRunner) -> Captures:
    """The test captures of a split by looks; every BLOCK of a look stand for a patient."""
    listed, _ = read_csv(split, needed=("path", "label", "split", "group"))
    rows = sorted((row for row in listed if row["split"] == "test"), key=lambda row: (row["group"], row["path"]))
    seen: dict[str, int] = {}
    patients = []
    for row in rows:
        place = seen[row["group"]] = seen.get(row["group"], -1) + 1
        patients.append(f"{row['group']}-{place // BLOCK}")
    found = [FoundCapture(row["path"].encode(), b"", 0, 0) for row in rows]
    pixels = np.concatenate(list(pixels_of(os.fsencode(data.resolve()), found, parent.manifest.image)))
    targets = np.asarray([parent.manifest.labels.index(row["label"]) for row in rows])
    return Captures.seen(runner, pixels, np.asarray(patients), targets)


def _measured(
    parent: Bundle, own: Captures, strange: dict[str, Captures], mixed: str | None, parts: int
) -> dict[str, Any]:
    """Means over the parts: each is left out of the archive that is adapted to, and measured."""
    rng = np.random.default_rng(SEED)
    before = read_novelty(parent)
    assert before is not None
    found: list[dict[str, float | None]] = []
    for part in np.array_split(rng.permutation(np.unique(own.patients)), parts):
        held_out = np.isin(own.patients, part)
        seen, sets = own.of(~held_out), {"": own.of(held_out), **strange}
        if mixed is not None:
            seen = seen.joined(_among(strange[mixed], seen, rng))
        looked = seen.looked()
        try:
            is_own = majority(looked, adapt_reference.blocks_of(parent.manifest, own.embedding.shape[1])).own
        except DataError as error:
            console.print(f"{mixed or 'nothing'} mixed in: {error}")
            continue
        figures = _shares(before, sets[""], "before")
        with TemporaryDirectory() as folder:
            known = adapt_reference.take(
                Path(folder), parent.manifest, before,
                seen.embedding[is_own], 1 - seen.probabilities[is_own, parent.manifest.benign_index],
                {name: values[is_own] for name, values in looked.measures.items()}, looked.patient_numbers()[is_own],
            ).known  # fmt: skip
        figures |= _shares(known, sets[""], "after")
        figures |= {f"{name} novel": float((known.of(sets[name].embedding) > 1).mean()) for name in strange}
        found.append(figures)
    means = {name: _mean(np.asarray([one[name] for one in found])) for name in found[0]} if found else {}
    return {"refused": parts - len(found), **means}


def _shares(known: Novelty, captures: Captures, when: str) -> dict[str, float | None]:
    """Shares of captures that are novel, that are right, and that are right of those that are not novel."""
    novel = known.of(captures.embedding) > 1
    right, labelled = captures.probabilities.argmax(axis=1) == captures.targets, captures.targets >= 0
    return {
        f"novel {when}": _mean(novel),
        f"right {when}": _mean(right[labelled]),
        f"right of not novel {when}": _mean(right[labelled & ~novel]),
    }


def _mean(values: NDArray[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _among(strange: Captures, seen: Captures, rng: np.random.Generator) -> Captures:
    """So many strange captures that they make CONTAMINATION of all, as captures of the patients that are there."""
    count = round(len(seen.pixels) * CONTAMINATION / (1 - CONTAMINATION))
    rows = rng.choice(len(strange.pixels), count, replace=count > len(strange.pixels))
    return replace(strange.of(rows), patients=rng.choice(np.unique(seen.patients), count))
