"""The gallery of a case: its nucleated cells, those first that speak most for the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contract.bundle import Manifest
from contract.cells import StoredCell, unpack
from contract.outcomes import ScreenedFile
from contract.states import Verdict
from db.run_report import CaptureCells

FOR, AGAINST = 24, 8
"""How many cells speak for the result, and how many against it, that a case shows."""
MARGIN = 1.5
"""Side of a cell's picture over the largest of the cells shown: they are all at one scale."""
LEAST_WINDOW = 32
"""Least side of a cell's picture in pixels of the file."""


class GalleryCell(NamedTuple):
    """A cell of a capture, the label that its place on the map speaks for most, and that label's share; None where the
    bundle makes no map.

    `for_all` orders the cells: the share of ALL, or of the result's subtype; without a map, P(ALL) of the capture.
    """

    capture: CaptureCells
    cell: StoredCell
    label: str | None
    share: float | None
    for_all: float

    @property
    def whole(self) -> bool:
        """Whether the capture's edge leaves it whole."""
        return min(self.cell.left, self.cell.top) > 0 and max(self.cell.right, self.cell.bottom) < 1


@dataclass(frozen=True)
class Gallery:
    """The cells that speak most for a result, strongest first, and those that speak most against it."""

    speaking: tuple[GalleryCell, ...]
    against: tuple[GalleryCell, ...]
    result: str
    """What they speak for: `Early`, `ALL`, `Benign`."""

    @property
    def window(self) -> int:
        """Side of the square, in pixels of the files, in which every cell is shown."""
        sides = [
            max(
                (one.cell.right - one.cell.left) * one.capture.width,
                (one.cell.bottom - one.cell.top) * one.capture.height,
            )
            for one in (*self.speaking, *self.against)
        ]
        return max(LEAST_WINDOW, round(MARGIN * max(sides, default=0)))

    def by_capture(self) -> dict[ScreenedFile, list[StoredCell]]:
        """The cells shown of every file, so that each file is read once."""
        found: dict[ScreenedFile, list[StoredCell]] = {}
        for one in (*self.speaking, *self.against):
            found.setdefault(one.capture.file, []).append(one.cell)
        return found


def gallery_of(
    captures: Sequence[CaptureCells], manifest: Manifest, verdict: Verdict | None, subtype: str | None
) -> Gallery:
    """Choose the cells of a case. They are ordered by the result's subtype, or by ALL or benign where it has none.
    Cells that the capture's edge cuts off are shown only where there are no others.
    """
    wanted = subtype if verdict is Verdict.ALL and subtype in manifest.labels else None
    result = wanted or (manifest.benign_label if verdict is Verdict.BENIGN else "ALL")
    different = {capture.sha256 or capture.path: capture for capture in reversed(captures)}  # copies count once
    cells = [_shown(one, cell, manifest, wanted) for one in different.values() for cell in unpack(one.cells)]
    cells.sort(key=lambda one: one.for_all, reverse=verdict is not Verdict.BENIGN)
    cells = [one for one in cells if one.whole] or cells
    speaking, rest = cells[:FOR], cells[FOR:]
    return Gallery(tuple(speaking), tuple(reversed(rest[-AGAINST:])), result)


def _shown(capture: CaptureCells, cell: StoredCell, manifest: Manifest, wanted: str | None) -> GalleryCell:
    if not cell.shares:
        return GalleryCell(capture, cell, None, None, capture.p_all)
    shares = dict(zip(manifest.labels, cell.shares, strict=True))
    for_all = shares[wanted] if wanted else 1 - shares[manifest.benign_label]
    top = max(shares, key=shares.__getitem__)
    return GalleryCell(capture, cell, top, shares[top], for_all)
