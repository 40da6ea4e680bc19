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
from zipfile import BadZipFile

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from contract.bundle import EXPECTED_ARRAYS, Bundle
from contract.decisions import Decision
from contract.errors import BundleError
from contract.imaging import RGBImage

FILE = "proof.npz"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, BadZipFile)


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
        with np.load(bundle.path / EXPECTED_ARRAYS, allow_pickle=False) as arrays:
            return Expected(
                probabilities,
                None if None in novelty else np.asarray(novelty, np.float32),
                np.asarray([bool(excludes(capture.marks or ())) for capture in captures]),
                arrays["embedding"],
                arrays.get("cam"),
            )
    except _UNREADABLE as error:
        raise _unreadable(bundle, EXPECTED_ARRAYS, error) from error


def read_hidden(bundle: Bundle) -> Hidden | None:
    """The hidden captures; None in a bundle that has none. Raises BundleError."""
    if FILE not in bundle.manifest.files:
        return None
    size = bundle.manifest.image.size
    try:
        hidden = open_hidden(bundle.path / FILE)
    except _UNREADABLE as error:
        raise _unreadable(bundle, FILE, error) from error
    shape = hidden.captures.shape
    if shape != (len(hidden.expected.probabilities), size, size, 3):
        raise _unreadable(bundle, FILE, f"it holds captures {shape}")
    return hidden


def open_hidden(file: Path) -> Hidden:
    """Read what `write_hidden` wrote. Raises one of _UNREADABLE if the file is something else."""
    with np.load(file, allow_pickle=False) as arrays:
        expected = Expected(arrays["probabilities"], arrays.get("novelty"), arrays["excluded"])
        return Hidden(decoded(arrays["jpeg"], arrays["ends"]), expected)


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


def decoded(jpeg: NDArray[np.uint8], ends: NDArray[np.int64]) -> RGBImage:
    """Decode captures of one size from their concatenated JPEG. Raises ValueError if they cannot be decoded."""
    parts = np.split(jpeg, ends[:-1])
    return np.stack([simplejpeg.decode_jpeg(part.tobytes(), "RGB", strict=True) for part in parts])


def _unreadable(bundle: Bundle, file: str, problem: object) -> BundleError:
    return BundleError(f"bundle {bundle.path}: {file} cannot be read ({problem}); export the bundle again")
