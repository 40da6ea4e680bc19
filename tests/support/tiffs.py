"""TIFFs of every layout, written by hand: independent of the libraries that read them, and exact about each byte."""

import io
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Samples = NDArray[Any]
NONE, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE, LZMA, ZSTANDARD = 1, 5, 7, 8, 32773, 32946, 34925, 50000
_TYPES = {"B": 1, "H": 3, "I": 4, "R": 5}
"""B, H, I: whole numbers of 1, 2 and 4 bytes; R: fractions, each two numbers of 4 bytes."""


def lzw(data: bytes) -> bytes:
    """LZW without any gain: literal codes of nine bits, and the table cleared before it needs ten."""
    codes: list[int] = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    codes.append(257)
    bits = (np.array(codes)[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def packbits(data: bytes) -> bytes:
    """PackBits without any gain: runs of literal bytes."""
    runs = [data[start : start + 128] for start in range(0, len(data), 128)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def zstandard(data: bytes) -> bytes:
    """A frame of Zstandard (RFC 8878) with raw blocks."""
    starts = range(0, len(data), 2**16)
    blocks = [(start + 2**16 >= len(data), data[start : start + 2**16]) for start in starts]
    body = b"".join(struct.pack("<I", last | len(block) << 3)[:3] + block for last, block in blocks)
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + body


ENCODERS: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes, LZW: lzw, DEFLATE: zlib.compress, OLD_DEFLATE: zlib.compress, PACKBITS: packbits,
    LZMA: lambda data: lzma.compress(data, preset=0), ZSTANDARD: zstandard,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A page as it is stored: `samples` are [height, width, channels], of the type that the file's numbers have.

    `block` are rows and columns of a strip or tile; whole rows are strips. `more` are entries of the directory, tag to
    type (B, H, I, R) and values, which win over the others; None leaves an entry out. With `pixels_last` the directory
    is written before the pixels.
    """

    samples: Samples
    photometric: int
    bits: int
    sample_format: int = 1
    extra: tuple[int, ...] = ()
    compression: int = NONE
    predictor: int = 1
    is_planar: bool = False
    block: tuple[int, int] | None = None
    more: dict[int, tuple[str, Sequence[int]] | None] = field(default_factory=dict)
    pixels_last: bool = False


def tiff(*pages: Stored, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of these pages."""
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42))
    out += struct.pack(f"{order}HHQ", 8, 0, 0) if big else bytes(4)
    link = 8 if big else 4
    for page in pages:
        link = _append(out, page, order, big, link)
    return bytes(out)


def _append(out: bytearray, page: Stored, order: str, big: bool, link: int) -> int:
    """Append a page, and write its offset to `link`. Returns where the next page's offset belongs."""
    blocks = _blocks(page, order)
    sizes, start = [len(block) for block in blocks], len(out)
    if page.pixels_last:
        start += len(_directory(_entries(page, sizes, sizes), order, big, 0)[0])
    offsets = [start + sum(sizes[:number]) for number in range(len(sizes))]
    blocks += [] if page.pixels_last else [b"\0" * (sum(sizes) % 2)]
    at = len(out) if page.pixels_last else start + sum(map(len, blocks))
    written, directory = _directory(_entries(page, offsets, sizes), order, big, at)
    out += b"".join([written, *blocks] if page.pixels_last else [*blocks, written])
    inline, wide = (8, "Q") if big else (4, "I")
    struct.pack_into(f"{order}{wide}", out, link, directory)
    return at + len(written) - inline


def _directory(entries: dict[int, tuple[str, Sequence[int]]], order: str, big: bool, at: int) -> tuple[bytes, int]:
    """Values and, behind them, the directory, as they are written at `at`; and where the directory begins."""
    inline, wide = (8, "Q") if big else (4, "I")
    values, fields = b"", b""
    for tag, (kind, numbers) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(numbers)}{kind.replace('R', 'I')}", *numbers)
        if len(value) > inline:
            value, values = struct.pack(f"{order}{wide}", at + len(values)), values + value + b"\0" * (len(value) % 2)
        fields += struct.pack(f"{order}HH{wide}", tag, _TYPES[kind], len(numbers) // (1 + (kind == "R"))) + value.ljust(
            inline, b"\0"
        )
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
    return values + count + fields + bytes(inline), at + len(values)


def _entries(page: Stored, offsets: list[int], counts: list[int]) -> dict[int, tuple[str, Sequence[int]]]:
    height, width, channels = page.samples.shape
    rows, columns = page.block or (height, width)
    entries: dict[int, tuple[str, Sequence[int]] | None] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [page.bits] * channels), 259: ("H", [page.compression]),
        262: ("H", [page.photometric]), 277: ("H", [channels]), 284: ("H", [2 if page.is_planar else 1]),
        339: ("H", [page.sample_format] * channels),
    }  # fmt: skip
    if columns == width:
        entries |= {273: ("I", offsets), 278: ("I", [rows]), 279: ("I", counts)}
    else:
        entries |= {322: ("I", [columns]), 323: ("I", [rows]), 324: ("I", offsets), 325: ("I", counts)}
    if page.extra:
        entries[338] = ("H", page.extra)
    if page.predictor != 1:
        entries[317] = ("H", [page.predictor])
    entries |= page.more
    return {tag: entry for tag, entry in entries.items() if entry is not None}


def _blocks(page: Stored, order: str) -> list[bytes]:
    """The strips or tiles; of planes, those of the first channel first."""
    height, width, channels = page.samples.shape
    rows, columns = page.block or (height, width)
    planes = [page.samples[..., c : c + 1] for c in range(channels)] if page.is_planar else [page.samples]
    blocks = []
    for plane in planes:
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                part = plane[top : top + rows, left : left + columns]
                if columns != width:
                    part = np.pad(part, [(0, rows - part.shape[0]), (0, columns - part.shape[1]), (0, 0)], mode="edge")
                blocks.append(_jpeg(part, page) if page.compression == JPEG else _encoded(part, page, order))
    return blocks


def _encoded(part: Samples, page: Stored, order: str) -> bytes:
    if page.predictor == 2:
        part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1)
    if page.bits < 8:
        bits = (part[..., None] >> np.arange(page.bits - 1, -1, -1)) & 1
        raw = np.packbits(bits.reshape(part.shape[0], -1).astype(np.uint8), 1).tobytes()
    else:
        raw = part.astype(part.dtype.newbyteorder(order)).tobytes()
    return ENCODERS[page.compression](raw)


def _jpeg(part: Samples, page: Stored) -> bytes:
    """A strip or tile as JPEG with its own tables; of YCbCr, `samples` are RGB."""
    buffer = io.BytesIO()
    image = Image.fromarray(part[..., 0] if part.shape[-1] == 1 else np.ascontiguousarray(part))
    image.save(buffer, "JPEG", quality=95, keep_rgb=page.photometric == 2)
    return buffer.getvalue()
