"""`screen data cells`: the nucleated cells of a labelled set as a labelled set of their own."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.cells import Cell, cell_labels
from contract.errors import CaptureRejected, DataError
from contract.evidence import square
from contract.files import private_folder, write_whole
from contract.imaging import ImageSpec, RGBImage, decode, decode_full
from contract.tables import table_text
from trainer.labelled import LABELS_FILE, Found, LabelledCapture
from trainer.masking import rim

FOUND_AT = ImageSpec(size=300, resampling="linear", min_side=1)
"""Cells are found on captures of this size and cut out of the file at its own."""
MARGIN = 1.6
"""Side of a cut over the larger side of the nucleus' box: cytoplasm is not part of it."""
CELLS_FILE = "cells.csv"
CELLS_COLUMNS = ("path", "capture", "label", "patient", "left", "top", "right", "bottom")


class Cut(NamedTuple):
    """A cell as its own capture, uint8 RGB [side, side, 3], and the nucleus' box in pixels of the file."""

    pixels: RGBImage
    box: tuple[int, int, int, int]

    def png(self) -> bytes:
        """The cell as a file."""
        return cv2.imencode(".png", cv2.cvtColor(self.pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


@dataclass
class Summary:
    """What was cut: cells of each label, captures in which none was found, and files that cannot be decoded."""

    cells: Counter[str] = field(default_factory=Counter)
    without: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def cut_set(
    root: Path, found: Found, out: Path, *, blot: bool, progress: Callable[[float], object] = lambda _: None
) -> Summary:
    """Write the cells of the captures `found` below `root` into `out`: a folder for each label, with each cell as PNG,
    and two lists. By labels.csv `screen train` keeps the cells of a patient on one side of a split; cells.csv says
    where each cell was. Where patients are unknown, the cells of a capture stay together.

    Raises DataError if a label cannot name a folder.
    """
    for label in sorted({capture.label for capture in found.captures}):
        if label != Path(label).name or label == "..":
            raise DataError(f"label {label!r} cannot name a folder; choose labels without slashes")
    summary = Summary()
    rows: list[tuple[object, ...]] = []
    for number, capture in enumerate(found.captures):
        group = capture.patient if found.patients_known else f"capture {capture.path}"
        try:
            cuts = list(cuts_of((root / capture.path).read_bytes(), blot=blot))
        except CaptureRejected as error:
            summary.unreadable[capture.path] = str(error)
            cuts = []
        else:
            summary.cells[capture.label] += len(cuts)
            if not cuts:
                summary.without.append(capture.path)
        rows += [(_written(out, capture, number, place, cut), capture.path, capture.label, group, *cut.box)
                 for place, cut in enumerate(cuts)]  # fmt: skip
        progress(1)
    write_whole(out / CELLS_FILE, table_text(CELLS_COLUMNS, rows))
    write_whole(out / LABELS_FILE, table_text(("path", "patient", "label"), [(row[0], row[3], row[2]) for row in rows]))
    return summary


def cuts_of(data: bytes, *, blot: bool) -> Iterator[Cut]:
    """Every whole nucleated cell of a file, in a square around it; cells that the edge cuts off are left out.

    With `blot`, what is not the cell or its rim of cytoplasm has the colour of the background, so that nothing but the
    cell can tell its label. Raises CaptureRejected.
    """
    cells, labels = cell_labels(decode(data, FOUND_AT).pixels)
    whole = decode_full(data)
    background = np.percentile(np.asarray(whole).reshape(-1, 3), 95, axis=0).astype(np.uint8)
    for number, cell in enumerate(cells, start=1):
        if not cell.edge:
            yield _cut(whole, cell, labels == number, background, blot=blot)


def _cut(whole: Image.Image, cell: Cell, mask: NDArray[np.bool_], background: NDArray[np.uint8], *, blot: bool) -> Cut:
    width, height = whole.size
    left, right = round(cell.left * width), round(cell.right * width)
    top, bottom = round(cell.top * height), round(cell.bottom * height)
    side = max(1, round(MARGIN * max(right - left, bottom - top)))
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    pixels = np.array(square(whole, x, y, side, tuple(background.tolist())))
    if blot:
        near = cv2.dilate(mask.view(np.uint8), rim(mask.shape[0]))
        shown = Image.fromarray(cv2.resize(near, (width, height), interpolation=cv2.INTER_NEAREST))
        pixels[np.asarray(square(shown, x, y, side, 0)) == 0] = background
    return Cut(pixels, (left, top, right, bottom))


def _written(out: Path, capture: LabelledCapture, number: int, place: int, cut: Cut) -> str:
    path = f"{capture.label}/{number:06d}-{place:02d}.png"
    private_folder(out / capture.label)
    write_whole(out / path, cut.png())
    return path
