"""Runs in the database without files: for tests of what the database layer does."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Engine, select

from contract.archive import FoundCapture, PatientWithoutCaptures
from contract.bundle import Bundle
from contract.outcomes import ChunkOutcome, Rejected, Screened
from contract.states import NoCaptures, RejectCode
from db.chunks import claim
from db.engine import reading
from db.lease import Lease
from db.models import Case, Chunk
from db.submission import Submission, submit
from db.submit_plan import SubmitRequest


def found(patient: str, *names: str, size: int = 100, modified: int = 1) -> list[FoundCapture]:
    return [FoundCapture(f"{patient}/{name}".encode(), patient.encode(), size, modified) for name in names]


def without(patient: str, code: NoCaptures = NoCaptures.EMPTY) -> PatientWithoutCaptures:
    return PatientWithoutCaptures(patient.encode(), code, f"its folder is {code}")


def request(
    bundle: Bundle,
    captures: Iterable[FoundCapture],
    *,
    chunk_size: int = 4,
    everything: bool = False,
    root: bytes = b"/a",
    absent: Sequence[PatientWithoutCaptures] = (),
    **more: Any,
) -> SubmitRequest:
    """A request for these captures, with `absent` patients; `more` are other fields of it."""
    in_order = sorted(captures, key=lambda one: one.path)
    return SubmitRequest(root, bundle, in_order, {}, chunk_size, "test", everything, without_captures=absent, **more)


def submitted(database: Engine, bundle: Bundle, patients: int, captures: int, *, chunk_size: int = 4) -> Submission:
    files = [one for p in range(patients) for one in found(f"P{p:03d}", *(f"{c:03d}.jpg" for c in range(captures)))]
    return submit(database, request(bundle, files, chunk_size=chunk_size))


def claimed(database: Engine, chunk_id: int, *, worker: str = "w1", lease_seconds: float = 60) -> Lease:
    lease = claim(database, chunk_id, worker=worker, lease_seconds=lease_seconds, max_attempts=3)
    assert lease is not None
    return lease


def digest(path: bytes) -> str:
    """What stands for the digest of a file that is not there: no two files have the same."""
    return sha256(path).hexdigest()


def outcome(lease: Lease, p_all: float = 0.9, *, rejected: int = 0) -> ChunkOutcome:
    """The first `rejected` captures of the lease are rejected, the others screened as Pro with this P(ALL)."""
    probabilities = [1 - p_all, 0.0, 0.0, p_all]
    bad, good = lease.captures[:rejected], lease.captures[rejected:]
    return ChunkOutcome(
        [Screened(one.id, digest(one.path), "Pro", p_all, p_all, probabilities, None, 96, 80) for one in good],
        [Rejected(one.id, RejectCode.TRUNCATED, "the file ends before its image does", None) for one in bad],
        "test/float32",
        {"total": 0.0},
    )  # fmt: skip


def states(database: Engine, model: type[Chunk] | type[Case]) -> dict[int, str]:
    with reading(database) as connection:
        return dict(connection.execute(select(model.id, model.state)).all())
