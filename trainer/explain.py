"""Where the evidence lies: the share of the activation maps that falls on nucleated cells."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from contract.quality import nucleated


def activation_share(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64], cam: NDArray[np.float32], called: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each capture: the share of its called label's positive activation at places with nucleated cells, and the
    share of such places, which is what a network that looks everywhere alike would reach.

    `cam` [N, L, h, w] of the captures `rows`. NaN where nothing is active, or no cell was found.
    """
    shares, areas = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    size = (cam.shape[3], cam.shape[2])
    for place, row in enumerate(rows):
        cells = cv2.resize(nucleated(np.asarray(pixels[row])).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        active = np.maximum(cam[place, called[place]], 0)
        areas[place] = (cells > 0).mean()
        if active.sum() > 0 and cells.any():
            shares[place] = float((active * (cells > 0)).sum() / active.sum())
    return shares, areas


def by_label(
    labels: Sequence[str], targets: NDArray[np.int64], shares: NDArray[np.float64], areas: NDArray[np.float64]
) -> dict[str, Any]:
    """Means per true label; None where no capture counts."""
    found = {}
    for index, label in enumerate(labels):
        own = (targets == index) & ~np.isnan(shares)
        found[label] = {
            "captures": int(own.sum()),
            "on_cells": float(shares[own].mean()) if own.any() else None,
            "cells_area": float(areas[own].mean()) if own.any() else None,
        }
    return found
