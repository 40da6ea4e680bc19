"""Where the network finds its evidence: the share of the activation maps that lies on nucleated cells."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from contract.cells import cell_labels
from trainer.masking import too_few_cells


def activation_share(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64], cam: NDArray[np.float32], called: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each capture: the share of its called label's positive activation at places with nucleated cells, and the
    share of such places, which a network that looks everywhere alike would reach.

    `cam` [N, L, h, w] of the captures `rows`. The first is NaN if nothing is active or no cell was found.
    """
    shares, areas = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    size = (cam.shape[3], cam.shape[2])
    for place, row in enumerate(rows):
        found = cell_labels(np.asarray(pixels[row]))[1] > 0
        cells = cv2.resize(found.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        active = np.maximum(cam[place, called[place]], 0)
        areas[place] = (cells > 0).mean()
        if active.sum() > 0 and cells.any():
            shares[place] = float((active * (cells > 0)).sum() / active.sum())
    return shares, areas


def by_label(
    labels: Sequence[str], targets: NDArray[np.int64], shares: NDArray[np.float64], areas: NDArray[np.float64]
) -> dict[str, Any]:
    """Means per true label; None if no capture of it has a share, or if hardly any has a cell."""
    untold = too_few_cells(labels, targets, (areas > 0).astype(np.int64))
    means = {}
    for index, label in enumerate(labels):
        chosen = (targets == index) & ~np.isnan(shares) & (label not in untold)
        means[label] = {
            "captures": int(chosen.sum()),
            "on_cells": float(shares[chosen].mean()) if chosen.any() else None,
            "cells_area": float(areas[chosen].mean()) if chosen.any() else None,
        }
    return means
