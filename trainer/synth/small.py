"""Erythrocytes, platelets and smudge cells: what is in a field beside nucleated cells."""

import cv2
import numpy as np

from trainer.synth import PIXELS_PER_UM
from trainer.synth.cells import Patch
from trainer.synth.seeds import between
from trainer.synth.shapes import Plane, around, noise, outline, ridge, soft, spikes

RED_DIAMETER = 7.2 * PIXELS_PER_UM
SPRITE = 132
"""Side of an erythrocyte's patch, px."""
_C0, _C2, _C4, _THICKEST = 0.81, 7.83, -4.39, 2.57
"""Thickness of an erythrocyte in µm, sqrt(1-r²)(C0 + C2 r² + C4 r⁴): Evans & Fung, Microvascular Research 4 (1972)."""


def red_sprites(
    rng: np.random.Generator, count: int, pallor: float, shape: float, *, full: float = 0.07, crenation: float = 0.0
) -> list[Plane]:
    """A stock of erythrocytes for drawing, each [SPRITE, SPRITE], with 1 at the thickest place.

    `pallor`, 0 to 1, says how pale their centres are, and `full` which share has none; `shape` is the relative
    amplitude of irregular outlines, `crenation` that of spikes.
    """
    return [_red_cell(rng, pallor, shape, full, crenation) for _ in range(count)]


def _red_cell(rng: np.random.Generator, pallor: float, shape: float, full: float, crenation: float) -> Plane:
    odd = rng.random()
    waves = shape * (1.8 if odd < 0.10 else 1.0)
    hollow = float(np.clip(pallor + rng.normal(0, 0.12), 0, 1)) * (0.15 if odd > 1 - full else 1.0)
    distance, angle = around(SPRITE)
    edge = outline(rng, waves, highest=3 if odd < 0.7 else 4) * np.float32(RED_DIAMETER / 2)
    if crenation > 0:
        edge *= 1 + np.float32(crenation) * spikes(int(rng.integers(9, 15)), between(rng, (0, 2 * np.pi)))
    depth = edge[angle] - distance
    shift = rng.integers(-3, 4, size=2)
    inner, _ = around(SPRITE, int(shift[0]), int(shift[1]))
    r2 = np.clip(inner / edge[angle], 0, 1) ** 2
    biconcave = np.sqrt(np.clip(1 - r2, 0, 1)) * (_C0 + _C2 * r2 + _C4 * r2 * r2) / _THICKEST
    dome = 0.86 + 0.12 * r2
    profile = (hollow * np.maximum(biconcave, 0.72 * (r2 > 0.6)) + (1 - hollow) * dome) * soft(depth, 3.4)
    texture = 1 + 0.03 * noise(rng, (SPRITE, SPRITE), 14) + 0.015 * noise(rng, (SPRITE, SPRITE), 4)
    rim = 0.10 * ridge(depth - 2.5, 2.6) - 0.07 * ridge(depth + 4, 3.0)
    return np.asarray(profile * texture + rim, dtype=np.float32)


def turned(rng: np.random.Generator, sprite: Plane, scale: float) -> Plane:
    """The sprite turned by a random angle, scaled and slightly squeezed."""
    angle, squeeze = between(rng, (0, 2 * np.pi)), float(np.clip(rng.normal(1, 0.045), 0.86, 1.14))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.diag([scale * squeeze, scale / squeeze]) @ turn
    middle = np.full(2, (SPRITE - 1) / 2)
    matrix = np.column_stack([linear, middle - linear @ middle])
    return np.asarray(cv2.warpAffine(sprite, matrix, (SPRITE, SPRITE), flags=cv2.INTER_LINEAR), dtype=np.float32)


def draw_platelet(rng: np.random.Generator, diameter: float) -> Patch:
    """A platelet: a pale blue-grey body with purple granules, most of them in the middle."""
    size = int(diameter * 1.4) + 14
    distance, angle = around(size)
    edge = outline(rng, 0.05, highest=4) * np.float32(diameter / 2)
    depth = edge[angle] - distance
    cover = soft(depth, 4.0)
    middle = np.clip(depth / (diameter * 0.35), 0, 1)
    granules = np.clip(0.75 + 0.5 * noise(rng, (size, size), 3.2), 0.1, 1.6)
    purple = cover * (0.10 + 0.04 * granules + middle * granules * between(rng, (0.26, 0.42)))
    return Patch(*(np.asarray(plane, dtype=np.float32) for plane in (0.10 * cover, purple, 0.10 * cover, cover)))


def draw_smudge(rng: np.random.Generator, diameter: float, stretch: float, direction: float) -> tuple[Plane, Plane]:
    """A smudge cell, the smeared nucleus of a burst blast: amount of smear [S, S] and cover [S, S], both 0 to 1.

    It has no outline: it frays into wisps, along `direction` (radians) `stretch` times as far as across it.
    """
    size = 2 * int(diameter * 0.78) + 16
    axis = np.arange(size, dtype=np.float32) - size // 2
    x, y = axis[None, :], axis[:, None]
    along, across = x * np.cos(direction) + y * np.sin(direction), y * np.cos(direction) - x * np.sin(direction)
    distance = np.hypot(along / np.float32(stretch**0.5), across * np.float32(stretch**0.5))
    _radius, angle = around(size)
    edge = outline(rng, 0.07)[angle] * np.float32(diameter / 2)
    frayed = 0.09 * noise(rng, (size, size), 24) + 0.035 * noise(rng, (size, size), 6)
    depth = edge - distance + np.float32(diameter / 2) * frayed
    cover = soft(depth - diameter * 0.06, diameter * 0.09)
    texture = 0.78 + 0.16 * noise(rng, (size, size), 21) + 0.12 * noise(rng, (size, size), 5)
    return np.asarray(cover * np.clip(texture, 0.2, 1.3), dtype=np.float32), cover
