"""What can be told of a capture without knowing a cell: colour, sharpness, corners, scale bar, likeness to others.

These are the shortcuts that a network may take. The audit reports them, the splits keep them apart, and beside every
accuracy stands what a simple classifier reaches with them alone.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.preprocessing import StandardScaler

from contract.imaging import ImageSpec
from contract.quality import BAR_CONTRAST, BAR_LENGTH, BAR_THICKNESS, BAR_ZONE

Pixels = NDArray[np.uint8]
T = TypeVar("T")

SPEC = ImageSpec(size=224, resampling="linear", jpeg_oversampling=1.25)
"""How captures are decoded to take their traits, whatever size a recipe has: so that recipes share splits and folds."""
HASH_SIDE = 256
"""Captures are brought to this side before hashing."""
CORNER = (0.36, 0.18)
"""Width and height of a corner, as shares of the sides: what a scale bar with its text takes up."""
CORNER_GRID = (12, 6)


@dataclass(frozen=True)
class Traits:
    """Of N captures: `colour` [N, 6] means and deviations of R, G, B; `background` [N, 3] median colour of the
    brightest fifth; `stained` [N, 3] median colour of what is darker than most but not darkest, which is erythrocytes;
    `sharpness` [N] variance of the Laplacian of grey levels; `corners` [N, 288] all four corners in grey, coarse;
    `bars` the box (left, top, right, bottom) of the scale bar, in pixels, where one was found; `hashes` uint64 [N],
    perceptual.
    """

    colour: NDArray[np.float64]
    background: NDArray[np.float64]
    stained: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    corners: NDArray[np.float64]
    bars: list[tuple[int, int, int, int] | None]
    hashes: NDArray[np.uint64]

    def of(self, rows: NDArray[np.int64]) -> "Traits":
        """The traits of some rows alone."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        return Traits(**arrays, bars=[self.bars[row] for row in rows])

    def appearance(self) -> NDArray[np.float64]:
        """Standardised numbers by which captures of one smear, microscope and camera resemble each other, [N, 13].

        Colour of the background and of erythrocytes, the direction of their stain in optical density (which the
        thickness of the smear does not change), and at half the weight the style of the scale bar: whether there is
        one, where, and how long. What depends on the cells that happen to lie in a field is left out: on two sets of
        drawings whose patients are known, twelve clusters by these agree with patients better (adjusted mutual
        information 0.56 and 0.73) than by means, deviations and sharpness of everything (0.36 and 0.45).
        """
        density = _density(self.stained) - _density(self.background)
        direction = density / np.maximum(np.linalg.norm(density, axis=1, keepdims=True), 1e-6)
        style = np.zeros((len(self.bars), 4))
        for row, bar in zip(style, self.bars, strict=True):
            if bar is not None:
                left, top, right, bottom = bar
                row[:] = 1, (left + right) / 2, (top + bottom) / 2, right - left
        looks = StandardScaler().fit_transform(np.column_stack([self.background, self.stained, direction]))
        return np.column_stack([looks, BAR_WEIGHT * StandardScaler().fit_transform(style)])


ARRAYS = ("colour", "background", "stained", "sharpness", "corners", "hashes")
BAR_WEIGHT = 0.5


def _density(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log(np.maximum(colours, 1) / 255))


def traits_of(
    pixels: Pixels, rows: Sequence[int] | None = None, advance: Callable[[int], None] | None = None
) -> Traits:
    """Traits of captures, uint8 [N, S, S, 3], or of some rows of them; `advance` is called with 1 for each."""
    chosen = range(len(pixels)) if rows is None else rows

    def one(index: int) -> dict[str, Any]:
        capture = np.asarray(pixels[index])
        grey = cv2.cvtColor(capture, cv2.COLOR_RGB2GRAY)
        if advance is not None:
            advance(1)
        return {
            "colour": colour_numbers(capture),
            "background": _median_colour(capture, grey, 80, 100),
            "stained": _median_colour(capture, grey, 8, 30),
            "sharpness": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
            "corners": _corners(grey),
            "hashes": np.uint64(perceptual_hash(capture)),
            "bar": find_scale_bar(capture),
        }

    found = in_threads(one, chosen)
    return Traits(
        **{name: np.stack([row[name] for row in found]) for name in ARRAYS}, bars=[row["bar"] for row in found]
    )


def in_threads(function: Callable[[int], T], rows: Sequence[int]) -> list[T]:
    """The function of every row, in order; OpenCV, Pillow and NumPy let other threads run meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, rows))


def colour_numbers(capture: Pixels) -> NDArray[np.float64]:
    """Means and standard deviations of R, G, B: six numbers."""
    mean, deviation = cv2.meanStdDev(capture)
    return np.concatenate([mean[:, 0], deviation[:, 0]])


def _median_colour(capture: Pixels, grey: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """Median colour of the pixels whose grey lies between two percentiles of all."""
    least, most = np.percentile(grey, [low, high])
    return np.asarray(np.median(capture[(grey >= least) & (grey <= most)], axis=0), np.float64)


def _corners(grey: NDArray[Any]) -> NDArray[np.float64]:
    """All four corners, [4 * 72], each at a coarse grid."""
    height, width = (round(grey.shape[axis] * share) for axis, share in ((0, CORNER[1]), (1, CORNER[0])))
    parts = [grey[:height, :width], grey[:height, -width:], grey[-height:, :width], grey[-height:, -width:]]
    return np.concatenate([cv2.resize(p, CORNER_GRID, interpolation=cv2.INTER_AREA).ravel() for p in parts]) / 255.0


def perceptual_hash(capture: Pixels) -> int:
    """64-bit perceptual hash: signs of the low frequencies of the cosine transform (imagehash.phash)."""
    image = Image.fromarray(capture).resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR)
    return int(str(imagehash.phash(image)), 16)


def near_duplicates(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """Pairs of rows whose hashes differ in at most `bits` bits, [P, 2], the smaller row first."""
    found = []
    for row in range(len(hashes) - 1):
        apart = np.bitwise_count(hashes[row + 1 :] ^ hashes[row])
        near = np.flatnonzero(apart <= bits) + row + 1
        found.append(np.column_stack([np.full(len(near), row), near]))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def clusters(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the cluster of each of `count` rows: rows that a chain of pairs connects are one."""
    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def find_scale_bar(capture: Pixels) -> tuple[int, int, int, int] | None:
    """The box (left, top, right, bottom) of a burnt-in scale bar near the upper or lower edge, or None.

    A bar is a stripe between two straight horizontal edges of opposite sign. Captures uint8 [H, W, 3]; below some
    200 px thin bars blur away and are missed.
    """
    height, width = capture.shape[:2]
    step = np.diff(capture.astype(np.int16), axis=0)  # [H - 1, W, 3]
    length = max(8, round(BAR_LENGTH * width))
    kernel = np.ones((1, length), np.uint8)
    zone = np.zeros(height - 1, bool)
    zone[: round(BAR_ZONE * height)] = zone[-round(BAR_ZONE * height) :] = True
    best: tuple[int, int, int, int] | None = None
    for channel in range(3):
        edges = []
        for sign in (1, -1):
            steep = ((sign * step[:, :, channel] >= BAR_CONTRAST) & zone[:, None]).astype(np.uint8)
            edges.append(cv2.morphologyEx(steep, cv2.MORPH_OPEN, kernel))
        for first, second in (edges, edges[::-1]):
            box = _stripe(first, second, round(BAR_THICKNESS * height), length)
            if box is not None and (best is None or box[2] - box[0] > best[2] - best[0]):
                best = box
    return best


def _stripe(first: NDArray[Any], second: NDArray[Any], thickest: int, length: int) -> tuple[int, int, int, int] | None:
    """A run of `first` edges with a run of `second` edges below it, within `thickest` rows: the longest such."""
    best = None
    for top in np.flatnonzero(first.any(axis=1)):
        below = second[top + 1 : top + 1 + thickest]
        for offset in np.flatnonzero(below.any(axis=1)):
            shared = np.flatnonzero(first[top] & below[offset])
            if len(shared) < length:
                continue
            box = (int(shared[0]), int(top) + 1, int(shared[-1]) + 1, int(top + offset) + 2)
            if best is None or box[2] - box[0] > best[2] - best[0]:
                best = box
    return best


def without_scale_bar(capture: Pixels, bar: tuple[int, int, int, int]) -> Pixels:
    """The capture with the bar, and text above or below it, painted over in the colour of the background.

    What is painted over is the bar, and what stands out from a wide median by `BAR_CONTRAST` grey levels near it.
    """
    height, width = capture.shape[:2]
    left, top, right, bottom = bar
    x0, x1 = max(0, left - width // 25), min(width, right + width // 25)
    y0, y1 = max(0, top - height // 9), min(height, bottom + height // 9)
    wide = cv2.medianBlur(np.ascontiguousarray(capture), 2 * (min(height, width) // 16) + 1)
    apart = np.abs(capture.astype(np.int16) - wide).max(axis=2) >= BAR_CONTRAST
    mask = np.zeros((height, width), np.uint8)
    mask[y0:y1, x0:x1] = apart[y0:y1, x0:x1]
    mask[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = 1
    clean = capture.copy()
    grey = cv2.cvtColor(np.ascontiguousarray(capture), cv2.COLOR_RGB2GRAY)
    clean[cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0] = _median_colour(capture, grey, 80, 100)
    return clean
