"""Which page of a TIFF is the capture; and no chain, circle or nonsense of directories costs more than it should."""

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract import tiff_pages
from contract.errors import CaptureRejected
from contract.imaging import decode_full
from contract.states import RejectCode
from tests.support.archives import picture
from tests.support.tiffs import Samples, Stored, tiff

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on nonsense in metadata

RGB = 2


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_full(data))


def code_of(data: bytes) -> tuple[RejectCode | None, str]:
    try:
        decode_full(data)
    except CaptureRejected as error:
        return error.code, str(error)
    return None, ""


FULL = np.asarray(picture("Pre", size=(70, 50)))
SMALL = FULL[::4, ::4]


def rgb(pixels: Samples, **entries: Any) -> Stored:
    more = {int(tag[1:]): None if value is None else ("I", [value]) for tag, value in entries.items()}
    return Stored(pixels, RGB, 8, more=more)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("flag", [{"_254": 1}, {"_255": 2}, {"_254": 5}, {"_254": 4}], ids=str)
def test_reduced_copies_and_masks_are_passed_over(position: int, flag: dict[str, int], order: str, big: bool) -> None:
    pages = [rgb(SMALL, **flag), rgb(SMALL, **flag)]
    pages.insert(position, rgb(FULL, _254=0))
    assert np.array_equal(pixels_of(tiff(*pages, order=order, big=big)), FULL)


@pytest.mark.parametrize("order", "<>")
def test_the_full_image_may_lie_below_a_thumbnail(order: str) -> None:
    """As raw converters store it: the chain has only the thumbnail, whose SubIFDs lead to the image."""
    data = bytearray(tiff(rgb(SMALL, _254=1, _330=1), rgb(FULL), order=order))
    thumbnail = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, thumbnail)[0]
    link = thumbnail + 2 + 12 * count
    below = struct.unpack_from(f"{order}I", data, link)[0]
    struct.pack_into(f"{order}I", data, link, 0)
    entry = next(at for at in range(thumbnail + 2, link, 12) if struct.unpack_from(f"{order}H", data, at)[0] == 330)
    struct.pack_into(f"{order}I", data, entry + 8, below)
    assert np.array_equal(pixels_of(bytes(data)), FULL)


def test_a_lone_page_is_the_capture_whatever_it_calls_itself() -> None:
    assert np.array_equal(pixels_of(tiff(rgb(FULL, _254=1))), FULL)


def test_a_page_without_an_image_is_no_page() -> None:
    assert np.array_equal(pixels_of(tiff(rgb(FULL), rgb(FULL, _256=None, _257=None))), FULL)


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([rgb(FULL), rgb(FULL)], "holds 2 images"),
        ([rgb(FULL), rgb(SMALL)], "holds 2 images"),
        ([rgb(FULL), rgb(SMALL, _254=1), rgb(FULL, _254=2)], "holds 2 images"),
        ([rgb(SMALL), rgb(FULL, _254=1)], "larger than its image"),
    ],
)
def test_several_full_pages_are_refused(pages: list[Stored], words: str) -> None:
    code, sentence = code_of(tiff(*pages))
    assert code is RejectCode.MULTI_PAGE
    assert words in sentence


def chained(count: int) -> bytes:
    """A full page, and directories behind it that call themselves reduced copies, each leading to the next."""
    data = bytearray(tiff(rgb(FULL)))
    link = len(data) - 4
    for _ in range(count):
        struct.pack_into("<I", data, link, len(data))
        data += struct.pack("<HHHIIHHIIHHIII", 3, 254, 4, 1, 1, 256, 4, 1, 9, 257, 4, 1, 9, 0)
        link = len(data) - 4
    return bytes(data)


def test_a_chain_of_directories_is_followed_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    directory = tiff_pages._directory
    monkeypatch.setattr(tiff_pages, "_directory", lambda *a: read.append(a[3]) or directory(*a))
    assert code_of(chained(tiff_pages.MAX_PAGES - 1))[0] is None
    read.clear()
    assert code_of(chained(50_000)) == (
        RejectCode.MULTI_PAGE,
        "holds more than 100 pages; export each image as a file of its own",
    )
    assert len(read) == tiff_pages.MAX_PAGES


@pytest.mark.parametrize("back", [0, 1])
def test_a_chain_that_runs_in_a_circle_ends(back: int) -> None:
    data = bytearray(chained(2))
    first = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, len(data) - 4, [first, len(data) - 42][back])
    assert np.array_equal(pixels_of(bytes(data)), FULL)


@pytest.mark.parametrize("count", [0, 5000, 65535])
def test_a_directory_without_sense_is_refused(count: int) -> None:
    data = bytearray(tiff(rgb(FULL))) + bytes(12 * 65535)
    struct.pack_into("<H", data, struct.unpack_from("<I", data, 4)[0], count)
    assert code_of(bytes(data))[0] is RejectCode.CORRUPT


def test_entries_that_only_describe_the_image_never_reject_it() -> None:
    """Values beyond the end of the file, of unknown types, or nonsense, in the entries that no pixel depends on."""
    beyond = 2**31
    for tag in (270, 271, 272, 305, 306, 315, 33432, 34675, 34665, 34853, 700, 34377, 50838, 282, 283, 333, 42112):
        for kind in (1, 2, 3, 5, 7, 12, 13, 99):
            data = bytearray(tiff(Stored(FULL, RGB, 8, more={tag: ("I", [0])})))
            first = struct.unpack_from("<I", data, 4)[0]
            entry = next(at for at in range(first + 2, len(data), 12) if struct.unpack_from("<H", data, at)[0] == tag)
            for count, value in ((1000, beyond), (2**32 - 1, 8), (4, first), (0, 0), (1, 2**32 - 1)):
                struct.pack_into("<HII", data, entry + 2, kind, count, value)
                assert np.array_equal(pixels_of(bytes(data)), FULL), (tag, kind, count)
