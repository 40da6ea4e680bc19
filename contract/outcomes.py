"""What goes into the worker's pipeline and what comes out of it, in terms that the database layer stores."""

from dataclasses import dataclass

from contract.states import RejectCode


@dataclass(frozen=True, slots=True)
class CaptureRef:
    """A capture to screen: `path` is relative to the run's root; size and time are those at submit."""

    id: int
    path: bytes
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Screened:
    """What the engine said of one capture.

    `probabilities` follow the bundle's labels; `label` is the one with the highest, `probability` its value, `p_all`
    is 1 - P(benign label). `cam` is the activation map of `label`, float16 [h, w] row by row, h = w. `width` and
    `height` are those of the file in pixels.
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


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why one capture could not be screened. `sha256` is None where not even its bytes could be read."""

    capture_id: int
    code: RejectCode
    reason: str
    sha256: str | None


@dataclass(frozen=True)
class ChunkOutcome:
    """Every capture of a chunk is in exactly one of the two lists. `seconds`: where the time went."""

    screened: list[Screened]
    rejected: list[Rejected]
    engine: str
    seconds: dict[str, float]
