"""JPEG: what no pixel depends on cannot reject a capture, and no harmless irregularity lets damage pass beside it."""

import io
import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from contract import jpeg
from contract.errors import CaptureRejected
from contract.imaging import ImageSpec, decode, decode_full
from contract.states import RejectCode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on nonsense in metadata

BROKEN = {RejectCode.TRUNCATED, RejectCode.CORRUPT}
WIDTH, HEIGHT = 160, 120


def field() -> Image.Image:
    """A bright field with three stained discs: flat parts, edges and noise, as in a capture."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.full((HEIGHT, WIDTH, 3), (232, 215, 220), float)
    for centre_x, centre_y, colour in ((40, 40, (90, 60, 150)), (110, 50, (150, 90, 170)), (80, 95, (200, 140, 160))):
        inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 < 22**2
        pixels[inside] = colour + rng.normal(0, 12, (inside.sum(), 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SOUND = {
    "baseline": encoded(field()),
    "4:4:4": encoded(field(), subsampling=0),
    "optimised": encoded(field(), optimize=True),
    "progressive": encoded(field(), progressive=True),
    "restarts": encoded(field(), restart_marker_blocks=5),
    "grey": encoded(field().convert("L")),
    "CMYK": encoded(field().convert("CMYK")),
    "turned": encoded(field(), exif=turned()),
}


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_full(data))


def pixels_or_none(data: bytes) -> NDArray[np.uint8] | None:
    try:
        return pixels_of(data)
    except CaptureRejected as error:
        assert error.code in BROKEN, error  # noqa: PT017
        return None


def before(marker: int, what: bytes) -> Callable[[bytes], bytes]:
    """Puts bytes before the first marker of a kind."""

    def change(data: bytes) -> bytes:
        at = data.index(bytes([0xFF, marker]), 2)
        return data[:at] + what + data[at:]

    return change


def version(major: int, minor: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = data.find(b"JFIF\0")
        return data if at < 0 else data[: at + 5] + bytes([major, minor]) + data[at + 7 :]

    return change


def scan_parameters(*values: int) -> Callable[[bytes], bytes]:
    """Sets the start and end of the spectrum and the bit positions of a sequential scan, which no decoder uses."""

    def change(data: bytes) -> bytes:
        if b"\xff\xc2" in data:
            return data
        start = data.index(b"\xff\xda")
        end = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        return data[: end - 3] + bytes(values) + data[end:]

    return change


def segment(marker: int, body: bytes) -> Callable[[bytes], bytes]:
    """Puts a segment behind SOI."""
    return lambda data: data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


TABLES, SCAN, END = 0xDB, 0xDA, 0xD9
IRREGULAR: dict[str, Callable[[bytes], bytes]] = {
    "JFIF 0.00": version(0, 0),
    "JFIF 0.02": version(0, 2),
    "JFIF 2.01": version(2, 1),
    "JFIF 255.255": version(255, 255),
    "SOS 0 0 0": scan_parameters(0, 0, 0),
    "SOS 0 64 0": scan_parameters(0, 64, 0),
    "SOS 1 63 1": scan_parameters(1, 63, 1),
    "SOS 255 255 255": scan_parameters(255, 255, 255),
    "zeros before DQT": before(TABLES, bytes(4)),
    "text before DQT": before(TABLES, b"camera 7\r\n"),
    "0xFF before DQT": before(TABLES, b"\xff" * 9),
    "zeros before SOS": before(SCAN, bytes(16)),
    "0xFF before SOS": before(SCAN, b"\xff" * 300),
    "zeros and 0xFF before SOS": before(SCAN, b"\0\0\xff\xff"),
    "text before the only SOS": lambda data: data if data.count(b"\xff\xda") > 1 else before(SCAN, b"lamp\r\n")(data),
    "0xFF00 before DQT": before(TABLES, b"\xff\0\xff\0"),
    "doubled SOI": lambda data: data[:2] + data,
    "trebled SOI": lambda data: data[:2] * 2 + data,
    "SOI, zeros, SOI": lambda data: data[:2] + b"\xff\xd8\0\0" + data[2:],
    "SOI and 0xFF": lambda data: data[:2] + b"\xff" * 8 + data[2:],
    **{f"{count} zeros before EOI": before(END, bytes(count)) for count in (1, 2, 5, 16, 512, 4096)},
    "0xFF before EOI": before(END, b"\xff" * 64),
    "zeros and 0xFF before EOI": before(END, bytes(20) + b"\xff" * 20),
    "0xFF and zeros before EOI": before(END, b"\xff" * 20 + bytes(20)),
    "zeros behind EOI": lambda data: data + bytes(512),
    "text behind EOI": lambda data: data + b"<html>\xff\xd8\xff",
    "an ICC profile with a part missing": segment(0xE2, b"ICC_PROFILE\0\x02\x07" + bytes(100)),
    "an ICC profile cut off": segment(0xE2, b"ICC_PROFILE\0"),
    "nonsense in APP1": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<nonsense"),
    "nonsense in APP13": segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff"),
    "nonsense in MPF": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "a cut APP14": segment(0xEE, b"Adobe"),
    "several of these": lambda data: before(END, bytes(33))(version(2, 1)(before(SCAN, bytes(3))(data[:2] + data))),
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("irregularity", IRREGULAR)
def test_what_no_pixel_depends_on_rejects_no_capture(irregularity: str, kind: str) -> None:
    data = IRREGULAR[irregularity](SOUND[kind])
    assert np.array_equal(pixels_of(data), pixels_of(SOUND[kind]))
    spec = ImageSpec(size=32)  # at reduced scale
    assert np.array_equal(decode(data, spec).pixels, decode(SOUND[kind], spec).pixels)


@pytest.mark.parametrize("kind", SOUND)
def test_an_image_that_lacks_only_its_end_marker_is_whole(kind: str) -> None:
    for data in (SOUND[kind][:-2], SOUND[kind][:-1], SOUND[kind][:-2] + bytes(100), SOUND[kind][:-2] + b"\xff" * 9):
        assert np.array_equal(pixels_of(data), pixels_of(SOUND[kind]))


def test_a_progressive_jpeg_that_lacks_scans_is_not_mended() -> None:
    """It is sound as far as it goes, and what is missing are details."""
    data = SOUND["progressive"]
    for scan in range(1, data.count(b"\xff\xda")):
        at = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"][scan]
        tables = data.rfind(b"\xff\xc4", 0, at)
        cut = data[: tables if b"\xff\xda" not in data[tables:at] else at]
        for tail in (b"", bytes(2000), bytes(2000) + b"\xff\xd9"):
            assert pixels_or_none(cut + tail) is None


@pytest.mark.parametrize("space", ["sRGB", "LAB", "XYZ"])
def test_a_colour_profile_changes_no_pixel(space: str) -> None:
    """A bundle was trained on the numbers of the pixels, whatever a profile says of them: docs/data.md."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()  # type: ignore[arg-type]
    assert np.array_equal(pixels_of(encoded(field(), icc_profile=profile)), pixels_of(SOUND["baseline"]))


def test_the_pixels_are_those_that_pillow_decodes() -> None:
    for kind, data in SOUND.items():
        pillow = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        assert np.array_equal(pixels_of(data), pillow), kind
    for scale in (128, 64):
        image = Image.open(io.BytesIO(SOUND["CMYK"]))
        image.draft("CMYK", (scale, scale))
        assert np.array_equal(jpeg.decode(SOUND["CMYK"], image.size, "CMYK"), 255 - np.asarray(image))


# What is damaged


def scan_of(data: bytes) -> tuple[int, int]:
    """Where the first scan begins, and where the last ends."""
    start = data.index(b"\xff\xda")
    return start + 2 + struct.unpack_from(">H", data, start + 2)[0], data.rindex(b"\xff\xd9")


def strictly(data: bytes) -> NDArray[np.uint8] | None:
    """What libjpeg decodes without a word of warning."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
    except ValueError:
        return None


def damaged(data: bytes, dice: random.Random) -> bytes:
    start, end = scan_of(data)
    at, result = dice.randrange(start, end), bytearray(data)
    size = min(dice.choice([1, 2, 4, 16, 64, 512]), end - at)
    match dice.randrange(9):
        case 0:
            result[at] ^= 1 << dice.randrange(8)
        case 1:
            result[at] = dice.randrange(256)
        case 2:
            result[at : at + size] = bytes(size)
        case 3:
            result[at : at + size] = b"\xff" * size
        case 4:
            del result[at : at + size]
        case 5:
            result[at:at] = result[at : at + size]
        case 6:
            result[at:end] = bytes(end - at)
        case 7:
            result[at:end] = b""
        case 8:
            at = max(start, end - dice.randrange(1, 40))
            result[at:end] = bytes(end - at)
    return bytes(result)


@pytest.mark.parametrize("kind", [kind for kind in SOUND if kind not in ("CMYK", "turned")])
def test_no_irregularity_lets_damage_pass(kind: str) -> None:
    """A damaged scan that libjpeg warns of is refused, whatever harmless irregularity the file has besides.

    Damage that libjpeg itself does not notice is not meant: those files decode without the irregularity too.
    """
    dice, sound = random.Random(kind), pixels_of(SOUND[kind])
    refused = 0
    for _ in range(400):
        harmed = damaged(SOUND[kind], dice)
        name = dice.choice(sorted(IRREGULAR))
        data = IRREGULAR[name](harmed) if b"\xff\xd9" in harmed[-4:] and b"\xff\xda" in harmed else harmed
        found = pixels_or_none(data)
        if found is None:
            refused += 1
        elif not (found.shape == sound.shape and np.array_equal(found, sound)):
            allowed = [one for one in (strictly(harmed), strictly(data)) if one is not None]
            assert any(np.array_equal(found, one) for one in allowed), name
    assert refused > 200, "most of the damage is the kind that libjpeg notices"


@pytest.mark.parametrize("position", range(1, 10))
@pytest.mark.parametrize("kind", SOUND)
def test_zeros_from_a_place_in_the_scan_on_are_damage_not_padding(kind: str, position: int) -> None:
    start, end = scan_of(SOUND[kind])
    at = start + (end - start) * position // 10
    for tail in (b"\xff\xd9", b"", bytes(100) + b"\xff\xd9"):
        assert pixels_or_none(SOUND[kind][:at] + bytes(end - at) + tail) is None


@pytest.mark.parametrize("position", range(1, 10))
def test_a_lost_sector_inside_a_cmyk_jpeg_is_noticed(position: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 4)).astype(np.uint8)
    data = encoded(Image.fromarray(noise, "CMYK"))
    start, end = scan_of(data)
    at = start + (end - start) * position // 10
    assert pixels_or_none(data[:at] + bytes(128) + data[at + 128 :]) is None


@pytest.mark.parametrize("change", ["swapped", "lost", "doubled", "renumbered"])
def test_wrong_restart_markers_are_damage(change: str) -> None:
    data = bytearray(SOUND["restarts"])
    places = [at for at in range(*scan_of(bytes(data))) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    first, second = places[3:5]
    if change == "swapped":
        data[first + 1], data[second + 1] = data[second + 1], data[first + 1]
    elif change == "lost":
        del data[first : first + 2]
    elif change == "doubled":
        data[first:first] = data[first : first + 2]
    else:
        data[first + 1] ^= 4
    for name in ("JFIF 2.01", "16 zeros before EOI"):
        assert pixels_or_none(IRREGULAR[name](bytes(data))) is None


def test_bytes_behind_huffman_tables_may_be_tables() -> None:
    """Their segment's length may be damaged; libjpeg would take standard tables in the place of the lost ones."""
    data = bytearray(SOUND["optimised"])
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xc4"]
    text = bytes(data[: starts[1]]) + b"text" + bytes(data[starts[1] :])
    assert np.array_equal(pixels_of(text), pixels_of(SOUND["optimised"])), "all tables are there"
    joined = bytearray(data[: starts[0]])
    tables = b"".join(bytes(data[at + 4 : at + 2 + struct.unpack_from(">H", data, at + 2)[0]]) for at in starts)
    end = starts[-1] + 2 + struct.unpack_from(">H", data, starts[-1] + 2)[0]
    for length in (len(tables), 17 + sum(tables[1:17])):  # all tables, and the first alone
        whole = joined + struct.pack(">BBH", 0xFF, 0xC4, length + 2) + tables + data[end:]
        assert (pixels_or_none(bytes(whole)) is not None) == (length == len(tables))


# What is sound, but of another kind


def frame(marker: int, bits: int = 8, channels: int = 3, height: int = 100) -> bytes:
    """A JPEG as far as its frame."""
    body = struct.pack(">BHHB", bits, height, 100, channels) + b"".join(
        bytes([c + 1, 0x11, 0]) for c in range(channels)
    )
    return SOUND["baseline"][:20] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + SOUND["baseline"][20:]


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (frame(0xC1, 12), RejectCode.UNSUPPORTED_DEPTH, "12 bits per channel"),
        (frame(0xC0, 12, 1), RejectCode.UNSUPPORTED_DEPTH, "12 bits per channel"),
        (frame(0xC2, 12), RejectCode.UNSUPPORTED_DEPTH, "12 bits per channel"),
        (frame(0xC3), RejectCode.UNSUPPORTED_KIND, "lossless"),
        (frame(0xC3, 16, 1), RejectCode.UNSUPPORTED_KIND, "lossless"),
        (frame(0xC9), RejectCode.UNSUPPORTED_KIND, "arithmetic coding"),
        (frame(0xCA), RejectCode.UNSUPPORTED_KIND, "arithmetic coding"),
        (frame(0xC5), RejectCode.UNSUPPORTED_KIND, "hierarchical coding"),
        (frame(0xF7), RejectCode.UNSUPPORTED_KIND, "JPEG-LS"),
        (frame(0xC0, height=0), RejectCode.UNSUPPORTED_KIND, "height behind the scan"),
        (frame(0xC0, 8, 2), RejectCode.UNSUPPORTED_KIND, "2 channels"),
    ],
)
def test_a_kind_that_is_not_read_is_refused_by_name_with_the_way_out(data: bytes, code: RejectCode, words: str) -> None:
    with pytest.raises(CaptureRejected, match="export it as") as caught:
        decode(data, ImageSpec(size=64))
    assert caught.value.code is code
    assert words in str(caught.value)


def test_an_unusual_sampling_of_colours_is_named() -> None:
    data = bytearray(SOUND["4:4:4"])
    data[data.index(b"\xff\xc0") + 11] = 0x31
    with pytest.raises(CaptureRejected, match="unusual chroma subsampling") as caught:
        decode_full(bytes(data))
    assert caught.value.code is RejectCode.UNSUPPORTED_KIND


def test_a_file_of_nothing_but_markers_takes_no_time() -> None:
    data = b"\xff\xd8" + b"\xff\x01" * 200_000 + SOUND["baseline"][2:]
    with pytest.raises(CaptureRejected, match="header is damaged"):
        jpeg.channels_of(data)
