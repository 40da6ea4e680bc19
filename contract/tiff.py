"""The pixels of a TIFF, if its layout is on the list of those that are proved to be read right.

TIFF allows far more layouts than any library reads, and a library that takes one for another gives wrong pixels without
a word. So READ lists what is read, and all other layouts are refused by name. tests/unit/test_tiff.py writes each
layout of READ and compares it pixel by pixel with the samples that it wrote; tifffile confirms that it wrote them.
"""

import io
import itertools
import operator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contract import jpeg
from contract.errors import CaptureRejected
from contract.states import RejectCode
from contract.tiff_pages import Page, Tag
from contract.words import CUT_SHORT

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
"""Values of PhotometricInterpretation."""
COLOURS = {
    WHITE_IS_ZERO: "grey (WhiteIsZero)", BLACK_IS_ZERO: "grey", RGB: "RGB", PALETTE: "palette", 4: "mask", CMYK: "CMYK",
    YCBCR: "YCbCr", LAB: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "raw sensor data (CFA)", 32844: "LogL",
    32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip
CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
"""Values of SampleFormat."""
FORMATS = {SIGNED: " signed", FLOAT: " floating point", 4: " undefined", 5: " complex signed", 6: " complex"}
NONE, OLD_JPEG, JPEG = 1, 6, 7
LOSSLESS = {NONE: "", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA", 50000: "Zstandard"}
"""Values of Compression whose pixels are read, beside JPEG."""
COMPRESSIONS = {
    **LOSSLESS, JPEG: "JPEG", 2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", OLD_JPEG: "old-style JPEG",
    32771: "CCITT", 32809: "ThunderScan", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000",
    33007: "JPEG-LS", 34676: "SGI Log", 34677: "SGI Log", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG",
    34926: "Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
UNSPECIFIED, ASSOCIATED, UNASSOCIATED, COREL = 0, 1, 2, 999
"""Values of ExtraSamples: anything, alpha that the colours are multiplied with, alpha, and CorelDRAW's for alpha."""
UNNAMED = (-1,)
"""Stands for a fourth channel of RGB that ExtraSamples does not name; it is alpha, as everywhere."""

READ: dict[tuple[int, int, int], set[tuple[int, ...]]] = {
    (BLACK_IS_ZERO, UNSIGNED, 1): {()},
    (BLACK_IS_ZERO, UNSIGNED, 2): {()},
    (BLACK_IS_ZERO, UNSIGNED, 4): {()},
    (BLACK_IS_ZERO, UNSIGNED, 8): {(), (UNSPECIFIED,), (ASSOCIATED,), (UNASSOCIATED,)},
    (BLACK_IS_ZERO, UNSIGNED, 16): {()},
    (BLACK_IS_ZERO, UNSIGNED, 32): {()},
    (BLACK_IS_ZERO, SIGNED, 32): {()},
    (BLACK_IS_ZERO, FLOAT, 32): {()},
    (WHITE_IS_ZERO, UNSIGNED, 1): {()},
    (WHITE_IS_ZERO, UNSIGNED, 2): {()},
    (WHITE_IS_ZERO, UNSIGNED, 4): {()},
    (WHITE_IS_ZERO, UNSIGNED, 8): {()},
    (WHITE_IS_ZERO, UNSIGNED, 16): {()},
    (RGB, UNSIGNED, 8): {
        (),
        UNNAMED,
        (COREL,),
        (UNSPECIFIED,),
        (ASSOCIATED,),
        (UNASSOCIATED,),
        (UNSPECIFIED,) * 2,
        (UNSPECIFIED,) * 3,
        (ASSOCIATED, UNSPECIFIED),
        (ASSOCIATED, UNSPECIFIED, UNSPECIFIED),
        (UNASSOCIATED, UNSPECIFIED),
        (UNASSOCIATED, UNSPECIFIED, UNSPECIFIED),
    },
    (RGB, UNSIGNED, 16): {(), UNNAMED, (UNSPECIFIED,), (ASSOCIATED,), (UNASSOCIATED,)},
    (PALETTE, UNSIGNED, 1): {()},
    (PALETTE, UNSIGNED, 2): {()},
    (PALETTE, UNSIGNED, 4): {()},
    (PALETTE, UNSIGNED, 8): {(), (UNSPECIFIED,), (UNASSOCIATED,)},
    (CMYK, UNSIGNED, 8): {(), (UNSPECIFIED,), (UNSPECIFIED,) * 2},
    (CMYK, UNSIGNED, 16): {()},
    (YCBCR, UNSIGNED, 8): {()},
    (LAB, UNSIGNED, 8): {()},
}
"""(PhotometricInterpretation, SampleFormat, BitsPerSample) -> ExtraSamples, of the layouts whose channels lie together.

Where each channel is a plane of its own, the planes are read one by one, as grey: see PLANES.
"""
PLANES = {(BLACK_IS_ZERO, 8), (BLACK_IS_ZERO, 16), (RGB, 8), (RGB, 16), (CMYK, 8), (CMYK, 16)}
"""PhotometricInterpretation and BitsPerSample, unsigned, of the layouts whose channels are planes of their own.

Each plane is read as a grey page, so these are right if grey is; channels that are neither colour nor alpha are left.
"""
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
"""Values of ReferenceBlackWhite that say nothing new."""
MODES = {(BLACK_IS_ZERO, 1): "L", (BLACK_IS_ZERO, 2): "LA", (RGB, 3): "RGB", (RGB, 4): "RGBA", (CMYK, 4): "CMYK"}
EXPORT = "export it as RGB with 8 bits per channel, uncompressed or with LZW"


@dataclass(frozen=True)
class Layout:
    """How the samples of a page are stored; `extra` are its channels beside the colours, as ExtraSamples names them."""

    colours: int
    sample_format: int
    bits: int
    extra: tuple[int, ...]
    is_planar: bool
    compression: int
    predictor: int
    is_little_endian: bool

    def __str__(self) -> str:
        """The layout in words, for the sentence of a refusal."""
        colours = COLOURS.get(self.colours, f"photometric interpretation {self.colours}")
        compression = COMPRESSIONS.get(self.compression, f"compression {self.compression}")
        words = [f"{colours}, {self.bits} bit{'s' * (self.bits > 1)}{FORMATS.get(self.sample_format, '')}"]
        words += [f"{len(self.extra)} more channel{'s' * (len(self.extra) > 1)}"] if self.extra else []
        words += ["planar"] if self.is_planar else []
        words += [compression] if compression else []
        words += [f"predictor {self.predictor}"] if self.predictor not in (1, 2) else []
        return ", ".join(words)


@dataclass(frozen=True)
class Loaded:
    """An upright page in a mode of Pillow, and what its mode does not say.

    `is_deep`: 8-bit colours are the upper halves of 16-bit ones. `is_premultiplied`: the colours are multiplied with
    alpha. `is_inverted`: white is 0. `described` is an image that has the page's EXIF.
    """

    image: Image.Image
    described: Image.Image
    is_deep: bool = False
    is_premultiplied: bool = False
    is_inverted: bool = False


def layout_of(page: Page) -> Layout:
    """The layout of a page. Raises CaptureRejected if its directory contradicts itself."""
    colours = page.number(Tag.PHOTOMETRIC, -1)
    channels = page.number(Tag.SAMPLES_PER_PIXEL, 1)
    bits, formats = page.numbers(Tag.BITS_PER_SAMPLE, (1,)), page.numbers(Tag.SAMPLE_FORMAT, (UNSIGNED,))
    extra = page.numbers(Tag.EXTRA_SAMPLES)
    if (colours, channels, extra) == (RGB, 4, ()):
        extra = UNNAMED
    layout = Layout(
        colours, formats[0], bits[0], extra, page.number(Tag.PLANAR_CONFIGURATION, 1) == 2 and channels > 1,
        page.number(Tag.COMPRESSION, NONE), page.number(Tag.PREDICTOR, 1), page.order == "<",
    )  # fmt: skip
    if len(set(bits[:channels])) > 1 or len(set(formats[:channels])) > 1:
        raise _unread(layout, "its channels differ in depth")
    if colours in CHANNELS and channels != CHANNELS[colours] + len(extra):
        raise _unread(layout, f"it has {channels} channels")
    return layout


def _unread(layout: Layout, why: str = "") -> CaptureRejected:
    """The rejection of a layout that is not read; `why` completes it where the layout alone does not."""
    is_depth = layout.bits not in (1, 2, 4, 8, 16) or layout.sample_format != UNSIGNED
    code = RejectCode.UNSUPPORTED_DEPTH if is_depth else RejectCode.UNSUPPORTED_KIND
    return CaptureRejected(code, f"a TIFF of a kind that is not read ({layout}{', ' + why if why else ''}); {EXPORT}")


def refuse_unread(page: Page, layout: Layout) -> None:
    """Raise CaptureRejected unless the layout of the page is one of those that are proved to be read right."""
    if layout.is_planar:
        listed = layout.sample_format == UNSIGNED and (layout.colours, layout.bits) in PLANES
        listed &= not (layout.bits == 16 and layout.colours == BLACK_IS_ZERO and set(layout.extra) != {UNSPECIFIED})
    else:
        listed = layout.extra in READ.get((layout.colours, layout.sample_format, layout.bits), ())
    if not listed:
        raise _unread(layout)
    if layout.compression == JPEG:
        if layout.bits != 8 or layout.extra or layout.colours in (PALETTE, LAB):
            raise _unread(layout)
    elif layout.compression not in LOSSLESS or layout.predictor not in (1, 2):
        raise _unread(layout)
    elif layout.colours == YCBCR and page.numbers(Tag.YCBCR_SUBSAMPLING, (2, 2)) != (1, 1):
        raise _unread(layout, "with fewer pixels of colour than of brightness")
    elif layout.colours == YCBCR and page.fractions(Tag.REFERENCE_BLACK_WHITE, _FULL_RANGE) != _FULL_RANGE:
        raise _unread(layout, "in a range of its own")
    is_native = layout.compression == NONE and layout.sample_format != UNSIGNED
    if layout.bits == 32 and not layout.is_little_endian and not is_native:
        raise _unread(layout, "big-endian")
    if page.number(Tag.FILL_ORDER, 1) != 1:
        raise _unread(layout, "bits in reverse order")
    if layout.colours == CMYK and page.number(Tag.INK_SET, 1) != 1:
        raise _unread(layout, "inks other than CMYK")


def load(page: Page, layout: Layout) -> Loaded:
    """Read the pixels of a page whose layout is read. Raises CaptureRejected where they are damaged.

    Otherwise raises what Pillow's decoders raise.
    """
    blocks = blocks_of(page, layout)
    if layout.compression == JPEG:
        _refuse_damage(page, blocks)
    if layout.is_planar:
        return _load_planes(page, layout)
    is_premultiplied = layout.extra[:1] == (ASSOCIATED,)
    is_inverted = layout.bits == 16 and layout.colours == WHITE_IS_ZERO
    replaced: dict[Tag, tuple[int, ...]] = {}
    if is_premultiplied:  # Pillow would divide by alpha, and lose the colours where it is 0
        replaced[Tag.EXTRA_SAMPLES] = (UNASSOCIATED, *layout.extra[1:])
    if is_inverted:  # Pillow would not invert it
        replaced[Tag.PHOTOMETRIC] = (BLACK_IS_ZERO,)
    colour_map = page.numbers(Tag.COLOR_MAP)
    if layout.colours == PALETTE and colour_map and max(colour_map) < 256:  # 8 bits where 16 belong
        replaced[Tag.COLOR_MAP] = tuple(257 * value for value in colour_map)
    image = _read(page.alone(replaced))
    return Loaded(image, image, layout.bits == 16 and image.mode[0] != "I", is_premultiplied, is_inverted)


def _read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("TIFF",))
    image.load()
    return image


def _load_planes(page: Page, layout: Layout) -> Loaded:
    """Read the planes of colours, and of alpha if there is one, as grey pages, and put them together."""
    colours = CHANNELS[layout.colours]
    alpha = next(
        (colours + place for place, kind in enumerate(layout.extra) if kind in (ASSOCIATED, UNASSOCIATED, *UNNAMED)),
        None,
    )
    wanted = [*range(colours), *([alpha] if alpha is not None and layout.colours in (BLACK_IS_ZERO, RGB) else [])]
    planes = [_read(page.alone(_plane(page, layout, number))) for number in wanted]
    described, is_deep = planes[0], layout.bits == 16
    if len(planes) == 1:
        return Loaded(described, described)
    if is_deep:
        planes = [Image.fromarray((np.asarray(plane) >> 8).astype(np.uint8)) for plane in planes]
    image = Image.merge(MODES[layout.colours, len(planes)], planes)
    return Loaded(image, described, is_deep, alpha is not None and layout.extra[alpha - colours] == ASSOCIATED)


def _plane(page: Page, layout: Layout, number: int) -> dict[Tag, tuple[int, ...]]:
    """What to replace in the directory so that it describes plane `number` alone, as grey."""
    channels = CHANNELS[layout.colours] + len(layout.extra)
    replaced: dict[Tag, tuple[int, ...]] = {
        Tag.SAMPLES_PER_PIXEL: (1,), Tag.BITS_PER_SAMPLE: (layout.bits,), Tag.PHOTOMETRIC: (BLACK_IS_ZERO,),
        Tag.PLANAR_CONFIGURATION: (1,), Tag.SAMPLE_FORMAT: (UNSIGNED,), Tag.EXTRA_SAMPLES: (),
    }  # fmt: skip
    for tag in (Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS, Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS):
        values = page.numbers(tag)
        if len(values) % channels:
            raise CaptureRejected(RejectCode.CORRUPT, "its planes differ in their number of strips or tiles")
        blocks = len(values) // channels
        replaced[tag] = values[number * blocks : (number + 1) * blocks]
    return replaced


def blocks_of(page: Page, layout: Layout) -> list[slice]:
    """Where the strips or tiles of all planes lie in the file.

    Raises CaptureRejected if the directory lists more or fewer than the image has, which Pillow would leave black, or
    if the file ends before they do.
    """
    width, height = page.size
    tiled = Tag.TILE_OFFSETS in page.entries
    rows = page.number(Tag.TILE_LENGTH if tiled else Tag.ROWS_PER_STRIP, height)
    columns = page.number(Tag.TILE_WIDTH) if tiled else width
    offsets = page.numbers(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS)
    sizes = page.numbers(Tag.TILE_BYTE_COUNTS if tiled else Tag.STRIP_BYTE_COUNTS)
    channels = CHANNELS[layout.colours] + len(layout.extra)
    planes, channels = (channels, 1) if layout.is_planar else (1, channels)
    if min(rows, columns) < 1 or len(offsets) != planes * -(-height // rows) * -(-width // columns):
        raise CaptureRejected(RejectCode.CORRUPT, "its directory does not say where all of the pixels are")
    if layout.compression == NONE:
        row = (columns * channels * layout.bits + 7) // 8
        tops = itertools.cycle(range(0, height, rows))
        sizes = tuple(row * (rows if tiled else min(rows, height - next(tops))) for _ in offsets)
    if len(sizes) != len(offsets) or max(map(operator.add, offsets, sizes)) > len(page.data):
        raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
    return [slice(at, at + size) for at, size in zip(offsets, sizes, strict=True)]


def _refuse_damage(page: Page, blocks: list[slice]) -> None:
    """Raise CaptureRejected if a strip or tile of JPEG is damaged: libtiff would paint over it and say nothing."""
    tables = page.bytes_of(Tag.JPEG_TABLES)
    for block in blocks:
        stream = page.data[block]
        if tables:
            stream = tables[:-2] + stream[2:]
        jpeg.decode(stream, (1, 1), {1: "GRAY", 4: "CMYK"}.get(jpeg.channels_of(stream), "RGB"))
