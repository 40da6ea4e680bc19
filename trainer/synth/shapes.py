"""Shapes and textures on small patches: polar outlines, soft masks, smooth noise."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
"""Grey values [H, W] of a patch or a capture."""

ANGLES = 1024
"""Number of steps in an outline around a full circle."""
Sides = Sequence[tuple[float, float]]
"""Straight sides of a pressed cell: the bearing in radians and the distance in px from the patch's centre."""
_CORNER = 6.0
"""Roundness in px where a pressed side meets the outline."""
_REACH = 160
"""Largest distance of a patch's corner from a shape's centre along one axis, px."""


@lru_cache(maxsize=1)
def _polar() -> tuple[Plane, NDArray[np.int16]]:
    """Radius in px and angle in 1/ANGLES turns around the centre of a square of 2*_REACH+1 px."""
    axis = np.arange(-_REACH, _REACH + 1, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle = np.floor((np.arctan2(y, x) / (2 * np.pi) % 1.0) * ANGLES).astype(np.int16) % ANGLES
    return np.hypot(x, y), angle


def around(size: int, dx: int = 0, dy: int = 0) -> tuple[Plane, NDArray[np.int16]]:
    """Radius and angle index [size, size] around the patch's centre moved by (dx, dy) px."""
    radius, angle = _polar()
    top, left = _REACH - size // 2 - dy, _REACH - size // 2 - dx
    window = np.s_[top : top + size, left : left + size]
    return radius[window], angle[window]


def outline(rng: np.random.Generator, waviness: float, highest: int = 6) -> Plane:
    """Relative radius [ANGLES] of a wavy circle: harmonics 2 to `highest` that fade with their order."""
    orders = np.arange(2, highest + 1)
    turns = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    sizes = rng.normal(0, waviness, orders.size) * (2.0 / orders) ** 0.7 * 1.6
    phases = rng.uniform(0, 2 * np.pi, orders.size)
    waves = sizes[:, None] * np.cos(orders[:, None] * turns + phases[:, None])
    return np.asarray(1 + waves.sum(axis=0), dtype=np.float32)


def bump(angle: float, width: float) -> Plane:
    """A Gaussian bump [ANGLES] of height 1 at `angle`, `width` wide (both radians)."""
    turns = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    difference = (turns - angle + np.pi) % (2 * np.pi) - np.pi
    return np.asarray(np.exp(-((difference / width) ** 2)), dtype=np.float32)


def spikes(count: int, phase: float) -> Plane:
    """Waves [ANGLES] between -1 and 1 with `count` crests around the circle, the first at `phase` radians."""
    turns = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    return np.asarray(np.cos(count * (turns - phase)), dtype=np.float32)


def pressed_flat(depth: Plane, sides: Sides, inset: float = 0.0) -> Plane:
    """The depth [S, S] of a shape that is pressed flat against straight sides, at rounded corners; see Sides.

    Each side lies `inset` px nearer to the patch's centre.
    """
    axis = np.arange(depth.shape[0], dtype=np.float32) - depth.shape[0] // 2
    for bearing, reach in sides:
        across = axis[None, :] * np.float32(np.cos(bearing)) + axis[:, None] * np.float32(np.sin(bearing))
        side = np.float32(reach - inset) - across
        corner = np.clip(_CORNER - np.abs(depth - side), 0, None)
        depth = np.minimum(depth, side) - corner * corner * np.float32(0.25 / _CORNER)
    return depth


def soft(depth: Plane, width: float) -> Plane:
    """Mask 0 to 1 from the depth inside an edge in px; the edge is `width` px wide."""
    ramp = np.clip(depth * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)


def ridge(depth: Plane, width: float) -> Plane:
    """1 on the line where depth is 0; it fades as a Gaussian of `width` px."""
    return np.asarray(np.exp(-np.square(depth * np.float32(1 / width))), dtype=np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> Plane:
    """Smooth noise [H, W] of about unit variance, with lumps of about `grain` px."""
    height, width = (max(3, round(side / grain) + 1) for side in shape)
    coarse = rng.standard_normal((height, width), dtype=np.float32)
    if grain <= 1:
        coarse = coarse[: shape[0], : shape[1]]
    fine = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine * np.float32(1.25), dtype=np.float32)


def segment_distance(size: int, start: tuple[float, float], end: tuple[float, float]) -> Plane:
    """Distance in px [size, size] from the line between two points (x, y), which are relative to the patch's centre."""
    axis = np.arange(size, dtype=np.float32) - size // 2
    x, y = axis[None, :] - np.float32(start[0]), axis[:, None] - np.float32(start[1])
    vx, vy = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    along = np.clip((x * vx + y * vy) / max(float(vx * vx + vy * vy), 1e-6), 0, 1)
    return np.asarray(np.hypot(x - along * vx, y - along * vy), dtype=np.float32)
