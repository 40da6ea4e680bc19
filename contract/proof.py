"""What every engine must reproduce before it serves. The bundle stores it from the exported float32 graph.

The golden captures are few: whole files, with every output of the graph. The hidden captures are a few hundred
validation captures, enough to see a small share of decisions change. They are small JPEG of the network's input size,
without names, and all expectations are computed from these JPEG.

    golden/expected.npz   embedding [N, D], cam [N, L, h, w] if any; float32
    proof.npz             jpeg uint8 [bytes of all captures], ends int64 [N], probabilities float32 [N, L],
                          novelty float32 [N] if any, excluded bool [N]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from contract.arrays import read_arrays
from contract.bundle import EXPECTED_ARRAYS, Bundle
from contract.decisions import Decision
from contract.errors import BundleError
from contract.imaging import RGBImage
from contract.names import one_line

FILE = "proof.npz"
MOST_HIDDEN = 4096
"""The trainer writes a few hundred."""


@dataclass(frozen=True)
class Expected:
    """What the float32 graph answers for N captures, and the decisions from it. None: the bundle does not say."""

    probabilities: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None
    excluded: NDArray[np.bool_] | None = None
    embedding: NDArray[np.float32] | None = None
    cam: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        probabilities: NDArray[Any],
        embedding: NDArray[np.float32],
        cam: NDArray[np.float32] | None,
        decisions: Sequence[Decision],
    ) -> "Expected":
        """Expect these answers, and the decisions made from them."""
        novelty = [decision.novelty for decision in decisions]
        return cls(
            probabilities.astype(np.float32),
            None if None in novelty else np.asarray(novelty, np.float32),
            np.asarray([decision.excluded for decision in decisions], bool),
            embedding,
            cam,
        )

    @property
    def decided(self) -> bool:
        """Whether more than probabilities is expected."""
        return self.excluded is not None


@dataclass(frozen=True)
class Hidden:
    """The hidden captures, uint8 [N, S, S, 3], and what is expected for them."""

    captures: RGBImage
    expected: Expected


def golden_expected(bundle: Bundle) -> Expected:
    """What is expected for the golden captures; in an older bundle only probabilities. Raises BundleError."""
    captures = bundle.golden_set().captures
    probabilities = np.asarray([capture.probabilities for capture in captures], np.float32)
    if any(capture.marks is None for capture in captures):
        return Expected(probabilities)
    novelty = [capture.novelty for capture in captures]
    excludes = bundle.manifest.case_policy.excludes
    try:
        arrays = read_arrays(bundle.read(EXPECTED_ARRAYS))
        return Expected(
            probabilities,
            None if None in novelty else np.asarray(novelty, np.float32),
            np.asarray([bool(excludes(capture.marks or ())) for capture in captures]),
            arrays["embedding"],
            arrays.get("cam"),
        )
    except (ValueError, KeyError) as error:
        raise _unreadable(bundle, EXPECTED_ARRAYS, error) from error


def read_hidden(bundle: Bundle) -> Hidden | None:
    """The hidden captures; None in a bundle that has none. Raises BundleError."""
    if FILE not in bundle.contents:
        return None
    try:
        return open_hidden(bundle.read(FILE), bundle.manifest.image.size)
    except (ValueError, KeyError) as error:
        raise _unreadable(bundle, FILE, error) from error


def open_hidden(data: bytes, size: int) -> Hidden:
    """Read what `write_hidden` wrote: captures of `size` pixels a side. Raises ValueError or KeyError for others."""
    arrays = read_arrays(data)
    ends, count = arrays["ends"], len(arrays["ends"])
    of_each = [arrays[name] for name in ("probabilities", "novelty", "excluded") if name != "novelty" or name in arrays]
    if not 0 < count <= MOST_HIDDEN or any(len(values) != count for values in of_each):
        raise ValueError(f"it holds {count} captures, and other numbers of answers; at most {MOST_HIDDEN} are read")
    if not all(np.isfinite(values).all() for values in of_each):
        raise ValueError("an answer is not a number")
    expected = Expected(arrays["probabilities"], arrays.get("novelty"), arrays["excluded"])
    return Hidden(decoded(arrays["jpeg"], ends, size), expected)


def write_hidden(file: Path, encoded: Sequence[bytes], expected: Expected) -> None:
    """Write proof.npz: captures as JPEG, and what is expected for them."""
    assert expected.excluded is not None
    novelty = {} if expected.novelty is None else {"novelty": expected.novelty.astype(np.float32)}
    np.savez(
        file,
        allow_pickle=False,
        jpeg=np.frombuffer(b"".join(encoded), np.uint8),
        ends=np.cumsum([len(jpeg) for jpeg in encoded], dtype=np.int64),
        probabilities=expected.probabilities.astype(np.float32),
        excluded=expected.excluded,
        **novelty,
    )


def decoded(jpeg: NDArray[np.uint8], ends: NDArray[np.int64], size: int) -> RGBImage:
    """Decode captures of `size` pixels a side from their concatenated JPEG. Raises ValueError if they are others."""
    captures = []
    for part in np.split(jpeg, ends[:-1]):
        content = part.tobytes()
        if simplejpeg.decode_jpeg_header(content)[:2] != (size, size):  # before it takes the memory for its pixels
            raise ValueError(f"a hidden capture does not have {size} x {size} pixels")
        captures.append(simplejpeg.decode_jpeg(content, "RGB", strict=True))
    return np.stack(captures)


def _unreadable(bundle: Bundle, file: str, problem: object) -> BundleError:
    return BundleError(f"bundle {bundle.path}: {file} cannot be read ({one_line(problem)}); export the bundle again")
