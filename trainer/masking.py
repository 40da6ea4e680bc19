"""Captures with their nucleated cells hidden, and with as much background hidden instead.

Whoever looks at the cells loses everything by the first and nothing by the second. Only found cells can be hidden, so
nothing follows from captures in which hardly any were found: `too_few_cells` says where that is so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from contract.cells import cell_labels, nucleated

Mask = NDArray[np.uint8]
"""1 where something is hidden, else 0; [S, S]."""
Window = tuple[slice, slice]

RIM = 0.03
"""Share of the side by which a nucleus is widened to hide its cytoplasm too."""
INPAINT_RADIUS = 3
"""Pixels around each hidden one that its colour is worked out from (Telea 2004)."""
LEAST_WITH_CELLS = 0.5
"""The share of a label's captures in which at least one cell must be found. With fewer, most of what is called hidden
or looked at was never found, and figures on cells are not told."""
PLACES = 60
"""So many places are tried for each shape of the control."""


@dataclass(frozen=True)
class Hidden:
    """One capture in both forms, uint8 RGB [S, S, 3]; the areas are the shares of the capture that are hidden."""

    cells: int
    """Nucleated cells found."""
    without_cells: NDArray[np.uint8]
    without_background: NDArray[np.uint8]
    cell_area: float
    background_area: float
    """As large as `cell_area`, or smaller where a crowded field has less background than that."""


def hidden(capture: NDArray[np.uint8], seed: int) -> Hidden:
    """Hide the cells of a capture, uint8 RGB [S, S, 3], and as much background, at places that `seed` draws."""
    cells, shapes = _shapes(capture)
    covered = np.zeros(capture.shape[:2], np.uint8)
    for window, shape in shapes:
        covered[window] |= shape
    elsewhere = _moved(covered, [shape for _, shape in shapes], np.random.default_rng(seed))
    return Hidden(
        cells,
        inpainted(capture, covered),
        inpainted(capture, elsewhere),
        float(covered.mean()),
        float(elsewhere.mean()),
    )


def inpainted(capture: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """The capture with what the mask hides replaced by what surrounds it."""
    if mask.all():  # Telea's method begins at what is seen; without it nothing would be hidden.
        return np.full_like(capture, capture.max(axis=(0, 1)))
    return np.asarray(cv2.inpaint(np.ascontiguousarray(capture), mask, INPAINT_RADIUS, cv2.INPAINT_TELEA), np.uint8)


def rim(side: int) -> Mask:
    """The brush that widens a nucleus by RIM, in a capture of this side."""
    reach = max(1, round(RIM * side))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)), np.uint8)


def too_few_cells(labels: Sequence[str], targets: NDArray[np.int64], cells: NDArray[np.int64]) -> list[str]:
    """The labels of whose captures fewer than LEAST_WITH_CELLS have a cell; `cells` [N] counts those of each capture.

    A label without captures is not among them.
    """
    return [
        label
        for index, label in enumerate(labels)
        if (targets == index).any() and (cells[targets == index] > 0).mean() < LEAST_WITH_CELLS
    ]


def _shapes(capture: NDArray[np.uint8]) -> tuple[int, list[tuple[Window, Mask]]]:
    """The number of cells, and every nucleus with its rim: its window and its mask there, the largest first.

    Bodies of nuclear stain that are no whole cell (cut off by the edge, smeared, clumped) are hidden as well: a network
    may know a cell by them.
    """
    cells, labels = cell_labels(capture)
    others = cv2.connectedComponents((nucleated(capture) & (labels == 0)).view(np.uint8))[1]
    brush = rim(capture.shape[0])
    reach = brush.shape[0] // 2
    shapes = []
    for numbered in (labels, others):
        for number, body in enumerate(find_objects(numbered), start=1):
            down, along = (slice(max(0, part.start - reach), part.stop + reach) for part in body)
            nucleus = (numbered[down, along] == number).view(np.uint8)
            shapes.append(((down, along), np.asarray(cv2.dilate(nucleus, brush), np.uint8)))
    return len(cells), sorted(shapes, key=lambda shape: -int(shape[1].sum()))


def _moved(covered: Mask, shapes: Sequence[Mask], rng: np.random.Generator) -> Mask:
    """The shapes at other places, until they hide as much as `covered`, and nothing of what that hides."""
    side, wanted = covered.shape[0], int(covered.sum())
    moved = np.zeros_like(covered)
    taken = covered.copy()
    for shape in (*shapes, *shapes):
        height, width = shape.shape
        places = zip(
            rng.integers(side - height + 1, size=PLACES), rng.integers(side - width + 1, size=PLACES), strict=True
        )
        windows = [np.s_[top : top + height, left : left + width] for top, left in places]
        window = min(windows, key=lambda place: int((taken[place] & shape).sum()))
        free = shape & (1 - taken[window])
        moved[window] |= free
        taken[window] |= free
        if moved.sum() >= wanted:
            break
    return moved
