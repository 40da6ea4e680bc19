"""What becomes of the chunks of a worker's process that has ended, and of a chunk that ends one process after another.

Whose fault was it? What a process was at tells: captures that it was reading, decoding or inferring are suspects, and
each is screened alone from then on. If there are none, a chunk that it was claiming or finishing may be the cause, but
none of its captures: such a death is counted at the chunk, and after too many of them it is held. Nobody claims it, the
run goes on with its other chunks, and a person releases it.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, or_, select, update

from contract.states import CaptureState, ChunkState, EventKind
from db.audit import WORKER, note
from db.chunks import BACK_TO_PENDING, new_chunks
from db.engine import AnyRow, writing
from db.models import Capture, Chunk


def give_back_of(
    engine: Engine,
    worker: str,
    suspects: Collection[int],
    *,
    reason: str,
    max_deaths: int,
    at: Collection[int] = (),
    blame: bool = True,
    show: bool = False,
) -> list[int]:
    """Give back every chunk of a worker process that has ended; returns the ids of the chunks that wait now.

    `suspects` are the captures that the process was reading, decoding or inferring when it ended. Each of them gets its
    own chunk, which keeps the attempts counted so far, and is screened alone from then on: so the next attempt finds
    the guilty one, and the others of its chunk are free of it.

    `at` are the chunks that it was claiming or finishing at that moment; what it had of their captures was in hand, so
    none of these is a suspect. If there are any, nobody can tell these chunks' fault from that of a suspect in another
    chunk, so no capture is set apart: each of these chunks counts the attempt and is screened alone, which tells.

    A chunk that the process was at, or each one if it was at nothing at all, counts a death. After `max_deaths` deaths
    it is held. `blame=False`: the process had not opened its engine, or its surroundings ended it, so no chunk without
    a suspect counts anything. With `show`, the reason of such a chunk is shown to people who watch the run.
    """
    with writing(engine) as connection:
        chunks = connection.execute(
            select(Chunk.id, Chunk.run_id, Chunk.attempts, Chunk.deaths, Chunk.state, Chunk.captures)
            .where(or_(and_(Chunk.state == ChunkState.LEASED, Chunk.worker == worker), _unclaimed(at)))
            .order_by(Chunk.id)
            .with_for_update()
        ).all()
        given_back: list[int] = []
        idle = not suspects and not at
        for chunk in chunks:
            suspected, innocent = _pending(connection, chunk.id, suspects if chunk.id not in at else ())
            if blame and (chunk.id in at or idle):
                given_back += _count_death(connection, chunk, reason, max_deaths)
            elif suspected and (at or (not innocent and len(suspected) == 1)):
                connection.execute(
                    update(Chunk).where(Chunk.id == chunk.id).values(last_error=reason, **BACK_TO_PENDING)
                )
                given_back.append(chunk.id)
            elif suspected:
                given_back += _set_apart(connection, chunk, suspected, innocent, reason)
            else:
                values = {"attempts": Chunk.attempts - 1, **BACK_TO_PENDING, **({"last_error": reason} if show else {})}
                connection.execute(update(Chunk).where(Chunk.id == chunk.id).values(values))
                given_back.append(chunk.id)
        return given_back


def _unclaimed(at: Collection[int]) -> ColumnElement[bool]:
    """A process that ends while it claims may leave no lease behind."""
    return and_(Chunk.id.in_(at), Chunk.state == ChunkState.PENDING)


def _pending(connection: Connection, chunk_id: int, suspects: Collection[int]) -> tuple[list[int], list[int]]:
    """The chunk's pending captures: those that are suspects, and all others."""
    captures = connection.execute(
        select(Capture.id)
        .where(Capture.chunk_id == chunk_id, Capture.state == CaptureState.PENDING)
        .order_by(Capture.id)
    ).scalars()
    suspected: list[int] = []
    innocent: list[int] = []
    for capture in captures:
        (suspected if capture in suspects else innocent).append(capture)
    return suspected, innocent


def _count_death(connection: Connection, chunk: AnyRow, reason: str, max_deaths: int) -> list[int]:
    """Count a death at a chunk, and hold it after `max_deaths`; returns its id if it waits for a worker."""
    deaths = chunk.deaths + 1
    attempts = max(chunk.attempts, deaths)  # the attempt itself was not written if it was still being claimed
    values = {**BACK_TO_PENDING, "attempts": attempts, "deaths": deaths, "last_error": reason}
    if deaths < max_deaths:
        connection.execute(update(Chunk).where(Chunk.id == chunk.id).values(values))
        return [chunk.id]
    connection.execute(update(Chunk).where(Chunk.id == chunk.id).values({**values, "state": ChunkState.HELD}))
    detail = {"chunk": chunk.id, "captures": chunk.captures, "deaths": deaths, "reason": reason}
    note(connection, EventKind.HELD, actor=WORKER, run_id=chunk.run_id, detail=detail)
    return []


def _set_apart(
    connection: Connection, chunk: AnyRow, suspected: list[int], innocent: list[int], reason: str
) -> list[int]:
    """Put each suspect into its own chunk, and give the chunk back with the others, without counting its attempt."""
    alone = new_chunks(
        connection, chunk.run_id, [[capture] for capture in suspected], attempts=chunk.attempts - chunk.deaths,
        last_error=reason,
    )  # fmt: skip
    detail = {"chunk": chunk.id, "alone": alone, "reason": reason}
    note(connection, EventKind.SET_APART, actor=WORKER, run_id=chunk.run_id, detail=detail)
    if not innocent:
        connection.execute(delete(Chunk).where(Chunk.id == chunk.id))
        return alone
    values = {**BACK_TO_PENDING, "attempts": Chunk.attempts - 1, "captures": len(innocent)}
    connection.execute(update(Chunk).where(Chunk.id == chunk.id).values(values))
    return [chunk.id, *alone]


def release_held(connection: Connection, run_id: int, *, actor: str) -> int:
    """Let workers claim the held chunks of a run again, as if they had never been tried; returns how many there were.

    They are not sent: the caller does that, or a sweeper.
    """
    released = connection.execute(
        update(Chunk)
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.HELD)
        .values({**BACK_TO_PENDING, "attempts": 0, "deaths": 0, "last_error": None})
        .returning(Chunk.id)
    ).scalars()
    chunks = sorted(released)
    if chunks:
        note(connection, EventKind.RELEASED, actor=actor, run_id=run_id, detail={"chunks": chunks})
    return len(chunks)
