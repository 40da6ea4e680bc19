"""What is drawn where: the nucleated cells of a capture, for tests and training of what finds them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.synth import HEIGHT, WIDTH
from trainer.synth.field import drawn_cell
from trainer.synth.kinds import Kind
from trainer.synth.plan import Placed, plan_capture
from trainer.synth.shapes import Plane
from trainer.synth.stain import patient_of

_COVERED = 0.5
"""A pixel belongs to a cell that covers at least this share of it."""


@dataclass(frozen=True)
class DrawnCell:
    """A nucleated cell and the box, in px of the capture, around what is seen of it; the maxima lie just outside."""

    kind: Kind
    x_min: int
    y_min: int
    x_max: int
    y_max: int


def cells_of(seed: int, patient: int, capture: int) -> tuple[DrawnCell, ...]:
    """The nucleated cells of a capture (patient and capture count from 1).

    Cells whose centre or most of whose area lies outside the frame are left out, and so are smudge cells and platelets,
    which are no nucleated cells that one counts. A box is that of the whole cell, also where another lies over it.
    """
    cells = []
    for cell, cover, x, y in _covers(seed, patient, capture):
        covered = cover >= _COVERED
        left, top = max(-x, 0), max(-y, 0)
        seen = covered[top : HEIGHT - y, left : WIDTH - x]
        inside = 0 <= cell.x < WIDTH and 0 <= cell.y < HEIGHT
        if not inside or 2 * np.count_nonzero(seen) < np.count_nonzero(covered):
            continue
        rows, columns = np.flatnonzero(seen.any(axis=1)) + top + y, np.flatnonzero(seen.any(axis=0)) + left + x
        cells.append(DrawnCell(cell.kind, int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return tuple(cells)


def cell_mask(seed: int, patient: int, capture: int) -> NDArray[np.bool_]:
    """Where nucleated cells are, nucleus and cytoplasm, bool [HEIGHT, WIDTH]; also those at the edge of the frame."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    for _cell, cover, x, y in _covers(seed, patient, capture):
        left, top = max(-x, 0), max(-y, 0)
        seen = cover[top : HEIGHT - y, left : WIDTH - x] >= _COVERED
        mask[top + y : top + y + seen.shape[0], left + x : left + x + seen.shape[1]] |= seen
    return mask


def _covers(seed: int, patient: int, capture: int) -> Iterator[tuple[Placed, Plane, int, int]]:
    """Each nucleated cell with its cover [S, S] and the place of the cover's first pixel (x, y) in the capture."""
    magnification = patient_of(seed, patient).magnification
    for cell in plan_capture(seed, patient, capture).nucleated:
        cover = drawn_cell(cell, magnification).cover
        half = cover.shape[0] // 2
        yield cell, cover, cell.x - half, cell.y - half
