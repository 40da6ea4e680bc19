"""Composes a capture: adds up cells as optical densities, then applies light, focus, sensor and scale bar."""

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.synth import HEIGHT, PIXELS_PER_UM, WIDTH
from trainer.synth.cells import Patch, draw_cell
from trainer.synth.plan import CapturePlan, Placed, plan_capture
from trainer.synth.seeds import capture_rngs
from trainer.synth.shapes import Plane, around, soft
from trainer.synth.small import SPRITE, draw_platelet, draw_smudge, turned
from trainer.synth.stain import NOISE_MARGIN, BarStyle, Material, Patient, material_of, patient_of

RGB = NDArray[np.uint8]
"""Pixels [HEIGHT, WIDTH, 3]."""

MARGIN = 128
"""The canvas extends this many px beyond the capture, so no patch needs clipping."""
_MOTTLE = 0.008
"""Amplitude of the plasma film in optical density."""


def draw_capture(seed: int, patient: int, capture: int) -> RGB:
    """Draw capture `capture` of patient `patient` (both count from 1): RGB, uint8 [768, 1024, 3].

    The same three numbers always give the same pixels.
    """
    cv2.setNumThreads(1)
    shared, material = patient_of(seed, patient), material_of(seed, patient)
    plan = plan_capture(seed, patient, capture)
    _plan, rng = capture_rngs(seed, patient, capture)
    stains = _stained(rng, shared, material, plan)
    pixels = _sensed(rng, _lit(rng, shared, plan, stains), material)
    if plan.scale_bar and shared.bar is not None:
        _burn_in(pixels, shared.bar, shared.magnification)
    return pixels


def _stained(rng: np.random.Generator, patient: Patient, material: Material, plan: CapturePlan) -> list[Plane]:
    """Amounts of eosin, chromatin stain, methylene blue and, where there are any, smears, each [HEIGHT, WIDTH]."""
    stains = 4 if plan.smudges else 3
    canvas = [np.zeros((HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN), dtype=np.float32) for _ in range(stains)]
    for x, y in plan.red_cells:
        sprite = material.red_sprites[int(rng.integers(len(material.red_sprites)))]
        scale = patient.magnification * float(np.clip(rng.normal(1, 0.045), 0.85, 1.15))
        red_cell, window = turned(rng, sprite, scale), _window(round(x), round(y), SPRITE)
        if patient.opacity:
            canvas[0][window] *= 1 - patient.opacity * np.clip(red_cell, 0, 1)
        canvas[0][window] += red_cell
    for x, y, diameter in plan.platelets:
        _lay(canvas, draw_platelet(rng, diameter), x, y, hides=0.3)
    for smudge in plan.smudges:
        smear, cover = draw_smudge(rng, smudge.diameter, smudge.stretch, smudge.direction)
        window = _window(smudge.x, smudge.y, cover.shape[0])
        canvas[0][window] *= 1 - 0.45 * cover
        canvas[3][window] += smear
    for cell in plan.nucleated:
        _lay(canvas, drawn_cell(cell, patient.magnification), cell.x, cell.y, hides=0.88, hides_cells=0.8)
    return [plane[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + WIDTH] for plane in canvas]


def drawn_cell(cell: Placed, magnification: float) -> Patch:
    """The nucleated cell as it is drawn, always the same; the patch's middle belongs at the cell's centre."""
    sides = [(bearing, reach / magnification) for bearing, reach in cell.sides]
    patch = draw_cell(np.random.default_rng(cell.seed), cell.kind, cell.diameter / magnification, sides)
    return patch.scaled(magnification)


def _window(x: int, y: int, size: int) -> tuple[slice, slice]:
    top, left = y + MARGIN - size // 2, x + MARGIN - size // 2
    return np.s_[top : top + size, left : left + size]


def _lay(canvas: list[Plane], patch: Patch, x: int, y: int, hides: float, hides_cells: float = 0.0) -> None:
    """Add a cell; it removes the share `hides` of the erythrocytes under it, and `hides_cells` of other cells."""
    window = _window(x, y, patch.cover.shape[0])
    canvas[0][window] *= 1 - hides * patch.cover
    if hides_cells:
        for plane in canvas[1:]:
            plane[window] *= 1 - hides_cells * patch.cover
    for plane, amount in zip(canvas, (patch.eosin, patch.chromatin, patch.blue), strict=False):
        plane[window] += amount


def _lit(rng: np.random.Generator, patient: Patient, plan: CapturePlan, stains: list[Plane]) -> RGB:
    """Light that passes through the stained film, with focus blur and without noise."""
    light = _light(rng, patient)
    for speck in patient.dust:
        size = int(speck.radius * 4) + 9
        top, left = max(speck.y - size // 2, 0), max(speck.x - size // 2, 0)
        target = light[top : top + size, left : left + size]
        spot = speck.density * soft(speck.radius - around(size)[0], speck.radius * 1.5)
        target += spot[: target.shape[0], : target.shape[1]]
    channels = []
    whites = patient.white * plan.gain
    for absorbed, white, shade in zip(patient.absorption.T, whites, patient.light_colour, strict=True):
        passed = cv2.addWeighted(stains[0], -absorbed[0], stains[1], -absorbed[1], float(np.log(white)))
        passed = cv2.scaleAdd(light, -shade, passed)
        for stain, strength in zip(stains[2:], absorbed[2:], strict=False):
            passed = cv2.scaleAdd(stain, -strength, passed)
        channels.append(cv2.convertScaleAbs(cv2.exp(passed)))
    pixels = cv2.merge(channels)
    if plan.blur > 0.25:
        pixels = cv2.GaussianBlur(pixels, (0, 0), plan.blur, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(pixels, dtype=np.uint8)


def _light(rng: np.random.Generator, patient: Patient) -> Plane:
    """Optical density [HEIGHT, WIDTH] of vignetting, a gradient and plasma, which cover the whole field."""
    vignette, slope_x, slope_y = patient.light
    x, y = np.linspace(-1, 1, 16, dtype=np.float32)[None, :], np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
    coarse = vignette * (x * x + y * y) / 2 + slope_x * x + slope_y * y
    coarse = coarse + _MOTTLE * rng.standard_normal((12, 16), dtype=np.float32)
    return np.asarray(cv2.resize(coarse.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))


def _sensed(rng: np.random.Generator, pixels: RGB, material: Material) -> RGB:
    """Add noise, a window of the patient's sensor noise."""
    top, left = (int(offset) for offset in rng.integers(0, NOISE_MARGIN, size=2))
    window = material.noise[top : top + HEIGHT, left : left + WIDTH]
    return np.asarray(cv2.add(pixels, window, dtype=cv2.CV_8U), dtype=np.uint8)


def _burn_in(pixels: RGB, style: BarStyle, magnification: float) -> None:
    """Draw the scale bar and its text in a corner."""
    text, length = f"{style.micrometres} um", round(style.micrometres * PIXELS_PER_UM * magnification)
    stroke = 2 if style.text_scale > 0.75 else 1
    (wide, high), below = cv2.getTextSize(text, style.font, style.text_scale, stroke)
    block = max(length, wide)
    left = WIDTH - 28 - block if style.corner[0] else 28
    bottom = HEIGHT - 30 if style.corner[1] else 30 + high + 14
    middle = left + block // 2
    if style.boxed:
        paper = (255, 255, 255) if sum(style.colour) < 600 else (0, 0, 0)
        cv2.rectangle(pixels, (left - 12, bottom - high - 26), (left + block + 12, bottom + below + 8), paper, -1)
    x0, x1 = middle - length // 2, middle + length // 2
    cv2.line(pixels, (x0, bottom), (x1, bottom), style.colour, style.thickness)
    if style.ticks:
        for x in (x0, x1):
            cv2.line(pixels, (x, bottom - 8), (x, bottom + 8), style.colour, max(2, style.thickness // 2))
    origin = (middle - wide // 2, bottom - 12)
    cv2.putText(pixels, text, origin, style.font, style.text_scale, style.colour, stroke, cv2.LINE_AA)


__all__ = ["CapturePlan", "draw_capture", "plan_capture"]
