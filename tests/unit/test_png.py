"""PNG and BMP: damaged pixels are never screened, metadata never reject a capture, and an alpha of 0 is no alpha."""

import random
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from contract.errors import CaptureRejected
from contract.imaging import decode_full
from contract.states import RejectCode
from tests.support.archives import encode, picture

HEIGHT, WIDTH = 60, 80
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def colours(seed: int = 0) -> NDArray[np.uint8]:
    return np.asarray(picture("Pre", seed=seed, size=(WIDTH, HEIGHT)))


def chunk(name: bytes, body: bytes, *, wrong: bool = False) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ wrong)


def png(
    samples: NDArray[np.generic], colour_type: int, *, behind_header: bytes = b"", behind_data: bytes = b""
) -> bytes:
    """A PNG of [height, width, channels] or [height, width], 8 or 16 bits, with chunks before and behind the data."""
    height, width = samples.shape[:2]
    depth = 8 * samples.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(rows)
    parts = [data[: len(data) // 2], data[len(data) // 2 :]]
    chunks = [chunk(b"IHDR", header), behind_header, *(chunk(b"IDAT", part) for part in parts), behind_data]
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_full(data))


def code_of(data: bytes) -> RejectCode | None:
    try:
        decode_full(data)
    except CaptureRejected as error:
        return error.code
    return None


# Metadata

LONG = bytes(3 * 2**20)
METADATA: dict[str, bytes] = {
    "an ICC profile of 3 MB": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LONG)),
    "an ICC profile that is no zlib": chunk(b"iCCP", b"profile\0\0" + b"nonsense"),
    "an ICC profile of another compression": chunk(b"iCCP", b"profile\0\x07" + b"nonsense"),
    "an empty ICC profile": chunk(b"iCCP", b""),
    "compressed XMP of 3 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(LONG)),
    "plain XMP of 3 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG),
    "zTXt of 3 MB": chunk(b"zTXt", b"comment\0\0" + zlib.compress(LONG)),
    "zTXt that is no zlib": chunk(b"zTXt", b"comment\0\0nonsense"),
    "tEXt of 70 MB": chunk(b"tEXt", b"comment\0" + b"a" * 70 * 2**20),
    "a malformed iTXt": chunk(b"iTXt", b"\0"),
    "an empty gAMA": chunk(b"gAMA", b""),
    "a cut cHRM": chunk(b"cHRM", b"\0\0"),
    "a cut pHYs": chunk(b"pHYs", b"\0"),
    "an eXIf of nonsense": chunk(b"eXIf", b"nonsense"),
    "an unknown chunk": chunk(b"caMe", b"\0" * 9),
    **{
        f"{name.decode()} with a wrong checksum": chunk(name, body, wrong=True)
        for name, body in {
            b"tEXt": b"comment\0text", b"zTXt": b"comment\0\0" + zlib.compress(b"text"), b"iTXt": b"a\0\0\0\0\0b",
            b"iCCP": b"profile\0\0" + zlib.compress(b"profile"), b"gAMA": struct.pack(">I", 45455), b"pHYs": bytes(9),
            b"sRGB": b"\0", b"cHRM": bytes(32), b"eXIf": b"II*\0\x08\0\0\0\0\0", b"tIME": bytes(7), b"caMe": b"x",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("place", ["behind_header", "behind_data"])
@pytest.mark.parametrize("metadata", METADATA)
def test_metadata_reject_no_capture(metadata: str, place: str) -> None:
    data = png(colours(), 2, **{place: METADATA[metadata]})
    assert np.array_equal(pixels_of(data), colours())


def test_the_orientation_is_kept_where_other_metadata_are_left_out() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    block = chunk(b"eXIf", exif.tobytes()[6:])
    data = png(colours(), 2, behind_header=block + METADATA["tEXt with a wrong checksum"])
    assert np.array_equal(pixels_of(data), np.rot90(colours(), -1))


def test_transparency_is_kept_where_metadata_are_left_out() -> None:
    key = chunk(b"tRNS", struct.pack(">HHH", *(int(value) for value in colours()[5, 5])))
    right = colours().copy()
    right[(right == right[5, 5]).all(2)] = 255
    data = png(colours(), 2, behind_header=key + METADATA["tEXt with a wrong checksum"])
    assert np.array_equal(pixels_of(data), right)


def test_several_images_stay_several_where_metadata_are_left_out() -> None:
    data = encode(picture("Pre"), "PNG", save_all=True, append_images=[picture("Pro")])
    assert code_of(data[:33] + METADATA["tEXt with a wrong checksum"] + data[33:]) is RejectCode.MULTI_PAGE


# Damage


@pytest.mark.parametrize("kind", ["RGB", "L", "P", "RGBA"])
def test_a_flipped_bit_in_the_pixels_is_noticed(kind: str) -> None:
    """Pillow checks no checksum of IDAT: it decodes damage into noise, and says nothing."""
    image = picture("Pro", size=(WIDTH, HEIGHT))
    data = encode(image.quantize(16) if kind == "P" else image.convert(kind), "PNG")
    start, dice = data.index(b"IDAT") + 4, random.Random(kind)
    for _ in range(60):
        harmed = bytearray(data)
        harmed[dice.randrange(start, len(data) - 12)] ^= 1 << dice.randrange(8)
        assert code_of(bytes(harmed)) is RejectCode.CORRUPT


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT", b"tRNS"])
@pytest.mark.parametrize("place", ["body", "checksum"])
def test_every_chunk_that_the_pixels_need_is_checked(name: bytes, place: str) -> None:
    data = bytearray(encode(picture("Pro", size=(WIDTH, HEIGHT)).quantize(16), "PNG", transparency=3))
    at = data.index(name)
    length = struct.unpack_from(">I", data, at - 4)[0]
    data[at + 4 + (length - 1 if place == "body" else length)] ^= 1
    assert code_of(bytes(data)) in (RejectCode.CORRUPT, RejectCode.TRUNCATED)


# Alpha


def without_alpha(data: bytes, right: NDArray[np.uint8]) -> bool:
    return np.array_equal(pixels_of(data), right)


@pytest.mark.parametrize("alpha", [0, 1, 127, 254])
def test_alpha_without_one_opaque_pixel_is_no_alpha(alpha: int) -> None:
    for bits in (8, 16):
        scale = np.array(1 if bits == 8 else 257, "u1" if bits == 8 else "u2")
        plane = np.full((HEIGHT, WIDTH, 1), alpha, scale.dtype) * scale
        rgba = np.concatenate([colours() * scale, plane], 2)
        assert without_alpha(png(rgba, 6), colours()), f"RGBA, {bits} bits"
        grey = colours()[..., 2:]
        assert without_alpha(png(np.concatenate([grey * scale, plane], 2), 4), grey.repeat(3, 2)), f"grey, {bits} bits"


def test_a_palette_without_one_opaque_colour_is_not_transparent() -> None:
    image = picture("Pro", size=(WIDTH, HEIGHT)).quantize(16)
    data = encode(image, "PNG", transparency=bytes(16))
    assert without_alpha(data, np.asarray(image.convert("RGB")))


def test_an_image_of_nothing_but_its_transparent_colour_keeps_it() -> None:
    flat = np.full((HEIGHT, WIDTH, 3), (9, 8, 7), np.uint8)
    assert without_alpha(png(flat, 2, behind_header=chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7))), flat)


def test_one_opaque_pixel_makes_it_alpha() -> None:
    rgba = np.dstack([colours(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    rgba[0, 0, 3] = 255
    right = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    right[0, 0] = rgba[0, 0, :3]
    assert without_alpha(png(rgba, 6), right)


def bitmap(rgba: NDArray[np.uint8], header: int) -> bytes:
    """A 32-bit BMP with a header of 40 bytes (no alpha by definition), 56, 108 or 124 bytes (masks that name alpha)."""
    height, width = rgba.shape[:2]
    rows = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) if header > 40 else b""
    rest = bytes(header - 40 - len(masks))
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, 3 if header > 40 else 0, len(rows), 0, 0, 0, 0)
    start = 14 + header
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + info + masks + rest + rows


@pytest.mark.parametrize("header", [40, 56, 108, 124])
def test_the_alpha_of_a_bitmap_that_is_0_everywhere_is_no_alpha(header: int) -> None:
    rgba = np.dstack([colours(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert without_alpha(bitmap(rgba, header), colours())
    rgba[: HEIGHT // 2, :, 3] = 255
    right = colours().copy()
    right[HEIGHT // 2 :] = 255
    assert without_alpha(bitmap(rgba, header), colours() if header == 40 else right)


# 16 bits


@pytest.mark.parametrize("opaque", [0, 4095, 65535])
@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_12_bits_in_16_are_never_screened_almost_black(colour_type: int, opaque: int) -> None:
    channels = {0: 1, 2: 3, 4: 1, 6: 3}[colour_type]
    samples = colours()[..., :channels].astype(np.uint16) * 16
    if colour_type in (4, 6):
        samples = np.dstack([samples, np.full((HEIGHT, WIDTH, 1), opaque, np.uint16)])
    data = png(samples[..., 0] if colour_type == 0 else samples, colour_type)
    if colour_type == 0:
        assert np.abs(pixels_of(data)[..., 0].astype(int) - colours()[..., 0]).max() <= 1
    else:
        assert code_of(data) is RejectCode.UNSUPPORTED_DEPTH


def test_a_transparent_colour_of_16_bits_is_that_colour() -> None:
    samples = colours().astype(np.uint16) * 256 + 7
    key = chunk(b"tRNS", struct.pack(">HHH", *(int(value) for value in samples[5, 5])))
    right = colours().copy()
    right[(right == right[5, 5]).all(2)] = 255
    assert np.array_equal(pixels_of(png(samples, 2, behind_header=key)), right)


@pytest.mark.parametrize("compression", [4, 5, 11])
def test_a_bitmap_of_a_kind_that_is_not_read_is_not_called_damaged(compression: int) -> None:
    """JPEG or PNG inside a bitmap, and CMYK."""
    data = bytearray(bitmap(np.dstack([colours(), colours()[..., :1]]), 40))
    struct.pack_into("<I", data, 30, compression)
    assert code_of(bytes(data)) is RejectCode.UNSUPPORTED_KIND
