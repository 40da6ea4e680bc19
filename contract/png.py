"""PNG: whether the chunks that its pixels need are intact, and a copy without the chunks that they do not need.

Pillow checks no checksum of the pixels' own chunks, and decodes damage into noise; of chunks that only describe the
image it checks everything, and rejects the image for them. Both is put right here. Chunks by the PNG specification,
third edition (W3C 2025).
"""

import struct
import zlib
from collections.abc import Iterator

from contract.errors import CaptureRejected
from contract.states import RejectCode
from contract.words import CUT_SHORT

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"tRNS", b"acTL")
"""Chunks that the image needs although a decoder may ignore them: transparency, and how many images there are."""
_DESCRIBED = (b"eXIf",)
"""Chunks about the image that are kept if they are intact: orientation, camera, time."""


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end in the file of each whole chunk up to IEND. Raises CaptureRejected if pixels are cut off."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            if name == b"IDAT":
                raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
            return
        yield name, at, end
        if name == b"IEND":
            return
        at = end


def _is_intact(data: bytes, start: int, end: int) -> bool:
    """Whether a chunk has the checksum that it claims."""
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def refuse_damage(data: bytes) -> None:
    """Raise CaptureRejected if a chunk that the pixels need is damaged or cut off."""
    for name, start, end in _chunks(data):
        if (name[:1].isupper() or name in _PIXELS) and not _is_intact(data, start, end):
            raise CaptureRejected(RejectCode.CORRUPT, "the PNG data are damaged: a checksum is wrong")


def without_metadata(data: bytes) -> bytes:
    """The image alone: chunks that its pixels need, and EXIF where it is intact."""
    kept = [
        memoryview(data)[start:end]
        for name, start, end in _chunks(data)
        if name[:1].isupper() or name in _PIXELS or (name in _DESCRIBED and _is_intact(data, start, end))
    ]
    return b"".join([SIGNATURE, *kept])
