"""How many nucleated cells `contract.cells` finds, how many of what it finds are none, and what that costs.

Truth is what drawings know of themselves, a list of boxes such as `screen synth --cells` writes, or the segmentation of
a labelled set: a folder `Original` and a folder `Segmented` with the same files, black where no cell is.
"""

import csv
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import finish, json_option, rounded, table
from contract.cells import cell_labels, find_cells, nucleated
from contract.imaging import ImageSpec, decode
from contract.quality import measure
from contract.spread import evenly_spread
from trainer import stain
from trainer.augment import to_unit
from trainer.synth.field import draw_capture
from trainer.synth.stain import look_of
from trainer.synth.truth import cell_mask, cells_of

SEED, PATIENTS, OF_EACH = 5, 96, 2
LEAST_COMPONENT = 120
"""Smaller components of a segmentation, in pixels after a small opening, are dirt in it."""
COVERED = 0.4
"""A true cell is found if this share of it is; a found one is none if less than this share of it lies on true ones."""
COVERED_BOX = 0.15
"""The same for a box, which is generous and square, where a nucleus is neither."""
ROUNDS = 5
Box = tuple[float, float, float, float]


class Field(NamedTuple):
    """A capture uint8 [S, S, 3], its true cells as masks or boxes in pixels, and the mask of all of them [S, S]."""

    pixels: NDArray[np.uint8]
    cells: list[NDArray[np.bool_]] | list[Box]
    mask: NDArray[np.bool_]


@click.command()
@click.option(
    "--boxes", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CSV of boxes: path, x_min, ..."
)
@click.option(
    "--segmented", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Labelled set with masks."
)
@click.option(
    "--captures", default=240, show_default=True, type=click.IntRange(min=1), help="At most so many of each label."
)
@click.option(
    "--drawings", default=PATIENTS, show_default=True, type=click.IntRange(min=1), help="Draw so many patients."
)
@click.option(
    "--size", default=224, show_default=True, type=click.IntRange(64, 1024), help="Side of the decoded capture."
)
@json_option
def command(
    boxes: Path | None, segmented: Path | None, captures: int, drawings: int, size: int, json_file: Path | None
) -> None:
    """Nucleated cells that are found, by the truth of drawings, boxes and segmentations, and the time it takes."""
    cv2.setNumThreads(1)
    sets: dict[str, Iterator[Field]] = {}
    if boxes is not None:
        sets["boxes"] = _boxed(boxes, size)
    for folder in sorted((segmented / "Original").iterdir()) if segmented else ():
        sets[f"segmented, {folder.name}"] = _segmented(folder, captures, size)
    for look, fields in _drawn(drawings, size).items():
        sets[f"drawings, {look}"] = iter(fields)
    rows = {name: _scored(list(fields)) for name, fields in sets.items()}
    cost = _cost(size)
    shown = table(
        f"nucleated cells at {size} px",
        ("set", "captures", "true", "found", "false", "false per capture", "count", "graph"),
        [(name, *row.values()) for name, row in rows.items()],
    )
    timed = table("time, as a share of decoding a 1024x768 JPEG", ("", "share"), list(cost.items()))
    finish("cells", {"size": size, "sets": rows, "cost": cost}, (shown, timed), json_file)


def _scored(fields: Sequence[Field]) -> dict[str, Any]:
    true = found = false = cells = counted = 0
    shared = either = 0
    for field in fields:
        _, labels = cell_labels(field.pixels)
        count = int(labels.max())
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        on_true = np.bincount(labels.ravel(), weights=field.mask.ravel(), minlength=count + 1)
        false += int((on_true[1:] < COVERED * areas[1:]).sum())
        cells += count
        true += len(field.cells)
        for one in field.cells:
            if isinstance(one, tuple):
                left, top, right, bottom = one
                box = labels[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
                found += bool((box > 0).mean() >= COVERED_BOX)
                counted += _parts(box, areas)
            else:
                found += bool((labels[one] > 0).mean() >= COVERED)
        graph = stain.nucleated(to_unit(torch.from_numpy(field.pixels[None])))[0, 0].numpy() > 0
        mask = nucleated(field.pixels)
        shared += int((graph & mask).sum())
        either += int((graph | mask).sum())
    boxed = all(isinstance(one, tuple) for field in fields for one in field.cells)
    return {
        "captures": len(fields), "true": true, "found": rounded(found / max(1, true)),
        "false": rounded(false / max(1, cells)), "false_per_capture": rounded(false / max(1, len(fields))),
        "count": rounded(counted / max(1, true)) if boxed else None, "graph": rounded(shared / max(1, either)),
    }  # fmt: skip


def _parts(box: NDArray[np.int32], areas: NDArray[np.int64]) -> int:
    """How many found cells lie mostly in this part of the labels."""
    inside = np.bincount(box.ravel(), minlength=len(areas))
    return int((2 * inside[1:] > areas[1:]).sum())


def _boxed(listing: Path, size: int) -> Iterator[Field]:
    of_file: dict[str, list[list[int]]] = defaultdict(list)
    with listing.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            of_file[row["path"]].append([int(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")])
    for path, boxes in of_file.items():
        decoded = decode((listing.parent / path).read_bytes(), ImageSpec(size=size, resampling="linear"))
        scale = size / np.array([decoded.width, decoded.height] * 2)
        yield _with_boxes(decoded.pixels, [tuple(box * scale) for box in np.array(boxes)])


def _with_boxes(pixels: NDArray[np.uint8], boxes: list[Box]) -> Field:
    mask = np.zeros(pixels.shape[:2], np.bool_)
    for left, top, right, bottom in boxes:
        mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return Field(pixels, boxes, mask)


def _segmented(folder: Path, most: int, size: int) -> Iterator[Field]:
    files = sorted(folder.iterdir())
    for number in evenly_spread(len(files), most):
        file = files[number]
        mask = np.asarray(cv2.imread(str(folder.parents[1] / "Segmented" / folder.name / file.name)))
        cells = cv2.morphologyEx((mask.max(axis=2) > 40).view(np.uint8), cv2.MORPH_OPEN, _CROSS)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(cells)
        labels = cv2.resize(labels.astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST)
        true = [labels == n for n in range(1, len(stats)) if stats[n][cv2.CC_STAT_AREA] >= LEAST_COMPONENT]
        wide = cv2.dilate((labels > 0).view(np.uint8), np.ones((5, 5), np.uint8)) > 0
        yield Field(decode(file.read_bytes(), ImageSpec(size=size, resampling="linear")).pixels, true, wide)


def _drawn(patients: int, size: int) -> dict[str, list[Field]]:
    """Drawings by look. Cells that the frame cuts off are no false ones, so the mask has them too."""
    found: dict[str, list[Field]] = defaultdict(list)
    for patient in range(1, patients + 1):
        for capture in range(1, OF_EACH + 1):
            drawn = draw_capture(SEED, patient, capture)
            scale = size / np.array([drawn.shape[1], drawn.shape[0]] * 2)
            cells = cells_of(SEED, patient, capture)
            boxes = [tuple(np.array([one.x_min, one.y_min, one.x_max, one.y_max]) * scale) for one in cells]
            mask = cv2.resize(
                cell_mask(SEED, patient, capture).view(np.uint8), (size, size), interpolation=cv2.INTER_AREA
            )
            pixels = np.asarray(cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
            found[look_of(SEED, patient).name.lower()].append(Field(pixels, boxes, mask > 0))
    return found


def _cost(size: int) -> dict[str, float | None]:
    """Milliseconds of one core over those of decoding, the median of rounds over drawings of several looks."""
    drawn = [draw_capture(SEED, patient, 1) for patient in range(1, 33, 4)]
    files = [cv2.imencode(".jpg", cv2.cvtColor(one, cv2.COLOR_RGB2BGR))[1].tobytes() for one in drawn]
    spec = ImageSpec(size=size, resampling="linear", jpeg_oversampling=1.25)
    captures = [decode(data, spec).pixels for data in files]
    decoding = _seconds(lambda n: decode(files[n], spec), len(files))
    return {
        "finding cells": rounded(_seconds(lambda n: find_cells(captures[n]), len(files)) / decoding),
        "all measures of quality, cells among them": rounded(
            _seconds(lambda n: measure(captures[n]), len(files)) / decoding
        ),
        "the mask alone": rounded(_seconds(lambda n: nucleated(captures[n]), len(files)) / decoding),
    }


def _seconds(work: Callable[[int], object], count: int) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(count):
            work(number)
        rounds.append(time.perf_counter() - began)
    return float(np.median(rounds))


_CROSS = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
