"""Measures of a capture's quality from its decoded pixels, and its marks by a bundle's reference. The trainer, which
computes reference statistics, and the worker, which compares with them, use the same functions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from contract.cells import Cell, find_cells
from contract.outcomes import Mark
from contract.states import MarkCode

MEASURES = (
    "sharpness", "brightness", "contrast", "saturation", "clipped", "red_green", "blue_green", "nuclei", "cells",
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
    ("nuclei", "high"): (MarkCode.CROWDED, "much area of nucleated cells"),
    ("cells", "low"): (MarkCode.SPARSE, "few cells in the field"),
    ("bar", "high"): (MarkCode.BURNT_IN, "a scale bar is burnt in"),
}
"""(measure, side of the reference range) -> code and words."""


def measure(capture: NDArray[np.uint8], nucleated: Sequence[Cell] | None = None) -> dict[str, float]:
    """Quality of one capture, uint8 RGB [S, S, 3]; `nucleated` are its cells where the caller has them already.

    sharpness: variance of the Laplacian of grey levels (Pech-Pacheco et al. 2000); brightness, contrast: mean and
    deviation of grey levels, 0 to 255; saturation: mean of HSV's, 0 to 1; clipped: share of pixels with a channel at 0
    or 255; red_green, blue_green: ratios of mean channels; nuclei: share of the area that is nuclei
    (contract.cells); cells: share that is cells of any kind; bar: length of a burnt-in scale bar as a share of the
    width, 0 without one. Each to five significant digits.
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
        "nuclei": sum(cell.area for cell in (find_cells(capture) if nucleated is None else nucleated)),
        "cells": float((small[:, :, 1] < CELL * background).mean()),
        "bar": _bar_length(grey),
    }
    return {name: _kept(value) for name, value in measures.items()}


def marks_of(measures: Mapping[str, float], reference: Mapping[str, Any]) -> list[Mark]:
    """Marks for what is outside the reference's range, in the order of MARKS, for an empty field, and for one without
    a nucleated cell; this last one alone needs no reference.

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
    if measures.get("nuclei") == 0:
        sentence = "no nucleated cell was found: the field proves nothing, neither benign nor ALL"
        marks[MarkCode.NO_NUCLEATED_CELL] = Mark(MarkCode.NO_NUCLEATED_CELL, sentence)
    return list(marks.values())


def _kept(value: float) -> float:
    return float(f"{value:.{KEPT}g}")


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
