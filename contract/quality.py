"""Measures of a capture's quality, from its decoded pixels: the same for the trainer, which takes reference
statistics of them, and for the worker, which compares.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
"""RGB to cone responses (Reinhard et al. 2001, IEEE Computer Graphics and Applications 21(5), equation 4)."""
OPPONENT = tuple(
    tuple(value / divisor**0.5 for value in row)
    for row, divisor in (((1.0, 1.0, 1.0), 3), ((1.0, 1.0, -2.0), 6), ((1.0, -1.0, 0.0), 2))
)
"""log LMS to l, alpha, beta (equation 6 there)."""
MEAN = (-0.609, -0.006, 0.008)
DEVIATION = (0.192, 0.083, 0.009)
"""l, alpha, beta (natural logarithms) that captures are brought to: medians over the 120 captures of BCCD (Shenggan,
BCCD_Dataset, 2017) that this was developed with."""
DENSITY_MEAN, DENSITY_DEVIATION = (-0.309, -0.373, -0.342), (0.088, 0.161, 0.100)
"""The same of the logarithms of R, G, B."""
DARKEST = 8 / 255
"""Below this light counts as this much: the logarithm of a burnt-in black bar would outweigh all cells."""
LEAST_DEVIATION = 0.25
"""Share of DEVIATION below which a capture's own is not stretched further: an empty field holds only noise."""
HUE = (0.58, 0.86)
SATURATION = 0.30
"""A pixel belongs to a nucleated cell if, after normalisation, its hue (0 to 1) lies between blue and purple and its
saturation is at least this: HSV thresholds as in Ghaderzadeh et al. 2022, who give none; these were chosen by looking
at captures of BCCD and at drawings."""
MEASURES = ("sharpness", "brightness", "contrast", "saturation", "clipped", "red_green", "blue_green", "nucleated")


def measure(capture: NDArray[np.uint8]) -> dict[str, float]:
    """Quality of one capture, uint8 RGB [S, S, 3].

    sharpness: variance of the Laplacian of grey levels; brightness, contrast: mean and deviation of grey levels, 0 to
    255; saturation: mean, 0 to 1; clipped: share of pixels with a channel at 0 or 255; red_green, blue_green: ratios of
    mean channels; nucleated: share of the area that is nucleated cells.
    """
    grey = cv2.cvtColor(capture, cv2.COLOR_RGB2GRAY)
    red, green, blue = (float(value) for value in capture.reshape(-1, 3).mean(axis=0))
    highest, lowest = capture.max(axis=2), capture.min(axis=2)
    return {
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": float(((highest - lowest) / np.maximum(highest, 1)).mean()),
        "clipped": float(((highest == 255) | (lowest == 0)).mean()),
        "red_green": red / max(green, 1.0),
        "blue_green": blue / max(green, 1.0),
        "nucleated": float(nucleated(capture).mean()),
    }


def nucleated(capture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where nucleated cells are: blue to purple after Reinhard's normalisation. uint8 RGB [S, S, 3] -> bool [S, S].

    The exported graph of a network with two inputs computes the same (trainer.stain).
    """
    light = np.maximum(capture.astype(np.float32) / 255, np.float32(DARKEST))
    to_lab = np.asarray(OPPONENT, np.float32)
    lab = cv2.transform(np.log(cv2.transform(light, np.asarray(LMS, np.float32))), to_lab)
    flat = lab.reshape(-1, 3)
    deviation = np.maximum(flat.std(axis=0), LEAST_DEVIATION * np.asarray(DEVIATION))
    lab = (lab - flat.mean(axis=0)) * np.asarray(DEVIATION / deviation, np.float32) + np.asarray(MEAN, np.float32)
    lms = np.exp(cv2.transform(lab.astype(np.float32), np.linalg.inv(to_lab).astype(np.float32)))
    rgb = np.clip(cv2.transform(lms, np.linalg.inv(np.asarray(LMS)).astype(np.float32)), 0, 1)
    hue, saturation, _ = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))  # hue in degrees
    inside = (hue >= 360 * HUE[0]) & (hue <= 360 * HUE[1]) & (saturation >= SATURATION)
    return np.asarray(cv2.blur(inside.astype(np.float32), (5, 5)) > 0.5)
