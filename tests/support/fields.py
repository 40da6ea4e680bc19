"""Fields of a smear as a few discs: what measures of colour, focus and area can be worked out on by hand."""

import cv2
import numpy as np

SIDE = 192


def field(seed: int = 0, cells: int = 2, tint: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    """Pink discs, and purple ones for nucleated cells, on a bright background: uint8 [SIDE, SIDE, 3]."""
    rng = np.random.default_rng(seed)
    capture = np.full((SIDE, SIDE, 3), (228, 222, 226), np.uint8)
    for _ in range(18):
        cv2.circle(capture, [int(v) for v in rng.integers(10, SIDE - 10, 2)], 10, (205, 150, 165), -1, cv2.LINE_AA)
    for number in range(cells):
        cv2.circle(capture, (60 + 70 * number, 96), 16, (95, 60, 150), -1, cv2.LINE_AA)
    noisy = capture + rng.normal(0, 2, capture.shape)
    return np.clip(noisy * np.asarray(tint), 0, 255).astype(np.uint8)


def with_bar(capture: np.ndarray, colour=(0, 0, 0), left=130, top=176, length=40, thick=4) -> np.ndarray:
    drawn = capture.copy()
    drawn[top : top + thick, left : left + length] = colour
    cv2.putText(drawn, "10 um", (left, top - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1)
    return drawn
