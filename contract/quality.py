"""Measures of a capture's quality from its decoded pixels, and its marks by a bundle's reference. The trainer, which
computes reference statistics, and the worker, which compares with them, use the same functions.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from contract.outcomes import Mark
from contract.states import MarkCode

LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
"""RGB to cone responses (Reinhard et al. 2001, IEEE Computer Graphics and Applications 21(5), equation 4)."""
OPPONENT = tuple(
    tuple(value / divisor**0.5 for value in row)
    for row, divisor in (((1.0, 1.0, 1.0), 3), ((1.0, 1.0, -2.0), 6), ((1.0, -1.0, 0.0), 2))
)
"""log LMS to l, alpha, beta (equation 6 there)."""
MEAN = (-0.609, -0.006, 0.008)
DEVIATION = (0.192, 0.083, 0.009)
"""l, alpha, beta (natural logarithms) after normalisation: medians over the 120 captures of BCCD (Shenggan,
BCCD_Dataset, 2017) that were used in development."""
DENSITY_MEAN, DENSITY_DEVIATION = (-0.309, -0.373, -0.342), (0.088, 0.161, 0.100)
"""The same for the logarithms of R, G, B."""
DARKEST = 8 / 255
"""The smallest value of light: without it, the logarithm of a burnt-in black bar would outweigh all cells."""
LEAST_DEVIATION = 0.25
"""A deviation below this share of DEVIATION is not stretched further: an empty field holds only noise."""
HUE = (0.58, 0.86)
SATURATION = 0.30
"""A pixel belongs to a nucleated cell if, after normalisation, its hue (0 to 1) lies between blue and purple and its
saturation is at least this: HSV thresholds as in Ghaderzadeh et al. 2022, who give no values; these were chosen by
looking at captures of BCCD and at drawings."""
MEASURES = (
    "sharpness", "brightness", "contrast", "saturation", "clipped", "red_green", "blue_green", "nucleated", "cells",
    "bar",
)  # fmt: skip
SMALL = 64
"""Approximate side at which areas and colours are measured: a leukocyte still covers several pixels."""
CELL = 0.88
"""A pixel belongs to a cell of any kind if its green, which haemoglobin and stain absorb most, is below this share of
the background's, the 95th percentile. Chosen by looking at captures of BCCD and Chula RBC-12, and at drawings."""
BAR_LENGTH, BAR_THICKNESS = 0.06, 0.06
"""Least length and greatest thickness of a scale bar, as shares of the sides; no cell has such a straight outline."""
BAR_CONTRAST = 24
"""Grey levels between a bar and what is above and below it."""
BAR_ZONE = 0.24
"""Share of the height, at the top and at the bottom, in which the search for bars looks."""
RANGE = ("0.001", "0.999")
"""Between these quantiles of the training captures a measure is unremarkable."""
EMPTY = 0.1
"""A field is empty if cells cover less than this share of the usual area, which is the training captures' median."""
KEPT = 5
"""Significant digits of a measure in a run's rows. The trainer's statistics use the same rounded numbers: many captures
share one value (for example the length of a scale bar), and a bound between bins may be exactly that value."""
DIGITS = {"sharpness": 0, "brightness": 0, "contrast": 0}
"""Decimals in a sentence; 3 for all others, which are shares and ratios."""


MARKS: dict[tuple[str, str], tuple[MarkCode, str]] = {
    ("sharpness", "low"): (MarkCode.OUT_OF_FOCUS, "out of focus"),
    ("sharpness", "high"): (MarkCode.OVERSHARP, "noisy, or sharpened by the camera"),
    ("brightness", "low"): (MarkCode.TOO_DARK, "too dark"),
    ("brightness", "high"): (MarkCode.TOO_BRIGHT, "too bright"),
    ("contrast", "low"): (MarkCode.FLAT, "little contrast"),
    ("contrast", "high"): (MarkCode.HARSH, "much contrast"),
    ("saturation", "low"): (MarkCode.PALE, "pale colours"),
    ("saturation", "high"): (MarkCode.OVERSTAINED, "strong colours"),
    ("clipped", "high"): (MarkCode.CLIPPED, "light or shadow cut off"),
    ("red_green", "low"): (MarkCode.COLOUR_CAST, "too little red"),
    ("red_green", "high"): (MarkCode.COLOUR_CAST, "too much red"),
    ("blue_green", "low"): (MarkCode.COLOUR_CAST, "too little blue"),
    ("blue_green", "high"): (MarkCode.COLOUR_CAST, "too much blue"),
    ("nucleated", "high"): (MarkCode.CROWDED, "much area of nucleated cells"),
    ("cells", "low"): (MarkCode.SPARSE, "few cells in the field"),
    ("bar", "high"): (MarkCode.BURNT_IN, "a scale bar is burnt in"),
}
"""(measure, side of the reference range) -> code and words."""


def measure(capture: NDArray[np.uint8]) -> dict[str, float]:
    """Quality of one capture, uint8 RGB [S, S, 3].

    sharpness: variance of the Laplacian of grey levels (Pech-Pacheco et al. 2000); brightness, contrast: mean and
    deviation of grey levels, 0 to 255; saturation: mean of HSV's, 0 to 1; clipped: share of pixels with a channel at 0
    or 255; red_green, blue_green: ratios of mean channels; nucleated: share of the area that is nucleated cells; cells:
    share that is cells of any kind; bar: length of a burnt-in scale bar as a share of the width, 0 without one. Each to
    five significant digits.
    """
    grey = np.asarray(cv2.cvtColor(capture, cv2.COLOR_RGB2GRAY), np.uint8)
    brightness, contrast = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    inside = cv2.countNonZero(cv2.inRange(capture, (1, 1, 1), (254, 254, 254)))
    side = capture.shape[0] // max(1, capture.shape[0] // SMALL)
    small = np.asarray(cv2.resize(capture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    red, green, blue, _ = cv2.mean(small)
    saturation = cv2.mean(cv2.cvtColor(small, cv2.COLOR_RGB2HSV))[1] / 255
    background = float(np.percentile(small[:, :, 1], 95))
    measures = {
        "sharpness": float(edges[0, 0]) ** 2,
        "brightness": float(brightness[0, 0]),
        "contrast": float(contrast[0, 0]),
        "saturation": saturation,
        "clipped": 1 - inside / grey.size,
        "red_green": red / max(green, 1.0),
        "blue_green": blue / max(green, 1.0),
        "nucleated": cv2.countNonZero(_stained(small)) / side**2,
        "cells": float((small[:, :, 1] < CELL * background).mean()),
        "bar": _bar_length(grey),
    }
    return {name: _kept(value) for name, value in measures.items()}


def marks_of(measures: Mapping[str, float], reference: Mapping[str, Any]) -> list[Mark]:
    """Marks for what is outside the reference's range, in the order of MARKS, and for an empty field. Without a
    reference there are none.

    `reference` is `Manifest.reference["quality"]`: measure -> quantiles of the training captures, by their names.
    """
    marks: dict[MarkCode, Mark] = {}
    for (name, side), (code, words) in MARKS.items():
        if name not in reference:
            continue
        low, high = (_kept(float(reference[name][quantile])) for quantile in RANGE)
        value = measures[name]
        if value < low if side == "low" else value > high:
            digits = DIGITS.get(name, 3)
            sentence = f"{words}: {name} {value:.{digits}f}, reference {low:.{digits}f} to {high:.{digits}f}"
            marks.setdefault(code, Mark(code, sentence))
    usual_area = float(reference["cells"]["0.5"]) if "cells" in reference else 0.0
    if measures["cells"] < EMPTY * usual_area:
        sentence = f"hardly a cell in the field: cells {measures['cells']:.3f}, usual {usual_area:.3f}"
        marks[MarkCode.EMPTY_FIELD] = Mark(MarkCode.EMPTY_FIELD, sentence)
    return list(marks.values())


def nucleated(capture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where nucleated cells are: blue to purple after Reinhard's normalisation. uint8 RGB [S, S, 3] -> bool [S, S].

    The exported graph of a network with two inputs computes the same mask (trainer.stain).
    """
    return np.asarray(cv2.blur((_stained(capture) > 0).astype(np.float32), (5, 5)) > 0.5)


def _kept(value: float) -> float:
    return float(f"{value:.{KEPT}g}")


def _stained(capture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """255 at each pixel that is blue to purple after Reinhard's normalisation, else 0. uint8 [S, S, 3] -> [S, S]."""
    light = np.maximum(capture.astype(np.float32) / 255, np.float32(DARKEST))
    lab = cv2.transform(cv2.log(cv2.transform(light, _LMS)), _OPPONENT)
    mean, deviation = cv2.meanStdDev(lab)
    target = np.asarray(DEVIATION)
    gain = target / np.maximum(deviation[:, 0], LEAST_DEVIATION * target)
    shift = np.asarray(MEAN) - gain * mean[:, 0]
    to_log_lms = np.column_stack([_FROM_OPPONENT * gain, _FROM_OPPONENT @ shift]).astype(np.float32)
    rgb = np.clip(cv2.transform(cv2.exp(cv2.transform(lab, to_log_lms)), _FROM_LMS), 0, 1)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)  # hue in degrees
    low, high = (360 * HUE[0], SATURATION, 0.0), (360 * HUE[1], 1.0, 1.0)
    return np.asarray(cv2.inRange(hsv, low, high), np.uint8)


_LMS, _OPPONENT = np.asarray(LMS, np.float32), np.asarray(OPPONENT, np.float32)
_FROM_LMS, _FROM_OPPONENT = np.linalg.inv(np.asarray(LMS)).astype(np.float32), np.linalg.inv(np.asarray(OPPONENT))


def _bar_length(grey: NDArray[np.uint8]) -> float:
    """Length of the longest scale bar near the upper or lower edge as a share of the width; 0 without one.

    A bar is a stripe between two straight horizontal edges of opposite sign. Below about 200 px thin bars disappear in
    the blur. trainer.traits searches more closely, in every channel, and says where the bar is.
    """
    height, width = grey.shape
    length, zone = max(8, round(BAR_LENGTH * width)), round(BAR_ZONE * height)
    thickest = round(BAR_THICKNESS * height)
    kernel = np.ones((1, length), np.uint8)
    longest = 0
    for part in (grey[:zone], grey[-zone:]):
        step = cv2.subtract(part[1:], part[:-1], dtype=cv2.CV_16S)
        steep = ((step >= BAR_CONTRAST).view(np.uint8), (step <= -BAR_CONTRAST).view(np.uint8))
        up, down = (cv2.morphologyEx(edges, cv2.MORPH_OPEN, kernel) for edges in steep)
        for first, second in ((up, down), (down, up)):
            if not first.any():
                continue
            below = cv2.dilate(second, np.ones((thickest, 1), np.uint8), anchor=(0, 0))
            shared = (first[:-1] > 0) & (below[1:] > 0)
            longest = max(longest, int(shared.sum(axis=1).max(initial=0)))
    return longest / width if longest >= length else 0.0
