"""Pictures of captures as evidence: a small copy, with frames around the places that speak most for its label.

Reports, pages and model cards all show an activation map in the same way.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.errors import ArchiveUnavailable, CaptureRejected, PseudonymKeyMissing
from contract.imaging import decode_full
from contract.outcomes import ScreenedFile
from contract.pseudonyms import real_paths
from contract.reading import read_screened
from contract.states import RejectCode

SIDE_PX = 320
"""The longer side of a picture."""
JPEG_QUALITY = 82
FRAMES = ((0.25, (255, 196, 0), 1), (0.10, (220, 0, 60), 2))
"""Share of an activation map's places that get a frame, the frame's colour, and its width in pixels."""


NOT_SHOWN = {
    RejectCode.MISSING: "the file is gone",
    RejectCode.CHANGED: "the file is no longer the one that was screened, so it is not shown",
    RejectCode.OUTSIDE_ARCHIVE: "a link lies where the file was screened; links are not followed",
}


@dataclass(frozen=True)
class Picture:
    """A capture as JPEG, or why there is none."""

    jpeg: bytes | None
    problem: str | None = None


Pictures = Callable[[ScreenedFile, bytes | None], Picture]
"""A capture and its activation map -> its picture."""


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
        return lambda _capture, _cam: Picture(None, "the key of the patients' pseudonyms is not here")

    def shown(capture: ScreenedFile, cam: bytes | None) -> Picture:
        try:
            return picture(root, replace(capture, path=real_path(capture.path)), cam)
        except ArchiveUnavailable as error:
            return Picture(None, f"the file cannot be read now: {error}")

    return shown


def picture(root: bytes, capture: ScreenedFile, cam: bytes | None) -> Picture:
    """The capture below `root`; with `cam` (float16 [h, w], h = w) its strongest places are framed. What lies there now
    is shown only if it is what was screened, byte for byte.
    """
    if capture.sha256 is None:
        return Picture(None, "the run does not say which bytes were screened")
    try:
        image = decode_full(read_screened(root, capture.path, capture.size_bytes, capture.sha256))
    except CaptureRejected as error:
        return Picture(None, NOT_SHOWN.get(error.code, f"the file cannot be shown: {error}"))
    except ArchiveUnavailable as error:
        return Picture(None, f"the file cannot be read now: {error}")
    image.thumbnail((SIDE_PX, SIDE_PX))
    pixels = np.asarray(image)
    if cam is not None:
        activation = np.frombuffer(cam, dtype=np.float16)
        pixels = framed(pixels, activation.reshape(isqrt(activation.size), -1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue())


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
    for share, colour, thickness in FRAMES:
        strongest = (rank < max(1, round(share * rank.size))).astype(np.uint8)
        mask = cv2.resize(strongest, (width, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, contours, -1, colour, thickness)
    return drawn
