"""JPEG: what kind a file is, its pixels, and how harmless irregularities are told from damage.

libjpeg warns of damage inside the image, paints over it and goes on, and with the same warnings it meets irregularities
that no pixel depends on. So whatever draws a warning is refused, but first tried again without the irregularities that
`_mended` knows: it writes the file's header again and drops padding. The second attempt is as strict as the first.
Nothing is decoded under a warning.

Markers by ITU-T T.81, table B.1.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from contract.errors import CaptureRejected
from contract.states import RejectCode
from contract.words import CUT_SHORT

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 10_000
"""A camera writes some tens; only a file made to waste time has more."""
_SOI, _EOI, _SOS, _DHT, _JFIF, _APP1, _ADOBE, _COMMENT = 0xD8, 0xD9, 0xDA, 0xC4, 0xE0, 0xE1, 0xEE, 0xFE
_WITHOUT_LENGTH = {0x01, _SOI, _EOI}
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {_DHT, 0xC8, 0xCC})
"""SOF0 to SOF15."""
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_JPEG_LS = 0xF7
_KINDS = {0xC3: "lossless", 0xC9: "arithmetic coding", 0xCA: "arithmetic coding", 0xCB: "lossless", _JPEG_LS: "JPEG-LS"}
_SAMPLINGS = {b"\x11" * 3, b"\x12" * 3, b"\x21" * 3} | {
    bytes([brightness, colour, colour])
    for brightness, colour in (
        (0x12, 0x11),
        (0x21, 0x11),
        (0x22, 0x11),
        (0x41, 0x11),
        (0x14, 0x11),
        (0x22, 0x12),
        (0x22, 0x21),
    )
}
"""How often the three channels are sampled, as one byte each, where libjpeg-turbo can decode it at reduced scale."""
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker after any fill; 0xFF00 is a byte of a scan, and 0xFFD0 to 0xFFD7 divide a scan."""
_STUFFED = re.compile(rb"(?:\xff\x00)*")
_EXPORT = "export it as 8-bit baseline JPEG, PNG or TIFF"


@dataclass(frozen=True)
class _Segment:
    """A marker, its parameters, the bytes before it that are in no segment (after SOS, those of a scan), its offset."""

    marker: int
    parameters: bytes
    before: bytes
    start: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments behind the first SOI, as libjpeg finds them, up to one that the file does not hold."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, start, end = found[1][0], found.end(), found.end()
        if marker not in _WITHOUT_LENGTH:
            length = int.from_bytes(data[start : start + 2], "big")
            start, end = start + 2, start + length
            if end > len(data) or end < start:
                return
        yield _Segment(marker, data[start:end], data[at : found.start()], found.end() - 2)
        at = end


def channels_of(data: bytes) -> int:
    """How many channels the image has. Raises CaptureRejected if it is of a kind that is not read, or there is none.

    simplejpeg must not get another kind: asked for a reduced scale of a lossless JPEG, it writes out of bounds.
    """
    headers = itertools.islice(_segments(data), MAX_SEGMENTS)
    frame = next((one for one in headers if one.marker in _FRAMES or one.marker in (_JPEG_LS, _SOS, _EOI)), None)
    if frame is None or frame.marker in (_SOS, _EOI) or not _is_frame(frame.parameters):
        raise CaptureRejected(RejectCode.CORRUPT, "a JPEG whose header is damaged")
    bits, channels = frame.parameters[0], frame.parameters[5]
    if frame.marker not in (*_SEQUENTIAL, _PROGRESSIVE):
        kind = _KINDS.get(frame.marker, "hierarchical coding")
        raise CaptureRejected(RejectCode.UNSUPPORTED_KIND, f"a JPEG of a kind that is not read ({kind}); {_EXPORT}")
    if bits != 8:
        raise CaptureRejected(RejectCode.UNSUPPORTED_DEPTH, f"a JPEG with {bits} bits per channel; {_EXPORT}")
    if not any(frame.parameters[1:3]):
        raise CaptureRejected(
            RejectCode.UNSUPPORTED_KIND, f"a JPEG of a kind that is not read (height behind the scan); {_EXPORT}"
        )
    if channels not in (1, 3, 4):
        raise CaptureRejected(RejectCode.UNSUPPORTED_KIND, f"a JPEG with {channels} channels; {_EXPORT}")
    return channels


def _is_frame(parameters: bytes) -> bool:
    """Whether the parameters of a frame are possible ones: 2 to 16 bits, and each channel sampled 1 to 4 times."""
    if len(parameters) < 9 or len(parameters) != 6 + 3 * parameters[5] or not 2 <= parameters[0] <= 16:
        return False
    return all(1 <= factor >> 4 <= 4 and 1 <= factor & 15 <= 4 for factor in parameters[7::3])


def _has_unusual_sampling(data: bytes) -> bool:
    frame = next((one for one in itertools.islice(_segments(data), MAX_SEGMENTS) if one.marker in _FRAMES), None)
    return frame is not None and frame.parameters[5] == 3 and frame.parameters[7::3] not in _SAMPLINGS


def decode(data: bytes, size: tuple[int, int], colours: str = "RGB") -> NDArray[np.uint8]:
    """Decode at the smallest scale whose sides are at least `size` (width, height): Pillow's pixels, but faster.

    `colours` are "RGB", "CMYK" or "GRAY". The kind must be one that `channels_of` lets pass. Raises CaptureRejected
    for damage.
    """
    try:
        return _strictly(data, size, colours)
    except ValueError as error:
        first = last = str(error).lower()
    for drop_padding in (False, True):
        try:
            mended = _mended(data, drop_padding)
            if mended is not None and (mended.end is None or _is_needed(mended.data, mended.end, size, colours)):
                return _strictly(mended.data, size, colours)
        except ValueError as error:
            last = str(error).lower()
    if "premature end of jpeg file" in first:
        raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
    if "subsampling" in last and _has_unusual_sampling(data):
        raise CaptureRejected(
            RejectCode.UNSUPPORTED_KIND, f"a JPEG of a kind that is not read (unusual chroma subsampling); {_EXPORT}"
        )
    raise CaptureRejected(RejectCode.CORRUPT, "the JPEG data are damaged inside the image")


def _strictly(data: bytes, size: tuple[int, int], colours: str) -> NDArray[np.uint8]:
    """The pixels; a warning of libjpeg is a ValueError."""
    width, height = size
    return np.asarray(simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width, strict=True))


@dataclass(frozen=True)
class _Mended:
    """A file without irregularities; `end` is the offset behind the last scan if that had to be found."""

    data: bytes
    end: int | None


def _mended(data: bytes, drop_padding: bool) -> _Mended | None:
    """The same image in a file that has only what its pixels need, or None where it is not clear what they need.

    Left out are metadata, fill, bytes between segments, and a doubled SOI. Set right are JFIF's version and parameters
    of a sequential scan, which no decoder uses. With `drop_padding`, zeros and 0xFF behind the last scan are left out
    too, and EOI is added where it lacks, if the scans are all that the image needs.
    """
    segments = _up_to_end(data) or (_up_to_end(data + b"\xff\xd9") if drop_padding else [])
    frames = [segment for segment in segments if segment.marker in _FRAMES]
    if len(frames) != 1 or segments[-2].marker != _SOS or (drop_padding and not _is_complete(segments, frames[0])):
        return None  # with two images, one may be the thumbnail in a segment whose length is damaged
    has_tables = _has_tables(segments, frames[0])
    out, last = bytearray(b"\xff\xd8"), _SOI
    for segment in segments[:-1]:
        if last == _SOS:
            out += segment.before
        if last == _DHT and segment.before.strip(b"\0") and not has_tables:
            return None  # perhaps these bytes are tables, and the length of their segment is damaged
        if segment.marker == _SOI and last != _SOI:
            return None  # perhaps a second image
        if (parameters := _needed(segment, frames[0])) is not None:
            out += struct.pack(">BBH", 0xFF, segment.marker, len(parameters) + 2) + parameters
        last = segment.marker
    out += _without_padding(segments[-1].before) if drop_padding else segments[-1].before
    return _Mended(bytes(out) + b"\xff\xd9", len(out) if drop_padding else None)


def _up_to_end(data: bytes) -> list[_Segment]:
    """The segments up to the first EOI, or none if there is no EOI."""
    segments = []
    for segment in itertools.islice(_segments(data), MAX_SEGMENTS):
        segments.append(segment)
        if segment.marker == _EOI:
            return segments
    return []


def _is_complete(segments: list[_Segment], frame: _Segment) -> bool:
    """Whether the scans bring all coefficients of all channels to their full precision.

    A progressive JPEG may have lost scans at its end, and still be one.
    """
    missing = {(channel, place) for channel in frame.parameters[6::3] for place in range(64)}
    for scan in (segment.parameters for segment in segments if segment.marker == _SOS):
        channels = scan[1 : 1 + 2 * scan[0] : 2] if scan else b""
        first, last, bits = scan[-3:] if len(scan) == 4 + 2 * len(channels) else (1, 0, 0)
        if frame.marker in _SEQUENTIAL:
            first, last, bits = 0, 63, 0
        if bits & 15 == 0:
            missing -= {(channel, place) for channel in channels for place in range(first, min(last, 63) + 1)}
    return not missing


def without_metadata(data: bytes) -> bytes:
    """The file without its metadata, except EXIF; from the first scan on it stays as it is."""
    kept = [data[:2]]
    for segment in itertools.islice(_segments(data), MAX_SEGMENTS):
        if segment.marker == _SOS:
            return b"".join([*kept, data[segment.start :]])
        is_exif = segment.marker == _APP1 and segment.parameters.startswith(b"Exif\0\0")
        if is_exif or _needed(segment, segment) is not None:
            kept.append(data[segment.start : segment.start + 4] + segment.parameters)
    return data


def _has_tables(segments: list[_Segment], frame: _Segment) -> bool:
    """Whether the only scan of a sequential frame finds all Huffman tables that it names in segments that are whole.

    For lost tables libjpeg would take standard ones, or those of an earlier scan.
    """
    scans = [segment.parameters for segment in segments if segment.marker == _SOS]
    if frame.marker not in _SEQUENTIAL or len(scans) != 1 or not scans[0]:
        return False
    named = scans[0][2 : 2 + 2 * scans[0][0] : 2]
    wanted = {one >> 4 for one in named} | {0x10 | one & 15 for one in named}  # DC, and AC marked by 0x10
    for tables in (segment.parameters for segment in segments if segment.marker == _DHT):
        at = 0
        while at + 17 <= len(tables):
            wanted.discard(tables[at])
            at += 17 + sum(tables[at + 1 : at + 17])
        if at != len(tables):
            return False
    return not wanted


def _needed(segment: _Segment, frame: _Segment) -> bytes | None:
    """The parameters of a segment, set right; None for one that no pixel depends on."""
    marker, parameters = segment.marker, segment.parameters
    if marker == _JFIF and parameters.startswith(b"JFIF\0") and len(parameters) >= 14:
        return parameters[:5] + b"\x01\x01" + parameters[7:]
    if marker == _ADOBE and parameters.startswith(b"Adobe") and len(parameters) >= 12:
        return parameters
    if 0xE0 <= marker <= 0xEF or marker in (_COMMENT, _SOI, 0x01):
        return None
    if marker == _SOS and frame.marker in _SEQUENTIAL and len(parameters) == 4 + 2 * parameters[0]:
        return parameters[:-3] + b"\0\x3f\0"
    return parameters


def _without_padding(scan: bytes) -> bytes:
    """A scan without the zeros and 0xFF behind it; 0xFF00 at its end is a byte of its own."""
    bare = scan.rstrip(b"\0\xff")
    kept = _STUFFED.match(scan, len(bare))
    return scan[: kept.end()] if kept is not None else bare


def _is_needed(data: bytes, end: int, size: tuple[int, int], colours: str) -> bool:
    """Whether the scan that ends at `end` is damaged without its last byte.

    libjpeg overlooks a few bytes too many at the end. Here, where padding was dropped, even one could mean that damage
    made the decoder lose its place.
    """
    start = end - 2 if data[end - 2 : end] == b"\xff\0" else end - 1
    try:
        _strictly(data[:start] + data[end:], size, colours)
    except ValueError:
        return True
    return False
