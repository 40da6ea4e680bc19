"""Every layout of TIFF that is read gives the right pixels, proved one by one; every other is refused by its name."""

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from contract import tiff as reader
from contract.errors import CaptureRejected
from contract.imaging import decode_full
from contract.states import RejectCode
from contract.tiff_pages import full_page
from tests.support.tiffs import JPEG, LZW, NONE, ZSTANDARD, Samples, Stored, tiff

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on nonsense in metadata

HEIGHT, WIDTH = 50, 70
BLOCKS = {"one strip": None, "strips": (7, WIDTH), "tiles": (16, 32), "one tile": (64, 80)}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
Layout = tuple[int, int, int, tuple[int, ...]]
"""Photometric interpretation, sample format, bits and extra samples."""
LAYOUTS: list[Layout] = sorted((*key, extra) for key, extras in reader.READ.items() for extra in extras)


def samples(channels: int, bits: int, sample_format: int = UNSIGNED) -> Samples:
    """Every channel another slope with noise, from the smallest to the largest number that 16 bits or fewer hold."""
    rng = np.random.default_rng(bits * 10 + channels)
    top = 2 ** min(bits, 16) - 1
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    slopes = [
        x / WIDTH,
        y / HEIGHT,
        (x + y) / (HEIGHT + WIDTH),
        1 - x / WIDTH,
        1 - y / HEIGHT,
        (x * y) / HEIGHT / WIDTH,
        x * 0 + 0.5,
    ]
    values = np.stack(slopes[:channels], -1) * top + rng.integers(
        -top // 16 - 1, top // 16 + 2, (HEIGHT, WIDTH, channels)
    )
    values[0, 0], values[0, 1] = 0, top
    kinds = {(SIGNED, 32): "i4", (FLOAT, 32): "f4", (UNSIGNED, 32): "u4", (UNSIGNED, 16): "u2"}
    return np.clip(values, 0, top).round().astype(kinds.get((sample_format, bits), "u1"))


COLOUR_MAP = np.random.default_rng(5).integers(0, 256, (3, 256))


def entries_of(photometric: int, bits: int) -> dict[int, Any]:
    if photometric == PALETTE:
        return {320: ("H", (COLOUR_MAP[:, : 2**bits] * 257).ravel().tolist())}
    return {530: ("H", (1, 1))} if photometric == YCBCR else {}


def expected(stored: Samples, photometric: int, bits: int, extra: tuple[int, ...]) -> NDArray[Any]:
    """What becomes of the samples: 8-bit RGB by the formulas of the documentation, written without the reader."""
    grey, deep = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO), bits >= 16
    values = stored.astype(float)
    if photometric == PALETTE:
        colours, alpha = COLOUR_MAP.T[stored[..., 0]], values[..., 1:] / 255
        return colours * alpha + 255 * (1 - alpha) if extra == (2,) else colours
    if grey:
        values *= 255 / (2 ** min(bits, 16) - 1)
    elif deep:
        values = values // 256
    if photometric == WHITE_IS_ZERO:
        values = 255 - values
    if photometric == LAB:
        image = Image.frombytes("LAB", (WIDTH, HEIGHT), stored.tobytes())  # a and b as signed bytes, as in a file
        return np.asarray(image.convert("RGB")).astype(float)
    if photometric == YCBCR:
        return np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB")).astype(float)
    colours = values[..., :1].repeat(3, -1) if grey else values[..., :3]
    if photometric == CMYK:
        return (255 - values[..., :3]) * (255 - values[..., 3:4]) / 255
    place = next((at for at, kind in enumerate(extra) if kind in (1, 2, 999, -1)), None)
    if place is None:
        return colours
    alpha = values[..., [(1 if grey else 3) + place]]
    return colours + 255 - alpha if extra[place] == 1 else colours * alpha / 255 + 255 - alpha


def premultiplied(stored: Samples, extra: tuple[int, ...], channels: int) -> Samples:
    """Colours are at most as large as the alpha that they are multiplied with."""
    if 1 in extra:
        stored = stored.copy()
        stored[..., :channels] = np.minimum(stored[..., :channels], stored[..., channels + extra.index(1), None])
    return stored


def variants(bits: int, sample_format: int) -> Iterator[tuple[int, str, str, int, bool]]:
    """Compression, blocks, byte order, predictor and BigTIFF: all pairs that a decoder may treat in its own way."""
    for compression, blocks, order in itertools.product(reader.LOSSLESS, BLOCKS, "<>"):
        if compression not in (NONE, LZW) and (blocks, order) not in {("strips", "<"), ("tiles", ">")}:
            continue
        if bits == 32 and order == ">" and (compression != NONE or sample_format == UNSIGNED):
            continue
        yield compression, blocks, order, 1, False
        if compression == LZW:
            yield compression, blocks, order, 1, True
            if bits in (8, 16, 32) and sample_format != FLOAT:
                yield compression, blocks, order, 2, False


def name(layout: tuple[Any, ...]) -> str:
    photometric, sample_format, bits, extra = layout[:4]
    return f"{reader.COLOURS[photometric]}-{bits}-{sample_format}-{'+'.join(map(str, extra))}"


def written(layout: Layout, is_planar: bool) -> Iterator[tuple[str, bytes, Samples]]:
    """A file of each variant of a layout, its name, and the samples that it holds."""
    photometric, sample_format, bits, extra = layout
    channels = reader.CHANNELS[photometric]
    stored = premultiplied(samples(channels + len(extra), bits, sample_format), extra, channels)
    named = () if extra == reader.UNNAMED else extra
    for compression, blocks, order, predictor, big in variants(bits, sample_format):
        page = Stored(
            stored, photometric, bits, sample_format, named, compression, predictor, is_planar, BLOCKS[blocks],
            entries_of(photometric, bits),
        )  # fmt: skip
        title = f"{reader.COMPRESSIONS[compression]}, {blocks}, {order}, predictor {predictor}, {'big' * big}"
        yield title, tiff(page, order=order, big=big), stored


def pixels_of(data: bytes) -> NDArray[Any]:
    return np.asarray(decode_full(data)).astype(float)


def code_of(data: bytes) -> tuple[RejectCode | None, str]:
    try:
        decode_full(data)
    except CaptureRejected as error:
        return error.code, str(error)
    return None, ""


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_every_layout_that_is_read_has_the_right_pixels(layout: Layout) -> None:
    photometric, _, bits, extra = layout
    for title, data, stored in written(layout, is_planar=False):
        difference = np.abs(pixels_of(data) - expected(stored, photometric, bits, extra)).max()
        assert difference <= 1, title


MORE = {
    BLACK_IS_ZERO: [(0,), (0, 0), (1,), (2,), (0, 2)],
    RGB: [(), reader.UNNAMED, (0,), (1,), (2,), (0, 2), (2, 0, 0, 0)],
    CMYK: [(), (0,), (2,)],
}
PLANAR = [
    (photometric, UNSIGNED, bits, extra)
    for photometric, bits in sorted(reader.PLANES)
    for extra in MORE[photometric]
    if (photometric, bits) != (BLACK_IS_ZERO, 16) or set(extra) == {0}
]


@pytest.mark.parametrize("layout", PLANAR, ids=name)
def test_planes_are_put_together_right(layout: Layout) -> None:
    photometric, _, bits, extra = layout
    for title, data, stored in written(layout, is_planar=True):
        right = expected(stored, photometric, bits, () if photometric == CMYK else extra)
        assert np.abs(pixels_of(data) - right).max() <= 1, title


@pytest.mark.parametrize("layout", [*LAYOUTS, *[(*layout, "planar") for layout in PLANAR]], ids=name)
def test_tifffile_reads_the_samples_that_the_tests_mean(layout: tuple[Any, ...]) -> None:
    """The files above are what they claim to be: a library that shares no code with the reader says so."""
    is_planar = layout[4:] == ("planar",)
    for title, data, stored in written(layout[:4], is_planar):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            if page.compression in (LZW, ZSTANDARD) or page.bitspersample in (2, 4):  # it needs another 80 MB for these
                continue
            found = page.asarray().reshape(stored.shape[-1:] + stored.shape[:2] if is_planar else stored.shape)
        assert np.array_equal(found.transpose(1, 2, 0) if is_planar else found, stored), title


@pytest.mark.parametrize("photometric", [RGB, YCBCR, WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("blocks", ["one strip", "strips", "tiles"])
def test_jpeg_inside_a_tiff_has_the_pixels_of_its_jpegs(photometric: int, blocks: str) -> None:
    stored = samples(reader.CHANNELS[photometric], 8)
    page = Stored(stored, photometric, 8, compression=JPEG, block=BLOCKS[blocks] and (16, BLOCKS[blocks][1]))
    data = tiff(page)
    rows, columns = page.block or (HEIGHT, WIDTH)
    right = np.zeros((HEIGHT + 32, WIDTH + 64, 3))
    corners = list(itertools.product(range(0, HEIGHT, rows), range(0, WIDTH, columns)))
    page_of_file = full_page(data)
    blocks_of_file = reader.blocks_of(page_of_file, reader.layout_of(page_of_file))
    for (top, left), block in zip(corners, blocks_of_file, strict=True):
        decoded = np.asarray(Image.open(io.BytesIO(data[block])).convert("RGB"))
        right[top : top + decoded.shape[0], left : left + decoded.shape[1]] = decoded
    right = right[:HEIGHT, :WIDTH]
    assert np.array_equal(pixels_of(data), 255 - right if photometric == WHITE_IS_ZERO else right)


@pytest.mark.parametrize("blocks", ["one strip", "strips"])
def test_damage_in_a_jpeg_inside_a_tiff_is_noticed(blocks: str) -> None:
    """libtiff paints over it and says nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    data = tiff(Stored(noise, YCBCR, 8, compression=JPEG, block=(16, 128) if blocks == "strips" else None))
    start, end = 8, len(data) - 300
    assert code_of(data)[0] is None
    for at in range(start + 700, end - 200, 211):
        assert code_of(data[:at] + bytes(128) + data[at + 128 :])[0] in (RejectCode.CORRUPT, RejectCode.TRUNCATED), at


@pytest.mark.parametrize("compression", reader.LOSSLESS)
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("is_planar", [False, True])
def test_a_file_that_ends_within_its_last_block_is_truncated(compression: int, blocks: str, is_planar: bool) -> None:
    stored = samples(3, 8)
    data = tiff(
        Stored(stored, RGB, 8, compression=compression, is_planar=is_planar, block=BLOCKS[blocks], pixels_last=True)
    )
    assert np.array_equal(pixels_of(data), stored)
    for lost in (1, 2, 40):
        assert code_of(data[:-lost])[0] is RejectCode.TRUNCATED


@pytest.mark.parametrize("entries", [{273: 1}, {278: 8}, {257: 2 * HEIGHT}, {278: 0}])
def test_strips_that_the_directory_does_not_list_are_not_left_black(entries: dict[int, int]) -> None:
    more = {tag: ("I", [value]) for tag, value in entries.items()}
    assert code_of(tiff(Stored(samples(3, 8), RGB, 8, block=(7, WIDTH), more=more)))[0] is RejectCode.CORRUPT


# What is refused, with its name


def page(photometric: int = RGB, bits: int = 8, channels: int = 3, **more: Any) -> Stored:
    kind = {8: "u1", 16: "u2", 32: "u4", 64: "u8"}.get(bits, "u1")
    return Stored(np.full((HEIGHT, WIDTH, channels), 100, kind), photometric, bits, **more)


DEPTH, KIND = RejectCode.UNSUPPORTED_DEPTH, RejectCode.UNSUPPORTED_KIND
REFUSED = {
    "signed 8 bits": (page(BLACK_IS_ZERO, channels=1, sample_format=SIGNED), DEPTH, "grey, 8 bits signed"),
    "signed 16 bits": (page(BLACK_IS_ZERO, 16, 1, sample_format=SIGNED), DEPTH, "grey, 16 bits signed"),
    "signed colour": (page(RGB, 16, sample_format=SIGNED), DEPTH, "RGB, 16 bits signed"),
    "32-bit colour": (page(RGB, 32), DEPTH, "RGB, 32 bits"),
    "floating point": (page(RGB, 32, sample_format=FLOAT), DEPTH, "RGB, 32 bits floating point"),
    "half floats": (page(BLACK_IS_ZERO, 16, 1, sample_format=FLOAT), DEPTH, "grey, 16 bits floating point"),
    "doubles": (page(BLACK_IS_ZERO, 64, 1, sample_format=FLOAT), DEPTH, "grey, 64 bits floating point"),
    "12 bits": (page(BLACK_IS_ZERO, 12, 1), DEPTH, "grey, 12 bits"),
    "grey and alpha, 16 bits": (page(BLACK_IS_ZERO, 16, 2, extra=(2,)), KIND, "grey, 16 bits, 1 more channel"),
    "many channels": (page(RGB, 8, 7, extra=(0, 0, 0, 0)), KIND, "RGB, 8 bits, 4 more channels"),
    "unnamed channels": (page(RGB, 8, 5), KIND, "it has 5 channels"),
    "too few channels": (page(RGB, 8, 2), KIND, "it has 2 channels"),
    "unequal channels": (page(RGB, more={258: ("H", [5, 6, 5])}), DEPTH, "its channels differ in depth"),
    "planar CIELab": (page(LAB, is_planar=True), KIND, "CIELab, 8 bits, planar"),
    "planar YCbCr": (page(YCBCR, is_planar=True), KIND, "YCbCr, 8 bits, planar"),
    "ICCLab": (page(9), KIND, "ICCLab"),
    "raw sensor data": (page(32803, 16, 1), KIND, "raw sensor data"),
    "inks": (page(CMYK, 8, 4, more={332: ("H", [2])}), KIND, "inks other than CMYK"),
    "no photometric": (page(BLACK_IS_ZERO, 8, 1, more={262: None}), KIND, "photometric interpretation -1"),
    "an unknown one": (page(777, 8, 1), KIND, "photometric interpretation 777"),
    "subsampled YCbCr": (page(YCBCR, more={530: ("H", [2, 2])}), KIND, "fewer pixels of colour"),
    "YCbCr of video range": (
        page(YCBCR, more={530: ("H", [1, 1]), 532: ("R", [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])}),
        KIND,
        "in a range of its own",
    ),
    "bits reversed": (page(more={266: ("H", [2])}), KIND, "bits in reverse order"),
    "predictor 3": (page(more={317: ("H", [3])}), KIND, "predictor 3"),
    "palette of 16 bits": (page(PALETTE, 16, 1), KIND, "palette, 16 bits"),
    "32 bits, big-endian": (page(BLACK_IS_ZERO, 32, 1), DEPTH, "big-endian"),
    **{
        f"compression {number}": (page(more={259: ("H", [number])}), KIND, words)
        for number, words in {
            2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old-style JPEG", 32771: "CCITT", 32809: "ThunderScan",
            33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34927: "WebP", 50001: "WebP",
            50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG", 22610: "JPEG XR", 4711: "compression 4711",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_listed_is_refused_by_name_with_the_way_out(case: str) -> None:
    stored, code, words = REFUSED[case]
    found, sentence = code_of(tiff(stored, order=">" if "big-endian" in case else "<"))
    assert (found, words in sentence, "export it as" in sentence) == (code, True, True), sentence


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize(
    ("photometric", "extra", "is_planar"),
    [
        (RGB, (), False), (RGB, (), True), (RGB, (2,), False), (RGB, (2,), True), (CMYK, (), False), (CMYK, (), True),
        (CMYK, (2,), True),
    ],
)  # fmt: skip
def test_fewer_bits_in_16_are_never_screened_almost_black_or_white(
    photometric: int, extra: tuple[int, ...], is_planar: bool, bits: int
) -> None:
    stored = samples(reader.CHANNELS[photometric] + len(extra), bits).astype(np.uint16)
    for order in "<>":
        data = tiff(Stored(stored, photometric, 16, extra=extra, is_planar=is_planar, block=(7, WIDTH)), order=order)
        assert code_of(data)[0] is DEPTH


def test_grey_with_white_at_0_is_read_only_where_its_depth_is_certain() -> None:
    stored = samples(1, 16)
    assert code_of(tiff(Stored(stored, WHITE_IS_ZERO, 16)))[0] is None, "its darkest pixel needs all 16 bits"
    assert code_of(tiff(Stored(stored // 16, WHITE_IS_ZERO, 16)))[0] is DEPTH


def test_a_palette_of_8_bits_is_not_taken_for_16() -> None:
    """Some programs store colours up to 255 where the specification wants 65535: taken literally, they are black."""
    stored = samples(1, 8)
    data = tiff(Stored(stored, PALETTE, 8, more={320: ("H", COLOUR_MAP.ravel().tolist())}))
    assert np.array_equal(pixels_of(data), COLOUR_MAP.T[stored[..., 0]])


@pytest.mark.parametrize("is_planar", [False, True])
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize(("photometric", "bits"), [(BLACK_IS_ZERO, 8), (RGB, 8), (RGB, 16)])
def test_alpha_that_is_0_everywhere_is_no_alpha(photometric: int, bits: int, kind: int, is_planar: bool) -> None:
    colours = reader.CHANNELS[photometric]
    stored = samples(colours + 1, bits)
    stored[..., colours] = 0
    data = tiff(Stored(stored, photometric, bits, extra=(kind,), is_planar=is_planar))
    assert np.abs(pixels_of(data) - expected(stored[..., :colours], photometric, bits, ())).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_orientation_is_undone_in_every_layout(orientation: int, is_planar: bool, bits: int) -> None:
    stored = samples(3, bits)
    turned = {
        1: stored, 2: np.fliplr(stored), 3: np.rot90(stored, 2), 4: np.flipud(stored), 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: np.rot90(stored, 2).transpose(1, 0, 2), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    data = tiff(Stored(stored, RGB, bits, is_planar=is_planar, more={274: ("H", [orientation])}))
    assert np.array_equal(pixels_of(data), turned >> (bits - 8))
