"""Finishes a chunk: one transaction writes its captures, marks it done, and writes the result and the row in the
reporting queue of every case that is now complete, exactly once.

If the same capture, byte for byte, is under two patients, both their cases say so, whichever is finished first: the
transaction that writes the second one corrects the result of the first.
"""

from dataclasses import asdict, fields

from sqlalchemy import Connection, Engine, update

from contract.errors import LeaseLost
from contract.outcomes import ChunkOutcome, Screened
from contract.states import CaptureState, ChunkState
from db.aggregation import aggregate_finished_cases, judge_again, lock_cases
from db.chunks import new_chunks
from db.clock import db_now
from db.engine import writing
from db.lease import Lease, held_by
from db.many import update_many
from db.mix_ups import other_sides, under_several_patients
from db.models import Capture, Chunk
from db.schema import is_of_this_release, refuse_other


def finish_chunk(engine: Engine, lease: Lease, outcome: ChunkOutcome) -> None:
    """Write a chunk's outcome. Every capture of the lease must be in exactly one of the three lists.

    Captures that are put off get a chunk of their own, which the sweeper sends; no attempt is counted for it.

    Raises LeaseLost, and writes nothing, if the chunk now belongs to another worker. It is safe to run again if the
    answer to the commit was lost: then the chunk is done, and LeaseLost is raised.

    Raises DatabaseVersionError, and writes nothing, if the database has been upgraded since this process started:
    columns that it does not know would stay empty.
    """
    ended = [screened.capture_id for screened in outcome.screened]
    ended += [rejected.capture_id for rejected in outcome.rejected]
    ended += outcome.put_off
    if sorted(ended) != sorted(capture.id for capture in lease.captures):
        raise AssertionError(f"chunk {lease.chunk_id}: {len(ended)} outcomes for {len(lease.captures)} captures")
    with writing(engine) as connection:
        case_ids = lock_cases(connection, lease.chunk_id)
        done = connection.execute(
            update(Chunk)
            .where(held_by(lease), is_of_this_release())
            .values(
                state=ChunkState.DONE,
                lease_token=None,
                lease_until=None,
                done_at=db_now(),
                seconds=outcome.seconds,
                captures=len(lease.captures) - len(outcome.put_off),
            )
        ).rowcount
        if not done:
            refuse_other(connection)
            raise LeaseLost(f"chunk {lease.chunk_id} is no longer this worker's; its result is not written")
        if outcome.put_off:
            new_chunks(connection, lease.run_id, [outcome.put_off], last_error=outcome.put_off_reason)
        _write_captures(connection, outcome)
        aggregate_finished_cases(connection, case_ids)
        if shared := under_several_patients(connection, [capture.sha256 for capture in outcome.screened]):
            judge_again(connection, other_sides(connection, lease.chunk_id, shared), in_conflict=False)


_SCREENED = tuple(field.name for field in fields(Screened) if field.name != "capture_id")
"""The fields of a worker's result have the names of the columns that store them."""
_REJECTED = {"sha256": "sha256", "reject_code": "code", "reason": "reason"}


def _write_captures(connection: Connection, outcome: ChunkOutcome) -> None:
    screened = [
        {name: getattr(capture, name) for name in _SCREENED}
        | {"id": capture.capture_id, "marks": [asdict(mark) for mark in capture.marks]}
        for capture in outcome.screened
    ]
    rejected = [
        {column: getattr(capture, name) for column, name in _REJECTED.items()} | {"id": capture.capture_id}
        for capture in outcome.rejected
    ]
    ended = {"ended_at": db_now()}
    is_pending = Capture.state == CaptureState.PENDING
    update_many(connection, Capture, screened, is_pending, state=CaptureState.SCREENED, engine=outcome.engine, **ended)
    update_many(connection, Capture, rejected, is_pending, state=CaptureState.REJECTED, **ended)
