"""The one preprocessing: what every kind of file becomes; and no damaged file is ever screened as if it were whole."""

import io
import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from contract import imaging
from contract.errors import CaptureRejected
from contract.imaging import MAX_BYTES, ImageSpec, decode, decode_full
from contract.states import RejectCode
from tests.support.archives import encode, picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's, on damaged files

SPEC = ImageSpec(size=64)
RED, GREEN, BLUE, WHITE, BLACK = (200, 30, 40), (30, 180, 60), (40, 60, 210), (255, 255, 255), (0, 0, 0)
QUARTERS = (RED, GREEN, BLUE, WHITE)
"""Colours of the picture's quarters: top left, top right, bottom left, bottom right."""
BROKEN = {RejectCode.TRUNCATED, RejectCode.CORRUPT, RejectCode.NOT_AN_IMAGE, RejectCode.EMPTY_FILE}


def quartered(width: int = 160, height: int = 120) -> NDArray[np.uint8]:
    """A picture that shows which way up it is, uint8 [height, width, 3]."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(QUARTERS):
        row, column = divmod(number, 2)
        pixels[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2] = colour
    return pixels


def quarters(pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters."""
    near, far = pixels.shape[0] // 4, 3 * pixels.shape[0] // 4
    return [tuple(int(v) for v in pixels[row, column]) for row in (near, far) for column in (near, far)]


def assert_quarters(data: bytes, expected: tuple[tuple[int, ...], ...] = QUARTERS, tolerance: int = 6) -> None:
    assert_pixels(decode(data, SPEC).pixels, expected, tolerance)


def assert_pixels(pixels: NDArray[np.uint8], expected: tuple[tuple[int, ...], ...], tolerance: int) -> None:
    for seen, wanted in zip(quarters(pixels), expected, strict=True):
        assert np.abs(np.subtract(seen, wanted)).max() <= tolerance, f"{seen} instead of {wanted}"


def code_of(data: bytes, spec: ImageSpec = SPEC) -> RejectCode | None:
    """The code that the bytes are rejected with, or None where they decode."""
    try:
        decode(data, spec)
    except CaptureRejected as error:
        return error.code
    return None


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG written by hand: `rows` are its raw rows, each after its filter byte."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(pixels: NDArray[np.uint16]) -> bytes:
    """A 16-bit RGB PNG of uint16 [height, width, 3], which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, 2, rows)


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One brightness per quarter, 0 to 1, for the greys below."""
    shades = np.zeros(pixels.shape[:2])
    for shade, colour in zip((0.9, 0.6, 0.3, 1.0), QUARTERS, strict=True):
        shades[(pixels == colour).all(2)] = shade
    return shades


GREYS = tuple((round(255 * shade),) * 3 for shade in (0.9, 0.6, 0.3, 1.0))


# What kinds of files become


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_all_formats_give_the_same_upright_colours(kind: str) -> None:
    assert_quarters(encode(Image.fromarray(quartered()), kind))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_every_usual_compression_of_tiff_is_read(compression: str) -> None:
    assert_quarters(encode(Image.fromarray(quartered()), "TIFF", compression=compression))


def test_lossless_formats_give_the_same_bytes() -> None:
    image = picture("Pre", size=(200, 150))
    first, *others = [decode(encode(image, kind), SPEC).pixels for kind in ("PNG", "TIFF", "BMP")]
    assert all(np.array_equal(first, other) for other in others)


STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""EXIF 2.32, tag 0x0112: how the camera stores an upright picture under each orientation."""


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](quartered()))
    return encode(Image.fromarray(stored), kind, exif=exif)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_an_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    assert_quarters(turned(kind, orientation))
    full = decode_full(turned(kind, orientation))
    assert full.size == (160, 120)
    assert_pixels(np.asarray(full.resize((64, 64))), QUARTERS, tolerance=6)


@pytest.mark.parametrize("orientation", [1, 6])
def test_width_and_height_mean_the_same_for_every_format(orientation: int) -> None:
    sizes = {(one.width, one.height) for one in (decode(turned(k, orientation), SPEC) for k in ("JPEG", "PNG", "TIFF"))}
    assert len(sizes) == 1


@pytest.mark.parametrize("size", [(1001, 1002), (1002, 1001), (1001, 1001)])
def test_width_and_height_of_an_almost_square_jpeg_are_those_of_its_header(size: tuple[int, int]) -> None:
    decoded = decode(encode(Image.new("RGB", size), "JPEG"), SPEC)  # at reduced scale both sides are equal
    assert (decoded.width, decoded.height) == size


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_grey_is_turned_upright_too(mode: str) -> None:
    stored = np.rot90(grey(quartered()) * 65535, 1)
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    raw = np.ascontiguousarray(stored).astype(kinds[mode])
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.frombytes(mode, (stored.shape[1], stored.shape[0]), raw.tobytes())
    assert_quarters(encode(image, "TIFF", exif=exif), GREYS, tolerance=1)


def _ifd(kind: int, count: int, value: bytes) -> bytes:
    """A little-endian EXIF block whose only entry is the orientation, of any type and value."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, kind, count) + value + bytes(4)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0" + b"nonsense" * 20,
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        _ifd(3, 1, b"\x63\0\0\0"),
        _ifd(2, 4, b"six\0"),
        _ifd(3, 0xFFFFFFFF, b"\x06\0\0\0"),
        _ifd(5, 1, b"\xf0\xff\xff\xff"),
        _ifd(99, 1, b"\x06\0\0\0"),
    ],
    ids=["empty", "nonsense", "cut", "offset", "count", "value-99", "text", "huge-count", "rational", "type-99"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_malformed_exif_block_does_not_reject_a_sound_picture(kind: str, exif: bytes) -> None:
    assert_quarters(encode(Image.fromarray(quartered()), kind, exif=exif))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind: str) -> None:
    assert_quarters(encode(Image.fromarray(quartered()).convert("CMYK"), kind))


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(quartered()).quantize(8)
    assert image.mode == "P"
    for kind in ("PNG", "TIFF", "BMP"):
        assert_quarters(encode(image, kind))


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.fromarray(quartered()).quantize(8)
    transparent = image.getpixel((10, 10))
    assert_quarters(encode(image, "PNG", transparency=transparent), (WHITE, GREEN, BLUE, WHITE))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    pixels = np.dstack([quartered(), np.full((120, 160), 255, np.uint8)])
    pixels[:60, :80] = (0, 0, 0, 0)  # transparent black, as an editor leaves it
    pixels[60:, :80] = (0, 0, 0, 128)
    half = (127, 127, 127)
    assert_quarters(encode(Image.fromarray(pixels), kind), (WHITE, GREEN, half, WHITE))


def test_grey_with_alpha_is_laid_over_white() -> None:
    pixels = np.zeros((120, 160, 2), np.uint8)
    pixels[..., 1] = 255
    pixels[:60, :80] = (0, 0)
    pixels[60:, 80:] = (90, 255)
    data = encode(Image.fromarray(pixels, "LA"), "PNG")
    assert_quarters(data, (WHITE, BLACK, BLACK, (90, 90, 90)))


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    assert_quarters(encode(Image.fromarray(quartered()), "PNG", transparency=BLUE), (RED, GREEN, WHITE, WHITE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_eight_bit_grey_becomes_three_equal_channels(kind: str) -> None:
    assert_quarters(encode(Image.fromarray(np.round(grey(quartered()) * 255).astype(np.uint8)), kind), GREYS)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(kind: str) -> None:
    image = Image.fromarray(grey(quartered()) > 0.5)
    assert image.mode == "1"
    assert_quarters(encode(image, kind), (WHITE, WHITE, BLACK, WHITE))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_the_depth_that_its_camera_used(kind: str, bits: int) -> None:
    values = np.round(grey(quartered()) * (2**bits - 1)).astype(np.uint16)
    assert_quarters(encode(Image.fromarray(values), kind), GREYS, tolerance=1)


def test_16_bit_colour_keeps_its_colours() -> None:
    assert_quarters(png16(quartered().astype(np.uint16) * 257))


def test_12_bit_colour_stored_in_16_bits_is_never_screened_as_black() -> None:
    data = png16(quartered().astype(np.uint16) * 16)
    try:
        pixels = decode(data, SPEC).pixels
    except CaptureRejected:
        return
    assert pixels.max() > 128


def test_32_bit_whole_numbers_are_scaled_like_16_bit_ones() -> None:
    values = np.round(grey(quartered()) * 4095).astype(np.int32)
    assert_quarters(encode(Image.fromarray(values), "TIFF"), GREYS, tolerance=1)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_floats_on_the_scale_of_a_camera_are_scaled_by_its_depth(bits: int) -> None:
    values = (grey(quartered()) * (2**bits - 1)).astype(np.float32)
    assert_quarters(encode(Image.fromarray(values), "TIFF"), GREYS, tolerance=1)


def test_floats_between_0_and_1_are_never_screened_as_black() -> None:
    data = encode(Image.fromarray(grey(quartered()).astype(np.float32)), "TIFF")
    if code_of(data) is None:
        assert_quarters(data, GREYS, tolerance=1)


@pytest.mark.parametrize("value", [-1.0, 65536.0, float("nan"), float("inf")])
def test_32_bit_values_off_any_cameras_scale_are_rejected(value: float) -> None:
    values = np.full((100, 100), 200, np.float32)
    values[50, 50] = value
    assert code_of(encode(Image.fromarray(values), "TIFF")) is RejectCode.UNSUPPORTED_DEPTH
    if np.isfinite(value):
        whole = Image.fromarray(values.astype(np.int32))
        assert code_of(encode(whole, "TIFF")) is RejectCode.UNSUPPORTED_DEPTH


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_several_images_in_one_file_are_no_capture(kind: str) -> None:
    data = encode(picture("Pre"), kind, save_all=True, append_images=[picture("Pro"), picture("Benign")])
    with pytest.raises(CaptureRejected, match="3 images") as caught:
        decode(data, SPEC)
    assert caught.value.code is RejectCode.MULTI_PAGE


def test_the_first_image_of_an_mpo_is_the_capture() -> None:
    data = encode(Image.fromarray(quartered()), "MPO", save_all=True, append_images=[picture("Pro", size=(160, 120))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert_quarters(data)


# What comes out


@pytest.mark.parametrize("size", [32, 64, 300])
@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
def test_the_result_is_a_contiguous_square_of_bytes(size: int, resampling: str) -> None:
    decoded = decode(encode(picture("Pre", size=(321, 123)), "PNG"), ImageSpec(size=size, resampling=resampling))
    assert decoded.pixels.shape == (size, size, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert (decoded.width, decoded.height) == (321, 123)


def test_the_same_bytes_always_give_the_same_pixels() -> None:
    data = encode(picture("Pro", size=(1024, 768)), "JPEG")
    assert len({decode(data, SPEC).pixels.tobytes() for _ in range(5)}) == 1


def test_the_rule_for_resampling_is_followed() -> None:
    data = encode(picture("Pro", size=(200, 200)), "PNG")
    bilinear, bicubic = (decode(data, ImageSpec(size=64, resampling=r)).pixels for r in ("bilinear", "bicubic"))
    assert not np.array_equal(bilinear, bicubic)


def test_reduced_scale_decoding_hardly_differs_from_full_decoding() -> None:
    rng = np.random.default_rng(3)
    image = Image.new("RGB", (1024, 768), (232, 215, 220))
    draw = ImageDraw.Draw(image)
    for _ in range(120):
        x, y, r = (int(v) for v in (rng.integers(0, 1024), rng.integers(0, 768), rng.integers(20, 50)))
        draw.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(v) for v in rng.integers(60, 230, 3)))
    data = encode(image, "JPEG", quality=90)
    reduced = decode(data, SPEC)
    full = np.asarray(decode_full(data).resize((64, 64), Image.Resampling.BILINEAR))
    difference = np.abs(reduced.pixels.astype(int) - full)
    assert 0 < difference.mean() < 0.4, "measured: 0.18 of 255; 0 would mean that nothing was decoded at reduced scale"
    assert difference.max() <= 8
    assert (reduced.width, reduced.height) == (1024, 768)


@pytest.mark.parametrize("size", [(1024, 768), (1021, 767), (333, 250)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_has_the_very_pixels_that_pillow_decodes(
    size: tuple[int, int], subsampling: int, mode: str, orientation: int
) -> None:
    """At full and at reduced scale, whatever library reads it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture("Pro", size=size).convert(mode), "JPEG", subsampling=subsampling, exif=exif)
    for at_least in (None, 128):
        image = Image.open(io.BytesIO(data))
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        pillow = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        found = imaging._load(data, at_least=at_least, min_side=1)
        assert np.array_equal(found.upright, pillow)
        assert (found.width, found.height) == (size[::-1] if orientation == 6 else size)


def test_linear_resampling_averages_where_pixels_would_be_skipped() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::4] = 255
    data = encode(Image.fromarray(stripes), "PNG")
    pixels = decode(data, ImageSpec(size=64, resampling="linear")).pixels
    assert pixels.mean() == pytest.approx(255 / 4, abs=1)
    assert pixels.std() < 2, "each pixel is made of eight by eight, a quarter of them white"
    slightly = decode(data, ImageSpec(size=300, resampling="linear")).pixels
    assert slightly.mean() == pytest.approx(255 / 4, abs=3)


def test_oversampling_decides_at_which_scale_a_jpeg_is_decoded() -> None:
    data = encode(picture("Pro", size=(1024, 768)), "JPEG")
    whole = decode(data, ImageSpec(size=300)).pixels
    full = np.asarray(decode_full(data).resize((300, 300), Image.Resampling.BILINEAR))
    assert np.array_equal(whole, full), "768 / 2 is less than twice 300"
    reduced = decode(data, ImageSpec(size=300, jpeg_oversampling=1.25)).pixels
    assert not np.array_equal(reduced, full)
    assert np.abs(reduced.astype(int) - full).mean() < 4, "the picture is noise, the worst there is"


# What is refused


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", RejectCode.EMPTY_FILE),
        (b"\0", RejectCode.NOT_AN_IMAGE),
        (b"patient 7, slide 3, see the other folder\n" * 50, RejectCode.NOT_AN_IMAGE),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", RejectCode.NOT_AN_IMAGE),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Type/Catalog>>\nendobj\n", RejectCode.NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n", RejectCode.NOT_AN_IMAGE),
        (encode(picture("Pre"), "GIF"), RejectCode.NOT_AN_IMAGE),
        (encode(picture("Pre"), "WEBP"), RejectCode.NOT_AN_IMAGE),
        (encode(picture("Pre"), "EPS"), RejectCode.NOT_AN_IMAGE),
        (encode(picture("Pre"), "JPEG2000"), RejectCode.NOT_AN_IMAGE),
        (b"\xff\xd8\xff\xe0" + b"not a picture" * 9, RejectCode.TRUNCATED),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), RejectCode.CORRUPT),
        (b"II*\0" + b"\xff" * 60, RejectCode.TRUNCATED),
        (b"BM" + bytes(60), RejectCode.CORRUPT),
    ],
    ids=[
        "no-bytes", "one-byte", "text", "html", "pdf", "eps-header", "gif", "webp", "eps", "jpeg2000",
        "jpeg-signature", "png-signature", "tiff-signature", "bmp-signature",
    ],
)  # fmt: skip
def test_what_is_no_capture_is_refused_by_its_bytes(data: bytes, code: RejectCode) -> None:
    assert code_of(data) is code
    with pytest.raises(CaptureRejected) as caught:
        decode_full(data)
    assert caught.value.code is code


@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63), (3000, 1)])
def test_a_side_shorter_than_the_bundles_smallest_is_too_small(size: tuple[int, int]) -> None:
    assert code_of(encode(Image.new("RGB", size), "PNG")) is RejectCode.TOO_SMALL


def test_the_smallest_side_itself_is_screened() -> None:
    assert code_of(encode(Image.new("RGB", (64, 64)), "PNG")) is None
    assert code_of(encode(Image.new("RGB", (40, 40)), "PNG"), ImageSpec(size=64, min_side=40)) is None


def huge(kind: str, side: int) -> bytes:
    """A small file whose header says `side` x `side`."""
    if kind == "PNG":
        return png(side, side, 8, 2, b"\0" * 1000)
    data = bytearray(encode(Image.new("RGB", (100, 100)), kind))
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    else:
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in data else -1
            at = at if at >= 0 else data.index(struct.pack("<HHI", tag, 3, 1))
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("side", [10_000, 30_000])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "TIFF"])
def test_a_header_that_claims_too_many_pixels_is_too_large(kind: str, side: int) -> None:
    assert code_of(huge(kind, side)) is RejectCode.TOO_LARGE


def test_more_bytes_than_a_capture_has_are_refused_before_decoding() -> None:
    assert code_of(bytes(MAX_BYTES + 1)) is RejectCode.TOO_LARGE


BOMB = """
import resource, sys
from contract.errors import CaptureRejected
from contract.imaging import ImageSpec, decode
data = open(sys.argv[1], "rb").read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 48 * 2**20, resource.RLIM_INFINITY))
try:
    decode(data, ImageSpec(size=64))
except CaptureRejected as error:
    print(error.code, error)
"""


def test_a_sound_picture_of_100_megapixels_is_refused_without_room_for_its_pixels(tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    file.write_bytes(png(10_000, 10_000, 1, 0, bytes(10_000 * 1251)))  # one bit each: 12 kB here, 100 MB decoded
    command = [sys.executable, "-c", BOMB, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("too_large 10000x10000 pixels"), done.stderr


# What is damaged


def sound(kind: str) -> bytes:
    options = {"progressive": {"progressive": True}, "lzw": {"compression": "tiff_lzw"}}.get(kind, {})
    name = {"progressive": "JPEG", "lzw": "TIFF"}.get(kind, kind)
    return encode(picture("Pro", size=(320, 240)), name, **options)


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "TIFF", "lzw", "BMP"])
def test_a_file_cut_at_any_tenth_is_rejected_and_never_painted_over(kind: str, tenth: int) -> None:
    data = sound(kind)
    assert code_of(data[: len(data) * tenth // 10]) in BROKEN


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_a_file_cut_in_the_middle_of_its_pixels_is_called_truncated(kind: str) -> None:
    data = sound(kind)
    assert code_of(data[: len(data) * 7 // 10]) is RejectCode.TRUNCATED


def test_a_jpeg_whose_second_half_was_never_written_is_rejected() -> None:
    data = sound("JPEG")
    half = len(data) // 2
    assert code_of(data[:half] + bytes(len(data) - half)) in BROKEN


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("position", range(1, 10))
def test_a_lost_sector_inside_a_jpeg_is_noticed(position: int, orientation: int) -> None:
    """512 zeros where data was: libjpeg paints over them and only warns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture("Pro", size=(640, 480)), "JPEG", exif=exif)
    start = len(data) * position // 10
    assert code_of(data[:start] + bytes(512) + data[start + 512 :]) is RejectCode.CORRUPT


def test_an_end_marker_behind_half_a_jpeg_is_noticed() -> None:
    data = sound("JPEG")
    assert code_of(data[: len(data) // 2] + b"\xff\xd9") is RejectCode.CORRUPT


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_is_cut_off_either_the_whole_picture_is_there_or_none(data: st.DataObject) -> None:
    whole = SOUND[data.draw(st.sampled_from(sorted(SOUND)))]
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        pixels = decode(whole[:cut], SPEC).pixels
    except CaptureRejected as error:
        assert error.code in BROKEN  # noqa: PT017
    else:
        assert np.array_equal(pixels, decode(whole, SPEC).pixels)


SOUND = {
    "JPEG": encode(picture("Pro"), "JPEG"),
    "progressive": encode(picture("Pro"), "JPEG", progressive=True),
    "turned": turned("JPEG", 6),
    "PNG": encode(picture("Pro"), "PNG"),
    "palette": encode(picture("Pro").quantize(16), "PNG", transparency=3),
    "TIFF": encode(picture("Pro"), "TIFF"),
    "lzw": encode(picture("Pro"), "TIFF", compression="tiff_lzw"),
    "deep": encode(Image.fromarray(np.asarray(picture("Pro").convert("L")).astype(np.uint16) * 16), "TIFF"),
    "BMP": encode(picture("Pro"), "BMP"),
}


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM"]),
    st.binary(max_size=400),
)
def test_random_bytes_are_rejected_and_nothing_else_happens(signature: bytes, rest: bytes) -> None:
    assert code_of(signature + rest) is not None


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(sorted(SOUND)), st.integers(0, 2**32), st.integers(1, 12))
def test_a_mutated_file_decodes_or_is_rejected_and_nothing_else_happens(kind: str, seed: int, edits: int) -> None:
    data, dice = bytearray(SOUND[kind]), random.Random(seed)
    for _ in range(edits):
        at = dice.randrange(min(len(data), dice.choice([64, 400, len(data)])))
        what = dice.choice(["set", "set", "set", "drop", "insert", "copy"])
        if what == "set":
            data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        elif what == "drop" and len(data) > 100:
            del data[at : at + dice.randrange(1, 40)]
        elif what == "insert":
            data[at:at] = dice.randbytes(dice.randrange(1, 9))
        else:
            data[at : at + 8] = data[dice.randrange(len(data)) :][:8]
    try:
        pixels = decode(bytes(data), SPEC).pixels
    except CaptureRejected:
        return
    assert pixels.shape == (64, 64, 3)


# Threads


def test_many_threads_decoding_good_and_bad_files_agree_with_one() -> None:
    files = [*SOUND.values(), *(data[: len(data) // 2] for data in SOUND.values()), b"", b"text", huge("PNG", 10_000)]
    files += [encode(picture("Pre", seed=seed), "JPEG") for seed in range(10)]

    def result(data: bytes) -> bytes | tuple[RejectCode, str]:
        try:
            return decode(data, SPEC).pixels.tobytes()
        except CaptureRejected as error:
            return error.code, str(error)

    serial = [result(data) for data in files]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(result, files * 15)) == serial * 15


FIRST_USE = """
import sys, threading
sys.setswitchinterval(1e-6)
from PIL import Image
from contract.imaging import FORMATS, ImageSpec, decode
assert set(FORMATS) <= set(Image.OPEN), "a format that the first thread would have to register"
files = [open(name, "rb").read() for name in sys.argv[1:]]
start, failed = threading.Barrier(len(files)), []
def work(data):
    start.wait()
    try:
        decode(data, ImageSpec(size=64))
    except Exception as error:
        failed.append(repr(error))
threads = [threading.Thread(target=work, args=(data,)) for data in files]
[one.start() for one in threads]; [one.join() for one in threads]
print(failed)
"""


def test_the_very_first_captures_may_be_decoded_by_many_threads_at_once(tmp_path: Path) -> None:
    names = []
    for number, kind in enumerate(["TIFF", "BMP", "PNG", "JPEG"] * 6):
        names.append(str(tmp_path / f"{number}.{kind}"))
        Path(names[-1]).write_bytes(encode(picture("Pro", seed=number), kind))
    command = [sys.executable, "-c", FIRST_USE, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
