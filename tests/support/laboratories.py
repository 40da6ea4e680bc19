"""Drawings as other laboratories' cameras would have taken them: another stain, light and focus, the same cells."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.synth.archive import patient_name
from trainer.synth.field import draw_capture
from trainer.synth.looks import Look
from trainer.synth.stain import look_of

LABORATORIES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "A": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0.0),
    "B": ((1.5, 0.8, 1.35), (0.98, 0.86, 0.80), 2.0),
    "C": ((0.7, 1.6, 0.9), (0.80, 0.95, 1.0), 0.0),
}
"""Of each: factors on the optical density of R, G, B; on the light; sigma of the blur in pixels."""


def as_taken_in(laboratory: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The drawing, uint8 [H, W, 3], as that laboratory's camera shows it."""
    density, light, blur = LABORATORIES[laboratory]
    passed = np.power(pixels / 255.0, density) * light
    changed = np.clip(255 * passed, 0, 255).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(changed, (0, 0), blur)) if blur else changed


def draw_laboratory(root: Path, laboratory: str, patients: range, captures: int, seed: int = 77) -> Path:
    """Write `captures` captures of each of these patients, 512x384; returns `root`.

    A laboratory has one microscope and one stain: patients count among the drawn ones whose look is pink.
    """
    pink = [drawn for drawn in range(1, 2 * patients.stop + 32) if look_of(seed, drawn) is Look.PINK]
    for patient in patients:
        folder = root / patient_name(patient)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, captures + 1):
            drawn = cv2.resize(draw_capture(seed, pink[patient - 1], number), (512, 384), interpolation=cv2.INTER_AREA)
            taken = cv2.cvtColor(as_taken_in(laboratory, drawn), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / f"{number:03d}.jpg"), taken)
    return root
