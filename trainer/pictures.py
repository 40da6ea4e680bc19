"""Figures made of captures: samples, augmented captures, predictions, and the worst mistakes with activation maps."""

from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from contract.predictions import Predictions
from trainer.augment import Augment
from trainer.config import AugmentTable
from trainer.figures import colour, png
from trainer.metrics import Labelled

Pixels = NDArray[np.uint8]
COLUMNS = 6
CELL = (1.75, 2.05)
"""Width and height in inches of a picture with its title."""
FRAMES = ((0.25, (255, 196, 0), 1), (0.10, (220, 0, 60), 2))
"""Share of an activation map's places that get a frame, the frame's colour, and its width in pixels."""
THUMBNAIL = 160
"""Longest side in pixels of a shown capture."""


def grid(
    pictures: Sequence[Pixels], titles: Sequence[str], frames: Sequence[str] | None = None, columns: int = COLUMNS
) -> bytes:
    """Pictures in rows of `columns`, with a title above each and, with `frames`, a frame of that colour around each.

    All lie in one pair of axes, counted in cells: axes of their own for each would take longer than a tiny training.
    """
    rows = -(-len(pictures) // columns)
    figure = plt.figure(figsize=(CELL[0] * columns, CELL[1] * rows), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(index, columns)
        high, wide = np.asarray(picture.shape[:2]) / max(picture.shape[:2]) * 0.92
        high *= CELL[0] / CELL[1]
        left, bottom = column + (1 - wide) / 2, row + 0.97
        axes.imshow(_thumbnail(picture), extent=(left, left + wide, bottom, bottom - high), interpolation="nearest")
        axes.text(column + 0.5, bottom - high - 0.02, title, fontsize=8, ha="center", va="bottom")
        if frames is not None:
            axes.add_patch(Rectangle((left, bottom), wide, -high, fill=False, edgecolor=frames[index], linewidth=2.5))
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="auto")
    return png(figure, photographs=True)


def samples(pixels: Pixels, rows: NDArray[np.int64], targets: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """A row of training captures for each label."""
    rng = np.random.default_rng(0)
    pictures, titles = [], []
    for index, label in enumerate(labels):
        label_rows = rng.permutation(rows[targets[rows] == index])[:COLUMNS]
        for place in range(COLUMNS):  # a label with fewer captures leaves white places
            picture = pixels[label_rows[place]] if place < len(label_rows) else np.full((8, 8, 3), 255, np.uint8)
            pictures.append(np.asarray(picture))
            titles.append(label if place < len(label_rows) else "")
    return grid(pictures, titles)


def augmented(
    pixels: Pixels, rows: NDArray[np.int64], targets: NDArray[np.int64], labels: Sequence[str], table: AugmentTable
) -> bytes:
    """For each label one training capture as it is, and five times as the network sees it in training."""
    augment = Augment(table, torch.Generator().manual_seed(0))
    size = pixels.shape[1]
    pictures, titles = [], []
    for index, label in enumerate(labels):
        original = np.asarray(pixels[rows[targets[rows] == index][0]])
        variants = augment(torch.from_numpy(np.stack([original] * (COLUMNS - 1))), size)
        pictures += [original, *(variants * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()]
        titles += [f"{label}, as it is", *["augmented"] * (COLUMNS - 1)]
    return grid(pictures, titles)


def predictions(pixels: Pixels, rows: NDArray[np.int64], of: Labelled) -> bytes:
    """Twelve captures drawn at random, with the labels that they were called; a red frame where the label is wrong."""
    chosen = np.random.default_rng(0).permutation(len(rows))[: 2 * COLUMNS]
    called = of.probabilities.argmax(axis=1)
    titles = [
        f"{of.labels[of.targets[i]]}\ncalled {of.labels[called[i]]} {of.probabilities[i, called[i]]:.0%}"
        for i in chosen
    ]
    frames = [colour(2) if called[i] == of.targets[i] else colour(1) for i in chosen]
    return grid([np.asarray(pixels[rows[i]]) for i in chosen], titles, frames)


def worst(pixels: Pixels, rows: NDArray[np.int64], of: Labelled, found: Predictions) -> bytes:
    """The twelve captures with the highest loss; beside each, where the evidence for its called label lies."""
    loss = -np.log(np.clip(of.probabilities[np.arange(len(rows)), of.targets], 1e-12, 1))
    called = of.probabilities.argmax(axis=1)
    pictures, titles, frames = [], [], []
    for i in np.argsort(-loss, kind="stable")[: 2 * COLUMNS]:
        capture = np.asarray(pixels[rows[i]])
        right = called[i] == of.targets[i]
        pictures.append(capture)
        titles.append(f"{of.labels[of.targets[i]]}, loss {loss[i]:.2f}\ncalled {of.labels[called[i]]}")
        frames.append(colour(2) if right else colour(1))
        if found.cam is not None:
            pictures.append(framed(capture, found.cam[i, called[i]]))
            titles.append(f"evidence for {of.labels[called[i]]}\n{of.probabilities[i, called[i]]:.0%}")
            frames.append("#bbbbbb")
    return grid(pictures, titles, frames)


def _thumbnail(picture: Pixels) -> Pixels:
    side = max(picture.shape[:2])
    if side <= THUMBNAIL:
        return picture
    size = (round(picture.shape[1] * THUMBNAIL / side), round(picture.shape[0] * THUMBNAIL / side))
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA), np.uint8)


def framed(pixels: NDArray[np.uint8], activation: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw frames on a capture, uint8 [H, W, 3], around the places of an activation map [h, w] that speak most for its
    label.

    Each place is a rectangle of the capture. The strongest tenth gets a red frame, the strongest quarter a yellow one.
    Frames follow the rectangles: a smooth curve would promise a sharper eye than the network has, and a heat map would
    hide the cell.
    """
    rank = np.argsort(np.argsort(-activation.ravel(), kind="stable"), kind="stable").reshape(activation.shape)
    height, width = pixels.shape[:2]
    drawn = pixels.copy()
    for share, frame, thickness in FRAMES:
        strongest = (rank < max(1, round(share * rank.size))).astype(np.uint8)
        mask = cv2.resize(strongest, (width, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, contours, -1, frame, thickness)
    return drawn
