"""The pages of a TIFF: which of them is the capture, and a file of that page alone, which all decoders read alike.

A TIFF is a chain of directories, one for each page; a directory is a list of entries (tag, type, count, and the value
or where it lies). Read here are classic TIFF (TIFF 6.0, Adobe 1992) and BigTIFF in both byte orders, never more than
MAX_PAGES directories of MAX_ENTRIES entries, whatever the file says.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from contract.errors import CaptureRejected
from contract.states import RejectCode
from contract.words import CUT_SHORT

SIGNATURES = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
    b"II\0*": ("<", False),
    b"MM*\0": (">", False),
}
"""How a file begins -> its byte order, and whether it is a BigTIFF.

A few programs write the last two, whose 42 is the wrong way round.
"""
MAX_PAGES = 100
"""A capture and its reduced copies are fewer than ten pages."""
MAX_ENTRIES = 4096
"""Of one directory; microscopes write some tens, with their private tags."""
MAX_NUMBERS = 2**20
"""Of one entry; the most are the offsets of strips, one for each row at worst."""


class Tag(IntEnum):
    """The entries that are read, by their names in TIFF 6.0 and its supplements."""

    NEW_SUBFILE_TYPE, SUBFILE_TYPE = 254, 255
    WIDTH, LENGTH, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
    FILL_ORDER, MODEL, STRIP_OFFSETS, ORIENTATION, SAMPLES_PER_PIXEL = 266, 272, 273, 274, 277
    ROWS_PER_STRIP, STRIP_BYTE_COUNTS, PLANAR_CONFIGURATION, PREDICTOR, COLOR_MAP = 278, 279, 284, 317, 320
    TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS, SUB_IFDS = 322, 323, 324, 325, 330
    INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, YCBCR_SUBSAMPLING = 332, 338, 339, 347, 530
    REFERENCE_BLACK_WHITE, EXIF = 532, 34665


_NOT_FOR_DECODERS = {Tag.NEW_SUBFILE_TYPE, Tag.SUBFILE_TYPE, Tag.SUB_IFDS, Tag.INK_SET, Tag.REFERENCE_BLACK_WHITE}
_FOR_DECODERS = tuple(sorted(set(Tag) - _NOT_FOR_DECODERS))
"""What the pixels need, and orientation, camera and time. A fault in any other entry cannot reject a capture."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of an entry -> bytes of one value."""
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Types that hold whole numbers -> how `struct` reads them."""
_SHORT, _LONG, _FRACTION, _EIGHT_BYTES = 3, 4, 5, (16, 17, 18)
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""
_OLD_REDUCED = 2
"""Value of the old SubfileType."""


@dataclass(frozen=True)
class Page:
    """One directory of a file: of each tag the type, the count, and where in the file the value begins."""

    data: bytes
    order: str
    big: bool
    entries: Mapping[int, tuple[int, int, int]]

    def numbers(self, tag: Tag, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The whole numbers of an entry; `default` where there is none. Raises CaptureRejected if they are cut off."""
        kind, count, _ = self.entries.get(tag, (0, 0, 0))
        if kind not in _WHOLE or not count:
            return default
        if count > MAX_NUMBERS:
            raise CaptureRejected(RejectCode.CORRUPT, f"its entry {tag.name} has {count:,} values")
        return struct.unpack(f"{self.order}{count}{_WHOLE[kind]}", self._raw(tag))

    def number(self, tag: Tag, default: int = 0) -> int:
        """The first whole number of an entry; `default` where there is none."""
        return self.numbers(tag, (default,))[0]

    def fractions(self, tag: Tag, default: tuple[float, ...] = ()) -> tuple[float, ...]:
        """The fractions of an entry; `default` where there are none."""
        if self.entries.get(tag, (0, 0, 0))[0] != _FRACTION:
            return default
        raw = self._raw(tag)
        pairs = struct.unpack(f"{self.order}{len(raw) // 4}I", raw)
        return tuple(top / (bottom or 1) for top, bottom in zip(pairs[::2], pairs[1::2], strict=True))

    def _raw(self, tag: int) -> bytes:
        kind, count, at = self.entries[tag]
        end = at + count * _SIZES[kind]
        if end > len(self.data):
            raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
        return self.data[at:end]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels as they are stored, not yet turned upright; 0 where the directory does not say."""
        return self.number(Tag.WIDTH), self.number(Tag.LENGTH)

    @property
    def is_reduced(self) -> bool:
        """Whether the directory calls itself a reduced copy, or a mask, of another page."""
        if self.number(Tag.NEW_SUBFILE_TYPE) & (_REDUCED | _MASK):
            return True
        return self.number(Tag.SUBFILE_TYPE) == _OLD_REDUCED

    def bytes_of(self, tag: Tag) -> bytes:
        """The bytes of an entry, b"" where there is none."""
        return self._raw(tag) if tag in self.entries else b""

    def alone(self, replaced: Mapping[Tag, Sequence[int]] | None = None) -> bytes:
        """A classic TIFF of this page only, without metadata.

        Entries in `replaced` get these values, or are left out if there are none. Strips and tiles stay where they are;
        a new directory follows behind the file's bytes.
        """
        replaced = replaced or {}
        start = len(self.data) + len(self.data) % 2
        fields, values = [], b""
        tags = [tag for tag in _FOR_DECODERS if (len(replaced[tag]) if tag in replaced else self._is_sound(tag))]
        values_at = start + 2 + 12 * len(tags) + 4
        for tag in tags:
            kind, count, value = self._classic(tag, replaced.get(tag))
            if len(value) > 4:
                field = struct.pack(f"{self.order}I", values_at + len(values))
                values += value + b"\0" * (len(value) % 2)
            else:
                field = value.ljust(4, b"\0")
            fields.append(struct.pack(f"{self.order}HHI", tag, kind, count) + field)
        head = (b"II*\0" if self.order == "<" else b"MM\0*") + struct.pack(f"{self.order}I", start)
        directory = struct.pack(f"{self.order}H", len(tags)) + b"".join(fields) + bytes(4)
        return b"".join([head, memoryview(self.data)[8:], b"\0" * (len(self.data) % 2), directory, values])

    def _is_sound(self, tag: Tag) -> bool:
        """Whether there is such an entry; of those that only describe the image, whether it is fit for a decoder."""
        if tag == Tag.ORIENTATION:
            return 1 <= self.number(tag) <= 8
        if tag == Tag.EXIF and self.big:
            return False  # its entries are those of a BigTIFF, which Pillow would read as classic ones
        if tag in (Tag.EXIF, Tag.MODEL) and tag in self.entries:
            kind, count, at = self.entries[tag]
            return at + count * _SIZES[kind] <= len(self.data)
        return tag in self.entries

    def _classic(self, tag: Tag, values: Sequence[int] | None) -> tuple[int, int, bytes]:
        """Type, count and bytes of an entry of a classic TIFF, which has no numbers of eight bytes."""
        if values is None:
            kind, count, _ = self.entries[tag]
            if kind not in _EIGHT_BYTES:
                return kind, count, self._raw(tag)
            values = self.numbers(tag)
        if max(values) >= 2**32 or min(values) < 0:
            raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)  # an offset beyond what is read of any file
        kind = _SHORT if max(values) < 2**16 else _LONG
        return kind, len(values), struct.pack(f"{self.order}{len(values)}{_WHOLE[kind]}", *values)


def full_page(data: bytes) -> Page:
    """The one page at full size; reduced copies and masks beside it are passed over.

    If all pages of the chain are reduced copies, the full one may lie in their SubIFDs, as raw converters store it. A
    single page is the capture whatever it calls itself. Raises CaptureRejected if several pages are at full size, or
    none is.
    """
    order, big = SIGNATURES[data[:4]]
    first = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data[:16].ljust(16, b"\0"), 8 if big else 4)[0]
    chain = [page for page in _chain(data, order, big, first) if min(page.size) > 0]
    full = [page for page in chain if not page.is_reduced]
    if not full:
        places = [at for page in chain for at in page.numbers(Tag.SUB_IFDS)[:MAX_PAGES]]
        below = [_directory(data, order, big, at)[0] for at in places[:MAX_PAGES]]
        full = [page for page in below if min(page.size) > 0 and not page.is_reduced]
    if not full and len(chain) == 1:
        full = chain
    if not full:
        raise CaptureRejected(RejectCode.CORRUPT, "a TIFF without a page at full size")
    if len(full) > 1:
        raise CaptureRejected(RejectCode.MULTI_PAGE, f"holds {len(full)} images; export each as a file of its own")
    if any(_area(page) > _area(full[0]) for page in chain):
        raise CaptureRejected(
            RejectCode.MULTI_PAGE, "holds a reduced copy that is larger than its image; export the image alone"
        )
    return full[0]


def _area(page: Page) -> int:
    width, height = page.size
    return width * height


def _chain(data: bytes, order: str, big: bool, at: int) -> Iterator[Page]:
    """The directories from offset `at` on; where the chain comes back to one that it has passed, it ends."""
    seen: set[int] = set()
    while at and at not in seen:
        if len(seen) == MAX_PAGES:
            raise CaptureRejected(
                RejectCode.MULTI_PAGE, f"holds more than {MAX_PAGES} pages; export each image as a file of its own"
            )
        seen.add(at)
        page, at = _directory(data, order, big, at)
        yield page


def _directory(data: bytes, order: str, big: bool, at: int) -> tuple[Page, int]:
    """The directory at an offset, and the offset of the next one. Of entries with the same tag the first counts."""
    head, entry, inline = ("Q", "HHQ8x", 8) if big else ("H", "HHI4x", 4)
    body = at + struct.calcsize(f"{order}{head}")
    if body > len(data):
        raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
    count, size = struct.unpack_from(f"{order}{head}", data, at)[0], struct.calcsize(f"{order}{entry}")
    if not 0 < count <= MAX_ENTRIES:
        raise CaptureRejected(RejectCode.CORRUPT, f"a directory with {count:,} entries")
    end = body + count * size
    if end > len(data):
        raise CaptureRejected(RejectCode.TRUNCATED, CUT_SHORT)
    offset = struct.Struct(f"{order}{'Q' if big else 'I'}")
    entries: dict[int, tuple[int, int, int]] = {}
    for number, (tag, kind, values) in enumerate(struct.iter_unpack(f"{order}{entry}", data[body:end])):
        if kind in _SIZES and values and tag not in entries:
            field = body + (number + 1) * size - inline
            is_inline = values * _SIZES[kind] <= inline
            entries[tag] = kind, values, field if is_inline else offset.unpack_from(data, field)[0]
    following = offset.unpack_from(data, end)[0] if end + offset.size <= len(data) else 0
    return Page(data, order, big, entries), following
