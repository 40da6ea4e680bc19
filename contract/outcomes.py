"""What goes into the worker's pipeline and what comes out of it, in the form that the database layer stores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from contract.states import MarkCode, RejectCode

MOST_CELLS = 64
"""Of no capture more nucleated cells are counted or kept than this: then it has at least as many."""


@dataclass(frozen=True, slots=True)
class CaptureRef:
    """A capture to screen: `path` is relative to the run's root; size and time are from the submit."""

    id: int
    path: bytes
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class ScreenedFile:
    """Which bytes were screened: the capture's path, relative to the run's root, its size, and their sha256 (None where
    an earlier release did not store it).
    """

    path: bytes
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A remarkable property of a screened capture: a code for machines, a sentence for people."""

    code: MarkCode
    sentence: str

    @classmethod
    def stored(cls, record: Mapping[str, str]) -> "Mark":
        """A mark as a capture's row has it."""
        return cls(MarkCode(record["code"]), record["sentence"])


@dataclass(frozen=True, slots=True)
class Screened:
    """What the engine said about one capture.

    `probabilities` are in the order of the bundle's labels; `label` is the one with the highest, `probability` its
    value, `p_all` is 1 - P(benign label). `cam` is the activation map of `label`, float16 [h, w] row by row, h = w.
    `width` and `height` are those of the file in pixels. `quality` holds its measures, `marks` what is remarkable about
    it, and `excluded` says whether the marks keep it out of its case's result. `novelty` is None if the bundle has no
    reference. `nucleated_cells` is how many nucleated cells it has, at most MOST_CELLS, and `cells` are these
    with what the activation map says at each (contract.cells.pack); both are None where nobody looked for cells.
    """

    capture_id: int
    sha256: str
    label: str
    probability: float
    p_all: float
    probabilities: list[float]
    cam: bytes | None
    width: int
    height: int
    quality: dict[str, float] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    novelty: float | None = None
    excluded: bool = False
    nucleated_cells: int | None = None
    cells: bytes | None = None
    camera: str | None = None
    captured_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why one capture could not be screened. `sha256` is None if even its bytes could not be read."""

    capture_id: int
    code: RejectCode
    reason: str
    sha256: str | None


@dataclass(frozen=True)
class ChunkOutcome:
    """Every capture of a chunk is in exactly one of the three lists. `seconds` is the time that each step took.

    `put_off` has the ids of captures that are tried again later, because what surrounds them is at fault;
    `put_off_reason` says what, and names no patient.
    """

    screened: list[Screened]
    rejected: list[Rejected]
    engine: str
    seconds: dict[str, float]
    put_off: list[int] = field(default_factory=list)
    put_off_reason: str | None = None
