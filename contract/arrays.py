"""Reading arrays that NumPy stored (.npz) from a file that may lie about its size."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 256 * 2**20
"""All arrays of a file together. The largest that the trainer writes are a few megabytes."""
MOST_ARRAYS = 1024
_ENCRYPTED = 1
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(data: bytes) -> Mapping[str, NDArray[Any]]:
    """All arrays of an .npz file, by name. Raises ValueError for anything else, before it takes the memory.

    A file of a kilobyte may say that it holds 16 GB. So sizes are compared before anything is read: each array's with
    its member's, and all members' with MOST_BYTES.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in _checked(archive.infolist()):
                with archive.open(member) as stream:
                    _check_header(stream, member)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for damaged files, and document no root
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _checked(members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    if len(members) > MOST_ARRAYS:
        raise ValueError(f"it has {len(members)} members, at most {MOST_ARRAYS} are read")
    if len({member.filename for member in members}) != len(members):
        raise ValueError("two members have one name")
    for member in members:
        if not member.filename.endswith(".npy") or member.flag_bits & _ENCRYPTED:
            raise ValueError("a member is no array")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("a member is packed in a way that NumPy does not write")
    size = sum(member.file_size for member in members)
    if size > MOST_BYTES:
        raise ValueError(f"its arrays take {size:,} bytes, at most {MOST_BYTES:,} are read")
    return members


def _check_header(stream: Any, member: zipfile.ZipInfo) -> None:
    """NumPy takes the memory that an array's header asks for before it reads the array."""
    read_header = _HEADERS.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise ValueError("a member has an unknown version of NumPy's format")
    shape, _, dtype = read_header(stream)
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError("a member is no array of numbers")
    size = dtype.itemsize
    for side in shape:  # Python's numbers do not overflow
        size *= side
    if size > member.file_size:
        raise ValueError(f"an array says that it takes {size:,} bytes, and its member holds {member.file_size:,}")
