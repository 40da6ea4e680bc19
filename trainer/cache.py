"""Captures, decoded once: a uint8 array on disk that training maps into memory.

    CACHE/<key>/captures.npy    uint8 [N, S, S, 3], in the order of the data's captures
    CACHE/<key>/sizes.npy       int32 [N, 2], width and height of the files' images, upright
    CACHE/<key>/unreadable.json index of a capture -> why it cannot be decoded; its row is black

The key is the digest of the data, the image spec, Pillow's version, and the source of DECODERS and of `_decode_all`,
which writes the files: if any of these changes, a new cache is built.
"""

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from contract import colour, imaging, jpeg, png, tiff, tiff_pages
from contract.errors import CaptureRejected, DataError, StorageFull
from contract.files import private_folder
from contract.imaging import Decoded, ImageSpec, decode
from trainer.data import MAX_UNREADABLE, LabelledData

WINDOW = 256
"""How many captures are decoded at a time: memory holds this many, however large the data set is."""
DECODERS = (imaging, colour, jpeg, png, tiff, tiff_pages)
"""The modules whose code decides what a capture's pixels are."""
Advance = Callable[[int], None]


@dataclass(frozen=True)
class DecodedCaptures:
    """`pixels` is a read-only memory map, uint8 [N, S, S, 3]; `sizes` [N, 2] are the files' widths and heights;
    `unreadable` gives the reason for each capture that cannot be decoded, by its index.
    """

    pixels: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    unreadable: dict[int, str]


def decoded(
    data: LabelledData, spec: ImageSpec, cache: Path, advance: Advance | None = None, *, refuse_many: bool = True
) -> DecodedCaptures:
    """Open the cache of these captures; build it first if it is missing.

    `advance` is called with the number of captures just decoded. Raises DataError when more than 1 % of the captures
    cannot be decoded (unless `refuse_many` is off), StorageFull when the cache has no room.
    """
    folder = cache / _key(data, spec)
    if not (folder / "captures.npy").is_file():
        _build(data, spec, folder, advance)
    pixels = np.load(folder / "captures.npy", mmap_mode="r")
    unreadable = {int(i): why for i, why in json.loads((folder / "unreadable.json").read_text()).items()}
    if refuse_many:
        _refuse_many(data, unreadable)
    return DecodedCaptures(pixels, np.load(folder / "sizes.npy"), unreadable)


def _key(data: LabelledData, spec: ImageSpec) -> str:
    sources = [inspect.getsource(part) for part in (*DECODERS, _decode_all)]
    parts = "\0".join([data.digest, spec.model_dump_json(), PIL.__version__, *sources])
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def _build(data: LabelledData, spec: ImageSpec, folder: Path, advance: Advance | None) -> None:
    private_folder(folder.parent)
    shape = (len(data.captures), spec.size, spec.size, 3)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise StorageFull(
            f"the cache needs {needed / 2**30:.1f} GiB and {folder.parent} has {free / 2**30:.1f}; "
            "make room or name another folder with --cache"
        )
    building = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        sizes, unreadable = _decode_all(data, spec, shape, building / "captures.npy", advance)
        np.save(building / "sizes.npy", sizes)
        (building / "unreadable.json").write_text(json.dumps(unreadable))
        try:
            building.replace(folder)
        except OSError:  # another run has built the same cache in the meantime
            if not (folder / "captures.npy").is_file():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(
    data: LabelledData, spec: ImageSpec, shape: tuple[int, ...], file: Path, advance: Advance | None
) -> tuple[NDArray[np.int32], dict[int, str]]:
    def one(index: int) -> Decoded | str:
        try:
            return decode((data.root / data.captures[index].path).read_bytes(), spec)
        except CaptureRejected as error:
            return f"{error.code}: {error}"
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    unreadable = {}
    sizes = np.zeros((shape[0], 2), np.int32)
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, shape[0], WINDOW):
            indices = range(start, min(start + WINDOW, shape[0]))
            for index, result in zip(indices, pool.map(one, indices), strict=True):
                if isinstance(result, str):
                    unreadable[index] = result
                else:
                    pixels[index] = result.pixels
                    sizes[index] = result.width, result.height
            if advance is not None:
                advance(len(indices))
    pixels.flush()
    return sizes, unreadable


def _refuse_many(data: LabelledData, unreadable: dict[int, str]) -> None:
    if len(unreadable) <= MAX_UNREADABLE * len(data.captures):
        return
    examples = "; ".join(f"{data.captures[i].path} ({why})" for i, why in sorted(unreadable.items())[:10])
    raise DataError(
        f"{len(unreadable)} of {len(data.captures)} images cannot be read, more than {MAX_UNREADABLE:.0%}: {examples}; "
        "copy them again or take them out"
    )
