"""Checks that the figures hold when irrelevant things in captures change, and fall when the cells are hidden."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, rotate

from contract.spread import evenly_spread
from trainer.augment import Augment, background, from_unit, grey, recompressed, to_unit
from trainer.config import AugmentTable
from trainer.graph import BATCH, GraphRunner
from trainer.masking import LEAST_WITH_CELLS, hidden, too_few_cells
from trainer.metrics import Labelled, all_versus_benign, interval
from trainer.progress import bar
from trainer.traits import CORNER, find_scale_bar, without_scale_bar

Change = Callable[[Tensor], Tensor]
SEED = 5417
MASKED = "nucleated cells masked out"
CONTROL = "as much background masked out"
TOLERATED = 0.02
"""The report marks a fall in accuracy above this."""


def stain(haematoxylin: float, eosin: float) -> Change:
    """Multiply the optical densities of the two stains (Ruifrok & Johnston 2001); the third, the residual, stays."""
    basis = Augment(AugmentTable(), torch.Generator())
    matrix = basis.to_stains @ torch.diag(torch.tensor([haematoxylin, eosin, 1.0])) @ basis.from_stains

    def change(x: Tensor) -> Tensor:
        density = -x.clamp(min=1 / 255).log()
        return torch.exp(-torch.einsum("nchw,cd->ndhw", density, matrix))

    return change


def _contrast(factor: float) -> Change:
    return lambda x: (x - x.mean(dim=(1, 2, 3), keepdim=True)) * factor + x.mean(dim=(1, 2, 3), keepdim=True)


def _jpeg(quality: int) -> Change:
    return lambda x: torch.stack([recompressed(capture, quality) for capture in x])


def _defocus(share: float) -> Change:
    def change(x: Tensor) -> Tensor:
        sigma = share * x.shape[-1]
        return gaussian_blur(x, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma])

    return change


def _noise(deviation: float) -> Change:
    def change(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        return x + deviation * torch.randn(x.shape, generator=generator)

    return change


def _rotation(degrees: float) -> Change:
    def change(x: Tensor) -> Tensor:
        margin = x.shape[-1] // 2
        wide = F.pad(x, (margin,) * 4, mode="reflect")
        return rotate(wide, degrees)[:, :, margin:-margin, margin:-margin]

    return change


def _bar_removed(x: Tensor) -> Tensor:
    captures = [(capture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for capture in x]
    boxes = [find_scale_bar(capture) for capture in captures]
    clean = [
        capture if box is None else without_scale_bar(capture, box)
        for capture, box in zip(captures, boxes, strict=True)
    ]
    return to_unit(torch.from_numpy(np.stack(clean)))


def _bar_pasted(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return Augment(AugmentTable(scale_bar=1.0), generator).draw_scale_bar(x)


def _corners_covered(x: Tensor) -> Tensor:
    height, width = (round(x.shape[-1] * share) for share in (CORNER[1], CORNER[0]))
    covered = torch.zeros_like(x[:, :1], dtype=torch.bool)
    for rows in (slice(None, height), slice(-height, None)):
        for columns in (slice(None, width), slice(-width, None)):
            covered[:, :, rows, columns] = True
    return torch.where(covered, background(x), x)


CHANGES: dict[str, Change] = {
    "stain stronger (densities x 1.3)": stain(1.3, 1.3),
    "stain weaker (densities x 0.75)": stain(0.75, 0.75),
    "stain shift to blue (H x 1.25, E x 0.75)": stain(1.25, 0.75),
    "stain shift to pink (H x 0.8, E x 1.3)": stain(0.8, 1.3),
    "darker (x 0.85)": lambda x: x * 0.85,
    "brighter (x 1.15)": lambda x: x * 1.15,
    "contrast x 0.8": _contrast(0.8),
    "contrast x 1.2": _contrast(1.2),
    "turned by 15 degrees": _rotation(15),
    "turned by 90 degrees": lambda x: torch.rot90(x, 1, (2, 3)),
    "JPEG quality 50": _jpeg(50),
    "defocus (sigma 0.7 % of the side)": _defocus(0.007),
    "noise (deviation 0.04)": _noise(0.04),
    "scale bar removed": _bar_removed,
    "scale bar pasted": _bar_pasted,
    "all corners covered": _corners_covered,
    "greyscale": grey,
}
"""Name -> change of captures float [N, 3, S, S] in 0..1; the result is rounded to uint8 like a decoded capture."""
SCORINGS = len(CHANGES) + 3
"""How often the audit scores its captures: as they are, in each change, without cells, without background."""


def changed(captures: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """Captures uint8 [N, S, S, 3] -> the changed captures, in the same form."""
    return from_unit(change(to_unit(torch.from_numpy(np.ascontiguousarray(captures)))).clamp(0, 1))


def audit(
    runner: GraphRunner, pixels: NDArray[np.uint8], rows: NDArray[np.int64], of: Labelled, limit: int
) -> dict[str, Any]:
    """The robustness table of the captures `rows` of `pixels`; `of` describes the same captures in the same order.

    It takes at most `limit` of them, spread evenly over the rows. Each line holds the accuracy with its 95 % interval,
    the mean confidence, and the sensitivity for ALL at P(ALL) >= 0.5.
    """
    places = evenly_spread(len(rows), limit)
    targets = of.targets[places]
    described = replace(of, targets=targets, groups=np.asarray(of.groups)[places])
    lines: list[dict[str, Any]] = []
    with bar("robustness audit", len(places) * SCORINGS) as progress:
        for name, change in {"as they are": None, **CHANGES}.items():
            probabilities = []
            for start in range(0, len(places), BATCH):
                captures = pixels[rows[places[start : start + BATCH]]]
                probabilities.append(runner.probabilities(captures if change is None else changed(captures, change)))
                progress.advance(len(captures))
            lines.append(_line(name, replace(described, probabilities=np.concatenate(probabilities))))
        masking = masked_out(runner, pixels, rows[places], described, progress.advance)
    counts = np.bincount(targets, minlength=len(of.labels))
    chance = float(counts.max() / counts.sum())
    with_bar = sum(find_scale_bar(np.asarray(pixels[rows[place]])) is not None for place in places)
    return {
        "captures": len(places), "chance": chance, "with_scale_bar": with_bar, "lines": lines, "masking": masking,
        "findings": findings(lines, masking, chance),
    }  # fmt: skip


def masked_out(
    runner: GraphRunner,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    of: Labelled,
    advance: Callable[[int], object],
) -> dict[str, Any]:
    """The captures `rows` with their cells hidden, and with as much background hidden: a line of the table for each.

    There are no lines where hardly any cells were found. Beside them: cells found per capture, the labels for which
    they are too few, and the hidden shares of the area. `of` describes the captures; its probabilities are not used.
    """
    without_cells, without_background = [], []
    measured = []
    for start in range(0, len(rows), BATCH):
        numbers = range(start, min(start + BATCH, len(rows)))
        both = [hidden(np.asarray(pixels[rows[number]]), SEED + number) for number in numbers]
        without_cells.append(runner.probabilities(np.stack([one.without_cells for one in both])))
        without_background.append(runner.probabilities(np.stack([one.without_background for one in both])))
        measured += [(one.cells, one.cell_area, one.background_area) for one in both]
        advance(2 * len(both))
    cells, cell_area, background_area = np.array(measured).T
    too_few = too_few_cells(of.labels, of.targets, cells)
    scored = {MASKED: without_cells, CONTROL: without_background}
    lines = [_line(name, replace(of, probabilities=np.concatenate(parts))) for name, parts in scored.items()]
    return {
        "cells_per_capture": float(cells.mean()),
        "too_few_cells": too_few,
        "area": float(cell_area.mean()),
        "control_area": float(background_area.mean()),
        "lines": [] if too_few else lines,
    }


def _line(name: str, of: Labelled) -> dict[str, Any]:
    right = of.probabilities.argmax(axis=1) == of.targets
    return {
        "change": name,
        "accuracy": float(right.mean()),
        "interval": interval(right, of.groups),
        "confidence": float(of.probabilities.max(axis=1).mean()),
        "sensitivity": all_versus_benign(of)["sensitivity"]["value"],
    }


def findings(lines: Sequence[dict[str, Any]], masking: dict[str, Any], chance: float) -> list[str]:
    """The table in sentences: under which changes the figures fall, and whether the network looks at the cells."""
    plain = lines[0]["accuracy"]
    sentences = []
    fallen = [line for line in lines[1:] if plain - line["accuracy"] > TOLERATED]
    if fallen:
        worst = min(fallen, key=lambda line: line["accuracy"])
        sentences.append(
            f"Accuracy falls by more than {100 * TOLERATED:.0f} points under {len(fallen)} of {len(lines) - 1} "
            f"changes, most under “{worst['change']}”: {plain:.1%} to {worst['accuracy']:.1%}."
        )
    if lines[0]["interval"][0] <= chance:
        sentences.append(
            f"The accuracy itself ({plain:.1%}) is not clearly better than always naming the most frequent label "
            f"({chance:.1%})."
        )
        return sentences
    return [*sentences, _where_it_looks(masking, chance)]


def _where_it_looks(masking: dict[str, Any], chance: float) -> str:
    """What follows from hiding the cells, beside hiding as much background: one sentence or three."""
    if masking["too_few_cells"]:
        return (
            f"Whether the network looks at the cells is not told: in fewer than {LEAST_WITH_CELLS:.0%} of the captures "
            f"of {' and '.join(masking['too_few_cells'])} a nucleated cell was found, so hiding what was found would "
            "show nothing."
        )
    masked, control = masking["lines"]
    with_cells_hidden = (
        f"With every nucleated cell found ({masking['cells_per_capture']:.1f} per capture, {masking['area']:.0%} of "
        "the area) masked out the accuracy"
    )
    beside = f"with {masking['control_area']:.0%} of the area masked in the background it is {control['accuracy']:.1%}"
    if masked["interval"][0] > chance:
        return (
            f"{with_cells_hidden} is still {masked['accuracy']:.1%} ({beside}), while always naming the most frequent "
            f"label would give {chance:.1%}: the network is looking elsewhere than at the cells (or at their number, "
            "which the masks still show). Do not trust its figures on captures from other laboratories or microscopes."
        )
    if control["interval"][0] <= chance:
        return (
            f"{with_cells_hidden} falls to {masked['accuracy']:.1%}, but {beside}, and always naming the most frequent "
            f"label would give {chance:.1%}: masks of any kind mislead this network, and whether it looks at the cells "
            "is not told."
        )
    return (
        f"{with_cells_hidden} falls to {masked['accuracy']:.1%} ({beside}), which is not clearly better than always "
        f"naming the most frequent label ({chance:.1%}): the evidence lies in the cells."
    )
