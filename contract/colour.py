"""From an image as it is stored to 8-bit RGB: depth, palettes, CMYK, and transparency over white."""

import numpy as np
from PIL import Image

from contract.errors import CaptureRejected
from contract.states import RejectCode

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras use."""


def to_rgb(
    image: Image.Image, *, is_deep: bool = False, is_premultiplied: bool = False, is_inverted: bool = False
) -> Image.Image:
    """Convert an image in any mode of Pillow to RGB.

    `is_deep`: its 8 bits are the upper half of 16. `is_premultiplied`: its colours are multiplied with its alpha.
    `is_inverted`: white is 0, in grey of more than 8 bits. Raises CaptureRejected if the brightness of the pixels is
    not known.
    """
    if image.mode.startswith(("I", "F")):
        return _from_deep_grey(image, is_inverted).convert("RGB")
    if is_deep:
        _refuse_half_filled(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _over_white(image, is_deep, is_premultiplied)
    return image.convert("RGB")


def _over_white(image: Image.Image, is_deep: bool, is_premultiplied: bool) -> Image.Image:
    """Lay a transparent image over white, the background of a bright-field capture.

    Alpha without one opaque pixel is no alpha: some capture programs leave that channel at 0, and mean nothing by it.
    """
    key = image.info.get("transparency")
    if is_deep and isinstance(key, tuple):  # a colour of 16 bits, while the image has the upper 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if np.asarray(alpha).max() < 255:
        return image.convert("RGB")
    if is_premultiplied:
        pixels = np.asarray(rgba).astype(np.uint16)
        return Image.fromarray(np.minimum(pixels[..., :3] + 255 - pixels[..., 3:], 255).astype(np.uint8))
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")


def _refuse_half_filled(image: Image.Image) -> None:
    """Refuse 12 bits stored in 16: their upper eight are almost black (CMYK: white), and that looks benign."""
    alpha = image.mode in ("RGBA", "LA")
    colours = image.getbands()[: -1 if alpha else None]
    if max(np.asarray(image.getchannel(band)).max() for band in colours) < 128:
        raise CaptureRejected(
            RejectCode.UNSUPPORTED_DEPTH, "16 bits per channel that fill less than half of the range; export as 8 bits"
        )


def _from_deep_grey(image: Image.Image, is_inverted: bool) -> Image.Image:
    """Convert 16-bit grey to 8 bits by its effective depth; Pillow's own conversion makes all values above 255 white.

    Cameras store 10, 12 or 14 bits in 16. The white of a bright-field background shows how many: the depth is the
    smallest of 8, 10, 12, 14 and 16 bits that holds the largest value. Where white is 0, the background shows nothing,
    so the darkest pixel must be so dark that only 16 bits hold it.
    """
    values = np.asarray(image)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() >= 2**16:
        raise CaptureRejected(
            RejectCode.UNSUPPORTED_DEPTH, "pixel values off the scale of 16 bits, or below 0; export as 8 bits"
        )
    if values.dtype.kind == "f" and values.max() <= 1:
        raise CaptureRejected(RejectCode.UNSUPPORTED_DEPTH, "pixel values on a scale of 0 to 1; export as 8 bits")
    if is_inverted:
        if values.max() < 2**15:
            raise CaptureRejected(
                RejectCode.UNSUPPORTED_DEPTH,
                "16-bit grey, white at 0, that fills less than half of its range; export as 8 bits",
            )
        return Image.fromarray((255 - np.round(values * (255 / (2**16 - 1)))).astype(np.uint8))
    depth = next(bits for bits in _DEPTHS if values.max() < 2**bits)
    return Image.fromarray(np.round(values * (255 / (2**depth - 1))).astype(np.uint8))
