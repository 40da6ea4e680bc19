"""Bytes of a capture -> upright RGB uint8 [S, S, 3]: the preprocessing that trainer and worker share.

The exported graph does the normalisation, so trainer and worker need to agree only on what this module returns.
"""

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from contract import colour, jpeg, png, tiff, tiff_pages
from contract.errors import CaptureRejected
from contract.states import RejectCode
from contract.words import CUT_SHORT

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
"""Pillow's names of the formats that are screened (JPEG includes MPO); all others are refused without opening them."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp"})
"""Endings, in lower case, of the file names that the archive walk accepts as captures."""
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 64_000_000
"""More than a microscope camera writes (the largest common sensors have 20-50 megapixels)."""
MAX_CAMERA = 64
"""Most characters of a camera's model; a longer text is something else."""

_SIGNATURES = (jpeg.SIGNATURE, png.SIGNATURE, *tiff_pages.SIGNATURES, b"BM")

# Register all formats now: Pillow does it on the first use, and threads that come first miss half of them.
Image.init()

ImageFile.LOAD_TRUNCATED_IMAGES = False  # black in place of missing pixels would look benign
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Set once for the process: catch_warnings is not safe in threads. _check_header does what the bomb warning is for; a
# warning about metadata, for example a malformed EXIF block, does not concern the pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
RGBImage = NDArray[np.uint8]
_Upright = RGBImage | Image.Image
"""The form that the decoder gave: converting one into the other takes as long as some resizing."""


class ImageSpec(BaseModel):
    """How a capture becomes the network's input; part of the bundle, so worker and trainer cannot differ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=32, le=2048, description="side S of the square input in pixels")
    resampling: Literal["bilinear", "bicubic", "linear"] = Field(
        "bilinear",
        description="bilinear, bicubic: Pillow's, with antialiasing; linear: OpenCV's, four times as fast, which "
        "averages over areas where a pixel is made of two or more on a side",
    )
    fit: Literal["stretch"] = "stretch"
    colour: Literal["RGB"] = "RGB"
    min_side: int = Field(64, ge=1, description="a capture with a shorter side is rejected as too_small")
    jpeg_oversampling: float = Field(
        2.0, ge=1, le=8, description="JPEG may be decoded at a reduced scale whose sides are at least this many times S"
    )


_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Origin:
    """All that is kept of a file's EXIF: the camera's model, and the time of the capture by the camera's clock, which
    knows no time zone and may be years off.
    """

    camera: str | None = None
    captured_at: datetime | None = None


@dataclass(frozen=True)
class Decoded:
    """A capture as the network sees it, uint8 [S, S, 3], and its width and height in pixels, upright."""

    pixels: RGBImage
    width: int
    height: int
    origin: Origin = Origin()


@dataclass(frozen=True)
class _Loaded:
    """Upright pixels, perhaps at reduced scale; width and height at full scale; what EXIF said."""

    upright: _Upright
    width: int
    height: int
    origin: Origin


def decode(data: bytes, spec: ImageSpec) -> Decoded:
    """Decode one capture for the network: RGB, upright by EXIF, resized to the square of the spec.

    JPEG is decoded at the smallest of its reduced scales (1/2, 1/4, 1/8) whose sides are at least `jpeg_oversampling`
    times S: that scale still has the coarse frequencies that the resize would keep. docs/benchmarks.md measures how
    much this changes a probability.

    Raises CaptureRejected, whose sentence never contains a path.
    """
    at_least = math.ceil(spec.jpeg_oversampling * spec.size)
    loaded = _load(data, at_least=at_least, min_side=spec.min_side)
    return Decoded(_resized(loaded.upright, spec), loaded.width, loaded.height, loaded.origin)


def _resized(upright: _Upright, spec: ImageSpec) -> RGBImage:
    square = (spec.size, spec.size)
    if spec.resampling in _RESAMPLING:
        return np.asarray(_as_image(upright).resize(square, _RESAMPLING[spec.resampling]))
    import cv2  # slow to import, and most commands decode nothing

    pixels = np.asarray(upright)
    # Up to a reduction by 2, linear interpolation uses every pixel; beyond that it would skip some.
    interpolation = cv2.INTER_LINEAR if max(pixels.shape[:2]) <= 2 * spec.size else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, square, interpolation=interpolation), dtype=np.uint8)


def _as_image(upright: _Upright) -> Image.Image:
    return upright if isinstance(upright, Image.Image) else Image.fromarray(upright)


def decode_full(data: bytes) -> Image.Image:
    """Decode to an upright 8-bit RGB image of full size, for people. Raises CaptureRejected."""
    return _as_image(_load(data, at_least=None, min_side=1).upright)


def _load(data: bytes, *, at_least: int | None, min_side: int) -> _Loaded:
    """Upright RGB; JPEG at a reduced scale as long as both sides stay >= `at_least`."""
    if not data:
        raise CaptureRejected(RejectCode.EMPTY_FILE, "the file has no bytes")
    if len(data) > MAX_BYTES:
        raise CaptureRejected(RejectCode.TOO_LARGE, f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        if data.startswith(tuple(tiff_pages.SIGNATURES)):
            return _load_tiff(data, min_side)
        if data.startswith(png.SIGNATURE):
            png.refuse_damage(data)
        try:
            return _load_other(data, at_least, min_side)
        except (UnidentifiedImageError, *_DECODER_ERRORS):  # perhaps for metadata, which cannot reject a capture
            if not data.startswith((jpeg.SIGNATURE, png.SIGNATURE)):
                raise
        bare = png.without_metadata if data.startswith(png.SIGNATURE) else jpeg.without_metadata
        return _load_other(bare(data), at_least, min_side)
    except UnidentifiedImageError:
        if data.startswith(jpeg.SIGNATURE):
            jpeg.channels_of(data)
        if data.startswith(_SIGNATURES):
            raise CaptureRejected(RejectCode.CORRUPT, "begins like an image, but its header is damaged") from None
        raise CaptureRejected(RejectCode.NOT_AN_IMAGE, "the bytes are no JPEG, PNG, TIFF or BMP") from None
    except Image.DecompressionBombError:
        raise CaptureRejected(RejectCode.TOO_LARGE, f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise CaptureRejected(RejectCode.TOO_LARGE, "does not fit into memory when decoded") from None
    except _DECODER_ERRORS as error:
        raise _undecodable(error) from error


def _load_other(data: bytes, at_least: int | None, min_side: int) -> _Loaded:
    """JPEG and BMP, and PNG whose chunks are intact."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "BMP")) as image:
        channels = jpeg.channels_of(data) if image.format in ("JPEG", "MPO") else 0
        _check_size(image.size, min_side)
        # An MPO is a photograph followed by previews of itself: its first image is the capture.
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if pages > 1:
            raise CaptureRejected(RejectCode.MULTI_PAGE, f"holds {pages} images; export each as a file of its own")
        header, is_deep, origin = image.size, _is_deep_colour(image), _origin(image)
        width, height = header[::-1] if _orientation(image) in (5, 6, 7, 8) else header
        if channels:
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            return _Loaded(_turned(_jpeg_pixels(data, image.size, channels), image), width, height, origin)
        image.load()
        return _Loaded(colour.to_rgb(_upright(image), is_deep=is_deep), width, height, origin)


def _jpeg_pixels(data: bytes, size: tuple[int, int], channels: int) -> RGBImage:
    """Decode at the scale that gives `size`."""
    if channels < 4:
        return jpeg.decode(data, size)
    inverted = Image.fromarray(255 - jpeg.decode(data, size, "CMYK"), "CMYK")  # as Adobe stores it
    return np.asarray(inverted.convert("RGB"))


def _load_tiff(data: bytes, min_side: int) -> _Loaded:
    page = tiff_pages.full_page(data)
    _check_size(page.size, min_side)
    layout = tiff.layout_of(page)
    tiff.refuse_unread(page, layout)
    loaded = tiff.load(page, layout)
    rgb = colour.to_rgb(
        loaded.image, is_deep=loaded.is_deep, is_premultiplied=loaded.is_premultiplied, is_inverted=loaded.is_inverted
    )
    return _Loaded(rgb, *rgb.size, _origin(loaded.described))


def _turned(pixels: RGBImage, image: Image.Image) -> RGBImage:
    """Turn the pixels upright by the EXIF orientation of `image`, as Pillow's exif_transpose does."""
    turn = _TURNS.get(_orientation(image))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # malformed EXIF; the pixels are sound without it
        return 1


def _origin(image: Image.Image) -> Origin:
    try:
        exif = image.getexif()
        if not exif:
            return Origin()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        camera = exif.get(ExifTags.Base.Model)
        taken = details.get(ExifTags.Base.DateTimeOriginal) or details.get(ExifTags.Base.DateTimeDigitized)
        return Origin(_as_text(camera), _as_time(taken))
    except Exception:  # malformed EXIF; the pixels are sound without it
        return Origin()


def _as_text(value: object) -> str | None:
    """A camera's model: short printable text, or nothing."""
    text = "".join(letter for letter in str(value) if letter.isprintable()).strip() if isinstance(value, str) else ""
    return text if 0 < len(text) <= MAX_CAMERA else None


def _as_time(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

_DECODER_ERRORS = (
    OSError, EOFError, ValueError, SyntaxError, IndexError, TypeError, KeyError, ZeroDivisionError, OverflowError,
    AttributeError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on hostile bytes, according to its source and to its fuzzers."""


def _check_size(size: tuple[int, int], min_side: int) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise CaptureRejected(RejectCode.TOO_LARGE, f"{width}x{height} pixels; at most {MAX_PIXELS:,} are decoded")
    if min(width, height) < min_side:
        raise CaptureRejected(
            RejectCode.TOO_SMALL, f"{width}x{height} pixels; the shorter side must have at least {min_side}"
        )


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether there are 16 bits per colour channel, of which Pillow keeps only the upper eight."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _undecodable(error: Exception) -> CaptureRejected:
    text = str(error).lower()
    if "truncated" in text or isinstance(error, EOFError):
        return CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
    if text.startswith(("unsupported bmp compression", "unsupported bmp bitfields")):
        kind = text.removeprefix("unsupported bmp ")
        return CaptureRejected(
            RejectCode.UNSUPPORTED_KIND, f"a BMP of a kind that is not read ({kind}); export it as 24-bit BMP"
        )
    return CaptureRejected(RejectCode.CORRUPT, f"the image cannot be decoded ({type(error).__name__})")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises many kinds on malformed EXIF; the pixels are sound without it
        return image.copy()
