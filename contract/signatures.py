"""What a file is whose name does not say so: some microscopes and exports write captures without an ending, or as .dcm.

At most 16 bytes of such a file are read. Files whose ending says what they are, captures or not, are not opened: on a
network each of them would cost a round trip.
"""

import os
import stat
from enum import Enum

_SILENT_ENDINGS = frozenset(
    {b"", b".", b".dcm", b".dicom", b".dic", b".ima", b".dat", b".img", b".image", b".bin"}
)  # fmt: skip
"""Endings, in lower case, that do not say what a file is."""
_HEAD_BYTES, _DICOM_AT, _DICOM = 12, 128, b"DICM"
_CAPTURES = (
    b"\xff\xd8\xff",  # JPEG: start of image, and the next marker
    b"\x89PNG\r\n\x1a\n",
    b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",  # TIFF and BigTIFF in either byte order
)  # fmt: skip
_BMP, _BMP_RESERVED, _FOUR_ZEROS = b"BM", slice(6, 10), bytes(4)
"""`BM` alone may begin a text; in a bitmap four zeros follow the file's size (BITMAPFILEHEADER)."""


class Content(Enum):
    """What the first bytes of a file say."""

    CAPTURE = "an image of a format that is screened"
    DICOM = "DICOM, which is not supported"
    OTHER = "something else"


def ending_of(name: bytes) -> bytes:
    """The ending of a file's name in lower case, with its dot; empty if there is none, as in `001`."""
    return os.path.splitext(name.lower())[1]  # noqa: PTH122 - bytes


def ending_is_silent(name: bytes) -> bool:
    """Whether the ending of this name leaves open what the file is: none, a number, a word after a full stop, `.dcm`.

    An editor's backup copy (`a~`) counts as something else: beside the file itself it would be one capture twice.
    """
    ending = ending_of(name)
    return not name.endswith(b"~") and (ending in _SILENT_ENDINGS or ending[1:].isdigit() or b" " in ending)


def content_of(path: bytes) -> Content:
    """Read what the file at `path` is; never through a link, and never waiting for the writer of a pipe.

    Raises OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return Content.OTHER
        head = os.pread(handle, _HEAD_BYTES, 0)
        if head.startswith(_CAPTURES) or (head.startswith(_BMP) and head[_BMP_RESERVED] == _FOUR_ZEROS):
            return Content.CAPTURE
        return Content.DICOM if os.pread(handle, len(_DICOM), _DICOM_AT) == _DICOM else Content.OTHER
    finally:
        os.close(handle)
