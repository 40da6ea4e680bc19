"""Measures of quality, and the marks that captures get by them."""

import re

import cv2
import numpy as np
import pytest

from contract import quality
from tests.support.fields import SIDE, field, with_bar


def test_quality_measures():
    measures = quality.measure(field())
    assert set(measures) == set(quality.MEASURES)
    blurred = quality.measure(cv2.GaussianBlur(field(), (0, 0), 2))
    assert blurred["sharpness"] < measures["sharpness"] / 2
    assert quality.measure(field(tint=(0.7, 0.7, 0.7)))["brightness"] == pytest.approx(
        0.7 * measures["brightness"], rel=0.02
    )
    assert measures["nuclei"] == pytest.approx(2 * np.pi * 16**2 / SIDE**2, rel=0.1)
    assert quality.measure(np.full((64, 64, 3), 255, np.uint8))["clipped"] == 1.0
    assert measures["cells"] > measures["nuclei"]
    assert measures["bar"] == 0
    assert quality.measure(with_bar(field()))["bar"] == pytest.approx(0.2, abs=0.1)
    assert quality.measure(np.full((SIDE, SIDE, 3), 235, np.uint8))["cells"] == 0


def test_what_is_out_of_the_training_captures_range_is_marked_with_the_figures():
    usual = quality.measure(field())
    of_training = {name: {"0.001": value * 0.9, "0.5": value, "0.999": value * 1.1} for name, value in usual.items()}
    assert quality.marks_of(quality.measure(field()), of_training) == []
    (blurred, *_) = quality.marks_of(quality.measure(cv2.GaussianBlur(field(), (0, 0), 2)), of_training)
    assert blurred.code == "out_of_focus"
    assert re.fullmatch(r"out of focus: sharpness \d+, reference \d+ to \d+", blurred.sentence)
    codes = {
        name: [mark.code for mark in quality.marks_of(quality.measure(changed), of_training)]
        for name, changed in {
            "dark": field(tint=(0.7, 0.7, 0.7)), "red": field(tint=(1, 0.8, 0.8)), "barred": with_bar(field()),
            "empty": np.full((SIDE, SIDE, 3), 235, np.uint8),
        }.items()
    }  # fmt: skip
    assert "too_dark" in codes["dark"]
    assert "colour_cast" in codes["red"]
    assert "burnt_in" in codes["barred"]
    assert {"sparse", "empty_field", "no_nucleated_cell", "out_of_focus", "flat"} <= set(codes["empty"])
    few = {**usual, "cells": 0.3 * usual["cells"]}
    assert [mark.code for mark in quality.marks_of(few, of_training)] == ["sparse"]
    assert quality.marks_of(quality.measure(field()), {}) == [], "without a reference nothing is out of range"


def test_a_field_without_a_nucleated_cell_is_marked_also_without_a_reference():
    (mark,) = quality.marks_of(quality.measure(field(cells=0)), {})
    assert (mark.code, mark.sentence) == (
        "no_nucleated_cell", "no nucleated cell was found: the field proves nothing, neither benign nor ALL",
    )  # fmt: skip
    earlier = {name: value for name, value in quality.measure(field(cells=0)).items() if name != "nuclei"}
    assert quality.marks_of(earlier, {}) == [], "what was measured by a release that did not look for cells"
