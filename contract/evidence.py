"""Pictures of captures as evidence: the field with frames around nucleated cells, and those cells cut out of it."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from contract.cells import StoredCell
from contract.errors import ArchiveUnavailable, CaptureRejected, PseudonymKeyMissing
from contract.imaging import decode_full
from contract.outcomes import ScreenedFile
from contract.pseudonyms import real_paths
from contract.reading import read_screened
from contract.states import RejectCode

SIDE_PX = 320
"""The longer side of a field's picture."""
JPEG_QUALITY, CELL_QUALITY = 82, 92
"""Chromatin is what a haematologist reads, so cells keep more of it."""
CELL_FRAME = (220, 0, 60)
BEYOND = (236, 239, 243)
"""Colour of what lies beyond the capture's edge in the picture of a cell."""
NOT_SHOWN = {
    RejectCode.MISSING: "the file is gone",
    RejectCode.CHANGED: "the file is no longer the one that was screened, so it is not shown",
    RejectCode.OUTSIDE_ARCHIVE: "a link lies where the file was screened; links are not followed",
}


@dataclass(frozen=True)
class Picture:
    """A field and the cells asked for, each as JPEG; or why there is none."""

    field: bytes | None
    cells: tuple[bytes, ...] = ()
    problem: str | None = None


Pictures = Callable[[ScreenedFile, Sequence[StoredCell], int], Picture]
"""A capture, cells of it, and the side in pixels of the file of the square in which each is shown -> its picture."""


def pictures_of(root: bytes, pseudonym_key: str | None, key_file: Path | None, patient_depth: int = 1) -> Pictures:
    """Pictures of one archive's captures. If its paths hold pseudonyms, `pseudonym_key` is their key's fingerprint, and
    `patient_depth` says how many names of a path they replace.

    Without that key in `key_file` there are no pictures.
    """
    if pseudonym_key is None:
        return partial(picture, root)
    try:
        real_path = real_paths(root, pseudonym_key, key_file, patient_depth)
    except PseudonymKeyMissing:
        return lambda _capture, _cells, _window: Picture(
            None, problem="the key of the patients' pseudonyms is not here"
        )

    def shown(capture: ScreenedFile, cells: Sequence[StoredCell], window: int) -> Picture:
        try:
            return picture(root, replace(capture, path=real_path(capture.path)), cells, window)
        except ArchiveUnavailable as error:
            return Picture(None, problem=f"the file cannot be read now: {error}")

    return shown


def picture(root: bytes, capture: ScreenedFile, cells: Sequence[StoredCell] = (), window: int = 0) -> Picture:
    """The capture below `root`, read once: the field with a frame around each of `cells`, and each of them cut out as
    it is in the file, in a square of `window` pixels.

    What lies there now is shown only if it is what was screened, byte for byte.
    """
    if capture.sha256 is None:
        return Picture(None, problem="the run does not say which bytes were screened")
    try:
        image = decode_full(read_screened(root, capture.path, capture.size_bytes, capture.sha256))
    except CaptureRejected as error:
        return Picture(None, problem=NOT_SHOWN.get(error.code, f"the file cannot be shown: {error}"))
    except ArchiveUnavailable as error:
        return Picture(None, problem=f"the file cannot be read now: {error}")
    cut = tuple(_jpeg(_cut_out(image, cell, window), CELL_QUALITY) for cell in cells)
    image.thumbnail((SIDE_PX, SIDE_PX))
    draw = ImageDraw.Draw(image)
    for cell in cells:
        draw.rectangle(_box(cell, image.width, image.height), outline=CELL_FRAME, width=2)
    return Picture(_jpeg(image, JPEG_QUALITY), cut)


def _box(cell: StoredCell, width: int, height: int) -> tuple[float, float, float, float]:
    return cell.left * width, cell.top * height, cell.right * width, cell.bottom * height


def _cut_out(image: Image.Image, cell: StoredCell, window: int) -> Image.Image:
    """The cell in the middle of a square of the file's own pixels; beyond the file's edge it is plain."""
    left, top, right, bottom = _box(cell, image.width, image.height)
    return square(image, round((left + right - window) / 2), round((top + bottom - window) / 2), window, BEYOND)


def square(image: Image.Image, left: int, top: int, side: int, beyond: tuple[int, int, int] | int) -> Image.Image:
    """The square of `side` pixels at (left, top) of an image; what lies beyond the image has the colour `beyond`."""
    cut = Image.new(image.mode, (side, side), beyond)
    cut.paste(image, (-left, -top))
    return cut


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
