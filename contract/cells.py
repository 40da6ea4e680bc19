"""Nucleated cells of a decoded capture: where they are (a mask), and each one by itself.

Worker, trainer and pictures use these functions; the exported graph of a network with two inputs computes the same mask
(trainer.stain). Everything is measured on a capture's own scale. Its background is the light, its erythrocytes are the
strength of the stain and the unit of length: neither the laboratory's stain nor the number of cells in the field shifts
what counts as a nucleus.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from contract.outcomes import MOST_CELLS

WORKING_SIDE = 100
"""Cells are sought on a copy that is reduced by a whole number, with a side of at least this many pixels: a blast of
the public ALL set (Aria et al. 2021) is still 9 to 16 pixels across."""
DARKEST = 8
"""The smallest grey level that is told apart: without it, the logarithm of a burnt-in black bar would outweigh all."""
BACKGROUND = 0.95
"""Quantile of each channel that is background: in a bright field the brightest twentieth is empty glass."""
VIOLET = (-0.5, 1.0, -0.75)
"""Weights of the optical densities of red, green and blue. Azure-eosin in chromatin absorbs green most and lets blue
pass; haemoglobin absorbs blue (its Soret band), a bluish erythrocyte red: both come out near zero. These weights, and
the constants below, were chosen on 120 captures of BCCD and 240 of the public ALL set; `python -m benchmarks cells`
measures what they find."""
VIOLET_SHARE = 0.42
"""A nucleus is at least this violet for each unit of its green density. Erythrocytes of BCCD are at 0.1, of the public
ALL set at 0.1 to 0.25, the magenta ones of Chula RBC-12 at 0.36, nuclei at 0.55 to 0.7."""
DARK, DARKER = 2.8, 0.1
"""Condensed chromatin is navy rather than violet: it absorbs red and green far more than blue. So what is this many
times as dark in that sense as the capture's erythrocytes is a nucleus too; they count as at least DARKER."""
STRENGTH = 0.5
"""It is also at least this violet for each unit of green density of the capture's erythrocytes: stain in plasma and
the rims of erythrocytes are not."""
FAINTEST = 0.08
"""Green density (natural logarithm) below which a pixel is background, and violet below which it is never a nucleus."""
OPENING = 3
"""Side in pixels of the working copy below which a body disappears from the mask: platelets do."""
RADIUS_PER_DISTANCE = 1.75
"""An erythrocyte's radius over the mean distance to the edge within erythrocytes; 3 for single discs, 2 for long
stacks, and less where they overlap. Chosen such that it is right in the middle of both sets."""
SMALLEST, SMALLEST_SHARE = 0.22, 0.0018
"""A nucleated cell has at least this share of an erythrocyte's area, and of the capture's: platelets have a tenth."""
LARGEST = 16.0
"""And at most so many times an erythrocyte's area; only smears of nuclei are larger."""
SOLID = 0.62
"""Least area over that of the convex hull: clumps of platelets, precipitate and smudges have ragged outlines."""
HOLLOW = 0.004
"""Largest hole, as a share of the capture, that is the pale centre of an erythrocyte and no gap between several."""
RADIUS = (0.025, 0.07)
"""Limits of an erythrocyte's radius as a share of the side: the field has 7 to 20 of them side by side."""
LOBES_APART = 0.25
"""The lobes of one nucleus lie less than twice this many radii of an erythrocyte apart."""
LEAST_MIDDLE = 0.6
"""A cell that touches another is at its middle at least this many radii of an erythrocyte from its edge."""
PEAK = 0.88
"""Touching cells are parted where the distance to the edge falls below this share of that in the middle of a cell."""
LAYOUT, STEPS = 1, 255
"""The stored layout's number, and the steps of a stored share: a 1,024 px wide capture's boxes are exact to 2 px."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A nucleated cell: mostly its nucleus, since cytoplasm is pale. Lengths and places are shares of the capture's
    width and height, so that they hold for the file too.
    """

    left: float
    top: float
    right: float
    bottom: float
    area: float
    """Share of the capture."""
    roundness: float
    """4 pi area / perimeter²: 1 for a circle (Cox 1927), in the capture as decoded, a square."""
    darkness: float
    """Mean optical density of green within it, natural logarithm, 0 for the background."""
    edge: float
    """Share of its outline that lies on the capture's edge: what is beyond is not seen."""


class _Piece(NamedTuple):
    """A part of the mask: its pixels, uint8 0 or 1, in a window of the working copy, and how many they are."""

    window: tuple[slice, slice]
    mask: NDArray[np.uint8]
    area: int


@dataclass(frozen=True)
class _Stain:
    """Of a capture's working copy [s, s]: the mask of nuclei and that of erythrocytes, uint8 0 or 1, and the density of
    green.
    """

    nuclei: NDArray[np.uint8]
    erythrocytes: NDArray[np.uint8]
    green: NDArray[np.float32]


def reduction(side: int) -> int:
    """The whole number by which a capture of this side is reduced to its working copy."""
    return max(1, side // WORKING_SIDE)


def nucleated(capture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where nuclei are. uint8 RGB [S, S, 3] -> bool [S, S], by whole pixels of the working copy."""
    mask = _stain(capture).nuclei
    return np.asarray(cv2.resize(mask, capture.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0)


def find_cells(capture: NDArray[np.uint8]) -> list[Cell]:
    """Every nucleated cell, the largest first, at most MOST_CELLS. uint8 RGB [S, S, 3]."""
    return [cell for cell, _ in _found(_stain(capture))]


def cell_labels(capture: NDArray[np.uint8]) -> tuple[list[Cell], NDArray[np.int32]]:
    """The cells, and which pixel belongs to which: int32 [S, S], 0 for none, else 1 + the cell's place in the list."""
    stain = _stain(capture)
    found = _found(stain)
    labels = np.zeros(stain.nuclei.shape, np.int32)
    for number, (_, piece) in enumerate(found, start=1):
        labels[piece.window][piece.mask > 0] = number
    whole = cv2.resize(labels, capture.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return [cell for cell, _ in found], np.asarray(whole, np.int32)


def _stain(capture: NDArray[np.uint8]) -> _Stain:
    factor = reduction(capture.shape[0])
    side = capture.shape[0] // factor
    small = capture if factor == 1 else cv2.resize(capture, (side, side), interpolation=cv2.INTER_AREA)
    table = np.empty((1, 256, 3), np.float32)
    sample = np.ascontiguousarray(small[::2, ::2])
    for channel in range(3):
        counts = cv2.calcHist([sample], [channel], None, [256], [0, 256]).cumsum()
        white = max(DARKEST, int(np.searchsorted(counts, BACKGROUND * counts[-1])))
        table[0, :, channel] = math.log(white) - _LOGARITHMS
    density = cv2.blur(cv2.LUT(small, table), (3, 3))
    red, green, blue = cv2.split(density)
    violet = cv2.transform(density, _VIOLET)
    stained = violet > VIOLET_SHARE * green
    red_cells = ((green > FAINTEST) & ~stained).view(np.uint8)
    dark = cv2.min(red, green) - blue
    red_cells &= (dark < DARK * max(DARKER, cv2.mean(dark, red_cells)[0])).view(np.uint8)
    strength, usual = cv2.mean(cv2.merge([green, dark]), red_cells)[:2]
    is_violet = stained & (violet > max(FAINTEST, STRENGTH * strength))
    nuclei = is_violet | (dark > DARK * max(DARKER, usual))
    opened = np.asarray(cv2.morphologyEx(nuclei.view(np.uint8), cv2.MORPH_OPEN, _OPENING), np.uint8)
    return _Stain(opened, red_cells, np.asarray(green, np.float32))


def _found(stain: _Stain) -> list[tuple[Cell, _Piece]]:
    """The cells and their pixels, the largest first."""
    radius = _erythrocyte_radius(stain.erythrocytes)
    red_cell, capture = math.pi * radius**2, stain.nuclei.size
    least, most = max(SMALLEST * red_cell, SMALLEST_SHARE * capture), LARGEST * red_cell
    pieces = [piece for piece in _parted(_joined(stain.nuclei, radius), radius, least) if least <= piece.area <= most]
    pieces.sort(key=lambda piece: -piece.area)
    measured = ((_measured(piece, stain.green), piece) for piece in pieces)
    return list(islice(((cell, piece) for cell, piece in measured if cell is not None), MOST_CELLS))


def _erythrocyte_radius(erythrocytes: NDArray[np.uint8]) -> float:
    """In pixels of the working copy; between the limits below where a field has none, or is full of them."""
    side = erythrocytes.shape[0]
    every_second = np.ascontiguousarray(erythrocytes[::2, ::2])
    filled = _without_holes(every_second, at_most=HOLLOW * every_second.size)
    distance = 2 * cv2.mean(cv2.distanceTransform(filled, cv2.DIST_L2, 3), filled)[0]
    return float(np.clip(RADIUS_PER_DISTANCE * distance, RADIUS[0] * side, RADIUS[1] * side))


def _without_holes(mask: NDArray[np.uint8], at_most: float) -> NDArray[np.uint8]:
    """The mask with its holes of up to `at_most` pixels filled: pale centres of erythrocytes, pale chromatin."""
    outlines, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return mask
    inner = tree[0][:, 3] >= 0
    holes = [one for one, hole in zip(outlines, inner, strict=True) if hole and cv2.contourArea(one) <= at_most]
    return np.asarray(cv2.drawContours(mask.copy(), holes, -1, 1, cv2.FILLED), np.uint8)


def _joined(nuclei: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Lobes of one nucleus joined, holes filled."""
    reach = 2 * round(LOBES_APART * radius) + 1
    closed = cv2.morphologyEx(nuclei, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    return _without_holes(np.asarray(closed, np.uint8), at_most=math.pi * radius**2)


def _parted(bodies: NDArray[np.uint8], radius: float, least: float) -> Iterator[_Piece]:
    """Every body of at least this area; where cells touch, each of them.

    Their middles, where the distance to the edge is near its highest, lie apart, and every pixel belongs to the nearest
    middle. Only what is about as wide as an erythrocyte is a cell by itself; the lobes of a nucleus are narrower.
    """
    distance = cv2.distanceTransform(bodies, cv2.DIST_L2, 3)
    reach = 2 * round(radius) + 1
    highest = cv2.dilate(distance, np.ones((reach, reach), np.uint8))
    middles = ((distance >= PEAK * highest) & (distance >= LEAST_MIDDLE * radius)).view(np.uint8)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(bodies)
    for label in range(1, count):
        left, top, width, height, area = boxes[label].tolist()
        if area < least:
            continue
        window = np.s_[top : top + height, left : left + width]
        body = (labels[window] == label).view(np.uint8)
        inner = middles[window] & body
        parts, _ = cv2.connectedComponents(inner)
        if parts <= 2:
            yield _Piece(window, body, area)
            continue
        _, nearest = cv2.distanceTransformWithLabels(1 - inner, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
        for part in range(1, parts):
            mask = body & (nearest == part).view(np.uint8)
            yield _Piece(window, mask, cv2.countNonZero(mask))


def _measured(piece: _Piece, green: NDArray[np.float32]) -> Cell | None:
    """The cell of one piece; None where its outline is ragged."""
    side = green.shape[0]
    outline = max(cv2.findContours(piece.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    length, hull = cv2.arcLength(outline, True), cv2.convexHull(outline)
    # A contour runs through the middles of the outermost pixels, half a pixel inside the edge.
    if piece.area < SOLID * (cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1):
        return None
    down, right = piece.window
    left, top, width, height = cv2.boundingRect(outline)
    left, top = left + right.start, top + down.start
    right_end, bottom = left + width, top + height
    edge = 0.0
    if left == 0 or top == 0 or right_end == side or bottom == side:
        columns, rows = outline[:, 0, 0] + right.start, outline[:, 0, 1] + down.start
        edge = float(((columns % (side - 1) == 0) | (rows % (side - 1) == 0)).mean())
    return Cell(
        left / side, top / side, right_end / side, bottom / side,
        area=piece.area / side**2,
        roundness=min(1.0, 4 * math.pi * piece.area / (length + math.pi) ** 2),
        darkness=cv2.mean(green[piece.window], piece.mask)[0],
        edge=edge,
    )  # fmt: skip


def evidence_of(cells: Sequence[Cell], activation: NDArray[np.floating]) -> NDArray[np.float32]:
    """What the activation map says at each cell: the share of each label, float32 [cells, L]; rows sum to 1.

    `activation` [L, h, w] has logits at every place. Their softmax over the labels is averaged over a cell's box, each
    place weighted by how much of the box it is. A place sees far more than its own area (its receptive field), so the
    share says what the network found *around here*, not what it would say about this cell alone.
    """
    logits = np.asarray(activation, np.float32)
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)
    if not cells:
        return np.empty((0, len(shares)), np.float32)
    boxes = np.array([(cell.left, cell.top, cell.right, cell.bottom) for cell in cells], np.float32)
    down = _overlaps(boxes[:, 1], boxes[:, 3], shares.shape[1])
    along = _overlaps(boxes[:, 0], boxes[:, 2], shares.shape[2])
    return np.asarray(np.einsum("nh,nw,lhw->nl", down, along, shares, optimize=True), np.float32)


def _overlaps(begin: NDArray[np.float32], end: NDArray[np.float32], places: int) -> NDArray[np.float32]:
    """How much of each span begin..end, shares of a side, lies in each of `places` equal parts; [N, places]."""
    edges = np.arange(places + 1, dtype=np.float32) / places
    shared = np.minimum(end[:, None], edges[1:]) - np.maximum(begin[:, None], edges[:-1])
    return np.asarray(np.maximum(shared, 0) / (end - begin)[:, None], np.float32)


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell as a capture's row has it: its box as shares of width and height, and each label's share of evidence, in
    the order of the bundle's labels; empty where the bundle makes no activation map.
    """

    left: float
    top: float
    right: float
    bottom: float
    shares: tuple[float, ...]


def pack(cells: Sequence[Cell], evidence: NDArray[np.float32] | None) -> bytes:
    """The cells as a capture's row stores them: LAYOUT, the number of labels, then for each cell left, top, right,
    bottom and each label's share, all of them as bytes of 1/255. `evidence` [cells, L]; None for no labels.
    """
    labels = 0 if evidence is None else evidence.shape[1]
    values = np.zeros((len(cells), 4 + labels), np.float32)
    for row, cell in zip(values, cells, strict=True):
        row[:4] = cell.left, cell.top, cell.right, cell.bottom
    if evidence is not None:
        values[:, 4:] = evidence
    return bytes((LAYOUT, labels)) + np.rint(values * STEPS).astype(np.uint8).tobytes()


def unpack(stored: bytes) -> list[StoredCell]:
    """The cells that `pack` stored. Raises ValueError for bytes of another layout."""
    if len(stored) < 2 or stored[0] != LAYOUT or (len(stored) - 2) % (4 + stored[1]):
        raise ValueError(
            f"cells are stored in a layout that this release does not read (it begins with {stored[:2]!r})"
        )
    values = np.frombuffer(stored, np.uint8, offset=2).reshape(-1, 4 + stored[1]) / STEPS
    return [StoredCell(row[0], row[1], row[2], row[3], tuple(row[4:])) for row in values.tolist()]


_LOGARITHMS = np.log(np.maximum(np.arange(256), DARKEST)).astype(np.float32)
_VIOLET = np.asarray([VIOLET], np.float32)
_OPENING = np.ones((OPENING, OPENING), np.uint8)
