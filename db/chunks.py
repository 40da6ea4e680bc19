"""How chunks change hands: claimed with a lease, kept by heartbeats, given back, swept up, halved, quarantined. What
becomes of the chunks of a process that has ended is in db/held.py.

The state and the clock of the database decide; a message only says where to look. Every statement depends on what the
row holds, so messages may be lost, duplicated or late.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, update

from contract.errors import LeaseLost
from contract.outcomes import CaptureRef
from contract.states import CaptureState, ChunkState, EventKind
from db.aggregation import aggregate_finished_cases, lock_cases
from db.audit import WORKER, note
from db.clock import db_now, shorten
from db.columns import Life, columns_of
from db.engine import reading, slices, writing
from db.incarnation import is_incarnation
from db.lease import Lease, held_by
from db.models import BundleRow, Capture, Chunk, Run
from db.schema import is_of_this_release, refuse_other

HOPELESS = "; trying again does not help"
"""The end of the reason for which a chunk was given back, where only a person can mend it. Programs read it too."""
BACK_TO_PENDING: dict[str, Any] = {"state": ChunkState.PENDING, **dict.fromkeys(columns_of(Chunk, Life.LEASE))}
"""The columns of a chunk that nobody has any more."""


def claim(
    engine: Engine, chunk_id: int, *, worker: str, lease_seconds: float, max_attempts: int,
    incarnation: str | None = None,
) -> Lease | None:  # fmt: skip
    """Lease a chunk if it is pending or its lease is over; None if there is nothing to do, or if the database is not
    of this `incarnation` (None: any).

    The attempt is counted and committed before the first byte is decoded, so the attempt counts even if a capture kills
    the worker. A chunk with too many attempts is halved instead; a single capture is quarantined. Attempts that are
    known to have ended without a capture in work (`deaths`) do not tell against its captures.

    Raises DatabaseVersionError, and claims nothing, if the database has been upgraded since this process started.
    """
    with writing(engine) as connection:
        lease = _lease(connection, _claimable(chunk_id, incarnation), worker, lease_seconds)
        if lease is not None and lease.attempt - lease.deaths > max_attempts:
            _give_up(connection, chunk_id, lease.run_id, attempts=lease.attempt - lease.deaths - 1)
            return None
        return lease


def claim_ahead(engine: Engine, bundle_digest: str, *, worker: str, lease_seconds: float) -> Lease | None:
    """Lease the next chunk for this bundle that has never been tried or given back, if there is one.

    No other chunk: one that ended its worker is screened alone from then on, so that no other chunk is blamed; one that
    was given back (for example because its archive is out of reach) waits for its next message.

    Raises DatabaseVersionError as `claim` does.
    """
    waiting = (
        select(Chunk.id)
        .join(Run, Run.id == Chunk.run_id)
        .where(Chunk.state == ChunkState.PENDING, Chunk.lease_until.is_(None))  # in the order of an index
        .where(Chunk.attempts == 0, Chunk.last_error.is_(None))
        .where(Run.bundle_digest == bundle_digest, Run.cancelled_at.is_(None))
        .order_by(Chunk.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Chunk)
    )
    with writing(engine) as connection:
        return _lease(connection, Chunk.id == waiting.scalar_subquery(), worker, lease_seconds)


def attempts_so_far(engine: Engine, chunk_id: int, incarnation: str | None = None) -> int | None:
    """How often a chunk was claimed before; None if there is nothing to claim. Raises DatabaseVersionError. Both as for
    `claim`.
    """
    with reading(engine) as connection:
        refuse_other(connection)
        return connection.execute(select(Chunk.attempts).where(_claimable(chunk_id, incarnation))).scalar()


def _lease(connection: Connection, condition: ColumnElement[bool], worker: str, lease_seconds: float) -> Lease | None:
    """Lease one chunk of a run that is not cancelled. Raises DatabaseVersionError.

    The statement that leases asks for the schema itself: on PostgreSQL it may have waited for the end of an upgrade.
    """
    token = secrets.token_hex(16)
    row = connection.execute(
        update(Chunk)
        .where(condition, is_of_this_release(), Chunk.run_id.in_(select(Run.id).where(Run.cancelled_at.is_(None))))
        .values(
            state=ChunkState.LEASED,
            lease_token=token,
            lease_until=db_now(lease_seconds),
            lease_seconds=lease_seconds,
            attempts=Chunk.attempts + 1,
            worker=worker,
        )
        .returning(Chunk.id, Chunk.run_id, Chunk.attempts, Chunk.deaths)
    ).one_or_none()
    if row is None:
        refuse_other(connection)
        return None
    run = connection.execute(
        select(Run.root, Run.bundle_digest, Run.pseudonym_key, Run.patient_depth, BundleRow.path)
        .join(BundleRow, BundleRow.digest == Run.bundle_digest)
        .where(Run.id == row.run_id)
    ).one()
    captures = connection.execute(
        select(Capture.id, Capture.path, Capture.size_bytes, Capture.modified_ns)
        .where(Capture.chunk_id == row.id, Capture.state == CaptureState.PENDING)
        .order_by(Capture.id)
    )
    return Lease(
        row.id, row.run_id, token, row.attempts, run.root, run.bundle_digest, run.path,
        tuple(CaptureRef(*capture) for capture in captures), run.pseudonym_key, run.patient_depth, row.deaths,
    )  # fmt: skip


def heartbeat(engine: Engine, lease: Lease, lease_seconds: float) -> None:
    """Extend the lease. Raises LeaseLost if the chunk now belongs to another worker."""
    with writing(engine) as connection:
        extended = connection.execute(
            update(Chunk).where(held_by(lease)).values(lease_until=db_now(lease_seconds), lease_seconds=lease_seconds)
        ).rowcount
    if not extended:
        raise LeaseLost(f"chunk {lease.chunk_id} was leased to another worker")


def release(engine: Engine, lease: Lease, *, reason: str | None, count_attempt: bool) -> None:
    """Give a chunk back unfinished; the sweeper sends it again. Does nothing if another worker had the chunk since.

    `reason` is shown to people who watch the run; it names no patient and no capture. None: there was no trouble.
    `count_attempt=False` if the chunk is not to blame (its archive is out of reach, or the worker must stop).
    """
    attempts = Chunk.attempts if count_attempt else Chunk.attempts - 1
    with writing(engine) as connection:
        given_back = connection.execute(
            update(Chunk).where(held_by(lease)).values(attempts=attempts, last_error=reason, **BACK_TO_PENDING)
        ).rowcount
        if not given_back and not count_attempt:  # its lease was over before, and nobody has claimed it since
            waits = (Chunk.id == lease.chunk_id) & (Chunk.state == ChunkState.PENDING)
            connection.execute(
                update(Chunk).where(waits, Chunk.attempts == lease.attempt).values(attempts=attempts, last_error=reason)
            )


def mark_published(engine: Engine, chunk_ids: Sequence[int]) -> None:
    """Note that the broker took the messages of these chunks, so the sweeper does not send them at once."""
    with writing(engine) as connection:
        for ids in slices(chunk_ids, 500):
            connection.execute(update(Chunk).where(Chunk.id.in_(ids)).values(published_at=db_now()))


def sweep(engine: Engine, *, waiting_messages: int, republish_seconds: float) -> list[int]:
    """Find chunks that need a message, and return their ids for publishing after this commit.

    These are: chunks that were never published or were given back; chunks whose lease is over; and, if fewer messages
    wait in Redis (`waiting_messages`) than chunks are pending, pending chunks whose message is older than
    `republish_seconds`. The comparison with Redis prevents that a long queue is sent again and again. Two sweepers at
    once are harmless: a chunk that one has taken is newly published for the other.

    If the database's clock has stepped back, leases and messages lie in the future. So a lease that ends later than its
    own length from now is cut to that: a living worker keeps it by its heartbeats, and a dead one's ends as soon as any
    does. A message of the future counts as never sent.
    """
    with writing(engine) as connection:
        shorten(connection, Chunk.lease_until, Chunk.lease_seconds, Chunk.state == ChunkState.LEASED)
        connection.execute(
            update(Chunk)
            .where(Chunk.state == ChunkState.LEASED, Chunk.lease_until < db_now())
            .values(**BACK_TO_PENDING)
        )
        live = Chunk.run_id.in_(select(Run.id).where(Run.cancelled_at.is_(None)))
        pending = connection.execute(
            select(func.count()).select_from(Chunk).where(Chunk.state == ChunkState.PENDING, live)
        ).scalar_one()
        due: ColumnElement[bool] = Chunk.published_at.is_(None) | (Chunk.published_at > db_now())
        if waiting_messages < pending:
            due = due | (Chunk.published_at < db_now(-republish_seconds))
        return list(
            connection.execute(
                update(Chunk)
                .where(Chunk.state == ChunkState.PENDING, live, due)
                .values(published_at=db_now())
                .returning(Chunk.id)
            ).scalars()
        )


def _claimable(chunk_id: int, incarnation: str | None) -> ColumnElement[bool]:
    lease_is_over = (Chunk.state == ChunkState.LEASED) & (Chunk.lease_until < db_now())
    claimable = (Chunk.id == chunk_id) & ((Chunk.state == ChunkState.PENDING) | lease_is_over)
    return claimable if incarnation is None else claimable & is_incarnation(incarnation)


def _give_up(connection: Connection, chunk_id: int, run_id: int, *, attempts: int) -> None:
    """Halve a chunk that failed `attempts` times, until the guilty capture is alone; quarantine a single capture."""
    lock_cases(connection, chunk_id)
    rows = connection.execute(
        select(Capture.id, Capture.case_id).where(Capture.chunk_id == chunk_id).order_by(Capture.id)
    ).all()
    if len(rows) > 1:
        _halve(connection, chunk_id, run_id, [row.id for row in rows], attempts)
        return
    last_error = connection.execute(select(Chunk.last_error).where(Chunk.id == chunk_id)).scalar()
    reason = f"{attempts} attempts to screen it ended without a result"
    if last_error:
        reason += f"; the last: {last_error}"
    connection.execute(
        update(Capture)
        .where(Capture.chunk_id == chunk_id, Capture.state == CaptureState.PENDING)
        .values(state=CaptureState.QUARANTINED, reason=reason, ended_at=db_now())
    )
    connection.execute(
        update(Chunk)
        .where(Chunk.id == chunk_id)
        .values({**BACK_TO_PENDING, "state": ChunkState.DONE, "done_at": db_now()})
    )
    for row in rows:
        note(
            connection, EventKind.QUARANTINED, actor=WORKER, run_id=run_id, case_id=row.case_id, capture_id=row.id,
            detail={"attempts": attempts},
        )  # fmt: skip
    aggregate_finished_cases(connection, [row.case_id for row in rows])


def _halve(connection: Connection, chunk_id: int, run_id: int, capture_ids: list[int], attempts: int) -> None:
    middle = len(capture_ids) // 2
    new_ids = new_chunks(connection, run_id, [capture_ids[:middle], capture_ids[middle:]])
    connection.execute(delete(Chunk).where(Chunk.id == chunk_id))
    detail = {"chunk": chunk_id, "halves": new_ids, "attempts": attempts}
    note(connection, EventKind.HALVED, actor=WORKER, run_id=run_id, detail=detail)


def new_chunks(connection: Connection, run_id: int, captures: Sequence[Sequence[int]], **values: Any) -> list[int]:
    """Put captures of a run into new chunks, one for each list of ids; returns the chunks' ids.

    `values` are the chunks' columns.
    """
    if not captures:
        return []
    new_ids = list(
        connection.execute(
            insert(Chunk).returning(Chunk.id, sort_by_parameter_order=True),
            [{"run_id": run_id, "captures": len(ids), **values} for ids in captures],
        ).scalars()
    )
    for new_id, ids in zip(new_ids, captures, strict=True):
        for batch in slices(ids, 500):
            connection.execute(update(Capture).where(Capture.id.in_(batch)).values(chunk_id=new_id))
    return new_ids
