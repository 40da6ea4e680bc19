"""The lease that a worker holds while it screens a chunk, and the condition under which it may write."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement

from contract.outcomes import CaptureRef
from contract.states import ChunkState
from db.models import Chunk


@dataclass(frozen=True)
class Lease:
    """The right to screen one chunk until the lease is over. `token` proves it when the results are written."""

    chunk_id: int
    run_id: int
    token: str
    attempt: int
    root: bytes
    bundle_digest: str
    bundle_path: str
    captures: tuple[CaptureRef, ...]
    pseudonym_key: str | None = None
    """Fingerprint of the key whose pseudonyms replace the folders' names in `captures`; None if they are real names."""
    patient_depth: int = 1
    """How many names at the beginning of a path are the patient's folder."""
    deaths: int = 0
    """How many of the attempts ended with a process that was at no capture (db/held.py)."""


def held_by(lease: Lease) -> ColumnElement[bool]:
    """That the chunk still belongs to this lease: the condition of every write under the lease."""
    return (Chunk.id == lease.chunk_id) & (Chunk.state == ChunkState.LEASED) & (Chunk.lease_token == lease.token)
