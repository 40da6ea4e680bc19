"""Draws nucleated cells, each on its own patch, as amounts of three stains."""

from dataclasses import dataclass

import cv2
import numpy as np

from trainer.synth.kinds import ANATOMY, NEUTROPHIL_DIAMETER, Anatomy, Kind
from trainer.synth.seeds import between
from trainer.synth.shapes import (
    Plane,
    Sides,
    around,
    bump,
    noise,
    outline,
    pressed_flat,
    ridge,
    segment_distance,
    soft,
)

MARGIN = 12
"""Space in px around a cell on its patch, for blebs and waves."""


@dataclass(frozen=True)
class Patch:
    """A drawn cell: amounts of eosin, chromatin stain and methylene blue, and how much it covers; each [S, S]."""

    eosin: Plane
    chromatin: Plane
    blue: Plane
    cover: Plane

    def scaled(self, scale: float) -> "Patch":
        """The cell at `scale` times its size, its centre again at the middle of the patch, [S', S']."""
        before = self.cover.shape[0]
        after = round(before * scale)
        shift = after // 2 - scale * (before // 2)
        matrix = np.array([[scale, 0, shift], [0, scale, shift]])
        planes = np.dstack([self.eosin, self.chromatin, self.blue, self.cover])
        planes = np.asarray(cv2.warpAffine(planes, matrix, (after, after), flags=cv2.INTER_LINEAR), dtype=np.float32)
        return Patch(*(np.ascontiguousarray(plane) for plane in planes.transpose(2, 0, 1)))


@dataclass(frozen=True)
class _Nucleus:
    """Depth inside the nuclear outline in px, its soft mask and its density; each [S, S]."""

    depth: Plane
    mask: Plane
    density: Plane
    nucleoli: Plane


def cell_diameter(rng: np.random.Generator, kind: Kind) -> float:
    """A random diameter in px for a cell of this kind."""
    return between(rng, NEUTROPHIL_DIAMETER if kind is Kind.NEUTROPHIL else ANATOMY[kind].diameter)


def draw_cell(rng: np.random.Generator, kind: Kind, diameter: float, sides: Sides = ()) -> Patch:
    """Draw a cell of this kind, `diameter` px wide, pressed flat at `sides`."""
    if kind is Kind.NEUTROPHIL:
        return _neutrophil(rng, diameter, sides)
    return _mononuclear(rng, ANATOMY[kind], diameter, sides)


def _patch_size(diameter: float) -> int:
    return int(diameter * 1.12) + 2 * MARGIN


def _mononuclear(rng: np.random.Generator, anatomy: Anatomy, diameter: float, sides: Sides) -> Patch:
    size, radius = _patch_size(diameter), diameter / 2
    share = between(rng, anatomy.nucleus)
    direction = between(rng, (0, 2 * np.pi))
    offset = between(rng, anatomy.eccentricity) * radius * (1 - share) * 0.85
    dx, dy = round(offset * np.cos(direction)), round(offset * np.sin(direction))

    nucleus = _nucleus(rng, anatomy, size, radius * share, (dx, dy), sides)
    distance, angle = around(size)
    edge = outline(rng, anatomy.cell_waviness) * np.float32(radius)
    for _ in range(rng.integers(1, 5)):
        edge += bump(between(rng, (0, 2 * np.pi)), between(rng, (0.15, 0.4))) * radius * between(rng, anatomy.blebs)
    depth = np.maximum(pressed_flat(edge[angle] - distance, sides), nucleus.depth + 1.5)
    cover = soft(depth, 3.0)
    blue = _cytoplasm(rng, anatomy, depth, nucleus)
    blue = blue * cover * _vacuoles(rng, anatomy, size, radius, share, direction)
    return Patch(np.zeros_like(blue), nucleus.density + 0.05 * cover, blue, cover)


def _cytoplasm(rng: np.random.Generator, anatomy: Anatomy, depth: Plane, nucleus: _Nucleus) -> Plane:
    """Methylene blue [S, S]: darker at the membrane, paler beside the nucleus, mottled; it also tints nucleoli."""
    size = depth.shape[0]
    amount = between(rng, anatomy.cytoplasm)
    mottle = 1 + 0.12 * noise(rng, (size, size), 9) + 0.06 * noise(rng, (size, size), 3)
    zones = 1 + 0.35 * ridge(depth - 3, 5.0) - 0.25 * ridge(nucleus.depth + 4, 5.0)
    inside = 1 - 0.6 * nucleus.mask
    return np.asarray(amount * mottle * zones * inside + 0.22 * nucleus.nucleoli, dtype=np.float32)


def _vacuoles(
    rng: np.random.Generator, anatomy: Anatomy, size: int, radius: float, share: float, direction: float
) -> Plane:
    """Factor [S, S] that empties small round holes, most of them on the side away from the nucleus."""
    filled = np.ones((size, size), dtype=np.float32)
    for _ in range(rng.choice(len(anatomy.vacuoles), p=anatomy.vacuoles)):
        bearing, reach = direction + np.pi + rng.normal(0, 0.8), radius * (1 + share) / 2
        distance, _angle = around(size, round(reach * np.cos(bearing)), round(reach * np.sin(bearing)))
        filled *= 1 - 0.85 * soft(between(rng, (3.0, 5.0)) - distance, 2.5)
    return filled


def _nucleus(
    rng: np.random.Generator, anatomy: Anatomy, size: int, radius: float, centre: tuple[int, int], sides: Sides
) -> _Nucleus:
    """A nucleus of `radius` px around `centre`, which is relative to the centre of the patch."""
    distance, angle = around(size, *centre)
    edge = outline(rng, anatomy.nuclear_waviness)
    folds = np.zeros((size, size), dtype=np.float32)
    for _ in range(rng.choice(len(anatomy.clefts), p=anatomy.clefts)):
        bearing, cleft = between(rng, (0, 2 * np.pi)), between(rng, anatomy.cleft_depth)
        edge -= bump(bearing, between(rng, (0.16, 0.34))) * np.float32(cleft)
        folds = np.maximum(folds, _fold(rng, size, radius, centre, bearing, cleft) * np.float32(min(1.0, cleft * 2.5)))
    depth = pressed_flat(edge[angle] * np.float32(radius) - distance, sides, inset=3.0)
    mask = soft(depth, 2.6)
    spots, rims = _nucleoli(rng, anatomy, size, radius, centre)
    texture = _chromatin(rng, anatomy, size) + 0.12 * ridge(depth - 2, 3.0) + 0.22 * rims
    texture *= (1 - spots) * (1 - 0.36 * folds)
    density = np.clip(texture, 0.12, None) * mask * np.float32(between(rng, anatomy.chromatin))
    return _Nucleus(depth, mask, density, spots * mask)


def _chromatin(rng: np.random.Generator, anatomy: Anatomy, size: int) -> Plane:
    """Relative density [S, S] around 1: clumps with fairly sharp borders, and grain."""
    clumps = np.tanh(1.6 * noise(rng, (size, size), between(rng, anatomy.clump_size)))
    grain = noise(rng, (size, size), 3.6)
    contrast, fine = between(rng, anatomy.clump_contrast), between(rng, anatomy.grain_contrast)
    return np.asarray(1 + contrast * clumps + fine * grain, dtype=np.float32)


def _fold(
    rng: np.random.Generator, size: int, radius: float, centre: tuple[int, int], bearing: float, cleft: float
) -> Plane:
    """Pale crease [S, S] that continues from a cleft into the nucleus."""
    outer, inner = radius * (1 - cleft * 0.8), radius * between(rng, (0.15, 0.45))
    bend = bearing + between(rng, (-0.6, 0.6))
    start = (centre[0] + outer * np.cos(bearing), centre[1] + outer * np.sin(bearing))
    end = (centre[0] + inner * np.cos(bend), centre[1] + inner * np.sin(bend))
    distance = segment_distance(size, start, end) + 2.2 * noise(rng, (size, size), 14)
    fading = np.clip(1.15 - segment_distance(size, start, start) / (radius * 0.9), 0, 1)
    return ridge(distance, between(rng, (3.0, 4.5))) * fading


def _nucleoli(
    rng: np.random.Generator, anatomy: Anatomy, size: int, radius: float, centre: tuple[int, int]
) -> tuple[Plane, Plane]:
    """Share of chromatin missing in nucleoli [S, S], and the rims of chromatin around them [S, S]."""
    spots = np.zeros((size, size), dtype=np.float32)
    rims = np.zeros_like(spots)
    count = int(rng.choice(len(anatomy.nucleoli), p=anatomy.nucleoli))
    first = between(rng, (0, 2 * np.pi))
    for index in range(count):
        bearing = first + index * 2 * np.pi / count + rng.normal(0, 0.25)
        reach = radius * (between(rng, (0.05, 0.45)) if count == 1 else between(rng, (0.36, 0.55)))
        x, y = round(centre[0] + reach * np.cos(bearing)), round(centre[1] + reach * np.sin(bearing))
        distance, angle = around(size, x, y)
        spot_radius = between(rng, anatomy.nucleolus_diameter) / 2 * (0.88 if count == 3 else 1.0)
        depth = outline(rng, 0.05)[angle] * np.float32(spot_radius) - distance
        clarity = between(rng, anatomy.nucleolus_clarity)
        spots = np.maximum(spots, clarity * soft(depth, 4.0))
        rims = np.maximum(rims, clarity * ridge(depth + 2.5, 2.5))
    return spots, rims


def _neutrophil(rng: np.random.Generator, diameter: float, sides: Sides) -> Patch:
    """A segmented nucleus in pinkish cytoplasm with fine granules."""
    size, radius = _patch_size(diameter), diameter / 2
    distance, angle = around(size)
    cover = soft(pressed_flat((outline(rng, 0.02) * np.float32(radius))[angle] - distance, sides), 3.0)
    depth = pressed_flat(_lobes(rng, size, radius), sides, inset=3.0)
    mask = soft(depth, 3.0)
    chromatin = 1 + 0.2 * np.tanh(1.5 * noise(rng, (size, size), 13)) + 0.12 * ridge(depth - 2, 3.0)
    granules = np.clip(noise(rng, (size, size), 2.6) - 0.5, 0, 1.5)
    cytoplasm = cover * (1 - mask)
    eosin = cytoplasm * (0.24 + 0.12 * granules + 0.03 * noise(rng, (size, size), 12))
    purple = cytoplasm * (0.06 + 0.09 * granules) + mask * chromatin * np.float32(between(rng, (1.0, 1.15)))
    return Patch(*(np.asarray(plane, dtype=np.float32) for plane in (eosin, purple, 0.03 * cover, cover)))


def _lobes(rng: np.random.Generator, size: int, radius: float) -> Plane:
    """Depth [S, S] in px inside three to five lobes along an arc, joined by strands."""
    count, start = int(rng.integers(3, 6)), between(rng, (0, 2 * np.pi))
    step = between(rng, (1.15, 1.45)) * 3.6 / count
    depth = np.full((size, size), -99, dtype=np.float32)
    previous: tuple[float, float] | None = None
    for index in range(count):
        bearing, reach = start + index * step, radius * between(rng, (0.40, 0.54))
        x, y = reach * np.cos(bearing), reach * np.sin(bearing)
        distance, angle = around(size, round(x), round(y))
        lobe = outline(rng, 0.09, highest=3) * np.float32(radius * between(rng, (0.25, 0.33)) * (4 / count) ** 0.35)
        depth = np.maximum(depth, lobe[angle] - distance)
        if previous is not None:
            depth = np.maximum(depth, between(rng, (2.0, 5.0)) - segment_distance(size, previous, (x, y)))
        previous = (x, y)
    return np.asarray(cv2.GaussianBlur(depth, (0, 0), 1.5), dtype=np.float32)
