"""Cancelling a run, resuming it, and retrying captures that ended badly. Each is one transaction and one event."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select, update

from contract.errors import NoSuchRun, UsageError
from contract.states import CaptureState, CaseState, ChunkState, EventKind
from db.aggregation import judge_again, judge_look_alikes
from db.audit import note
from db.chunks import new_chunks
from db.clock import db_now
from db.columns import Life, columns_of
from db.engine import AnyRow, reading, slices, writing
from db.held import release_held
from db.mix_ups import earlier_cases, one_at_a_time, perhaps_freed, perhaps_in_conflict, take_turn
from db.models import Capture, Case, Chunk, Run
from db.opinions import signed
from db.runs import named_run
from db.superseding import supersede

RETRIED = (CaptureState.REJECTED, CaptureState.QUARANTINED)
_OPEN_CASE: dict[str, Any] = {"state": CaseState.OPEN, **dict.fromkeys(columns_of(Case, Life.OUTCOME))}
_PENDING_CAPTURE: dict[str, Any] = {
    "state": CaptureState.PENDING, "reused_from": None, **dict.fromkeys(columns_of(Capture, Life.OUTCOME)),
}  # fmt: skip
"""A copy that is tried again is a copy no longer: its result will be its own."""


@dataclass(frozen=True)
class Retried:
    """The numbers of captures and cases that are tried again, in new chunks. `reviewed` cases were not changed."""

    captures: int
    cases: int
    chunk_ids: list[int]
    reviewed: list[int]


def cancel(engine: Engine, run_id: int, *, actor: str) -> bool:
    """From now on no chunk of the run is handed out; False if it was cancelled before. Raises NoSuchRun.

    Workers finish and write the chunks that they already have, because that work is done anyway. Finished cases stay in
    the review queue, but replace no earlier ones any more: what those share with other patients counts again.
    """
    with writing(engine) as connection:
        _existing(connection, run_id)
        one_at_a_time(connection)
        changed = connection.execute(
            update(Run).where(Run.id == run_id, Run.cancelled_at.is_(None)).values(cancelled_at=db_now())
        ).rowcount
        if changed:
            note(connection, EventKind.CANCELLED, actor=actor, run_id=run_id)
            back = earlier_cases(connection, _finished(connection, run_id))
            judge_again(connection, perhaps_in_conflict(connection, back), in_conflict=False)
            judge_look_alikes(connection, _root(connection, run_id), actor=actor)
        return bool(changed)


def finished_cases(engine: Engine, run_id: int) -> int | None:
    """How many cases of a run have their result; None if the run is cancelled already. Raises NoSuchRun."""
    with reading(engine) as connection:
        if named_run(connection, run_id).cancelled_at is not None:
            return None
        finished = select(func.count()).where(Case.run_id == run_id, Case.state == CaseState.AGGREGATED)
        return connection.execute(finished).scalar_one()


def resume(engine: Engine, run_id: int, *, actor: str) -> list[int]:
    """Continue a cancelled run, and release the chunks of a run that are held; returns the ids of its pending chunks,
    to be published. Raises NoSuchRun.

    The cases that a cancelled run has finished take the place of earlier ones again.

    A run that was not cancelled works as well: the caller wants its chunks sent, and one more message does no harm.
    """
    with writing(engine) as connection:
        _existing(connection, run_id)
        changed = connection.execute(
            update(Run).where(Run.id == run_id, Run.cancelled_at.is_not(None)).values(cancelled_at=None)
        ).rowcount
        if changed:
            note(connection, EventKind.RESUMED, actor=actor, run_id=run_id)
            one_at_a_time(connection)
            freed: set[int] = set()
            for case_id in _finished(connection, run_id):
                supersede(connection, [case_id], cancelled=False)
                freed.update(perhaps_freed(connection, case_id))
            judge_again(connection, sorted(freed), in_conflict=True)
            judge_look_alikes(connection, _root(connection, run_id), actor=actor)
        release_held(connection, run_id, actor=actor)
        return list(
            connection.execute(
                select(Chunk.id).where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING).order_by(Chunk.id)
            ).scalars()
        )


def take_up(engine: Engine, run_id: int, *, actor: str) -> list[int]:
    """Forget why the pending chunks of a run were given back, because they are tried afresh, and release those that are
    held; returns their ids, to be published. From then on what a run's progress names as its trouble has happened
    since.
    """
    with writing(engine) as connection:
        release_held(connection, run_id, actor=actor)
        pending = update(Chunk).where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING)
        return sorted(connection.execute(pending.values(last_error=None).returning(Chunk.id)).scalars())


def retry(
    engine: Engine, run_id: int, *, states: Collection[CaptureState], case_id: int | None, chunk_size: int, actor: str
) -> Retried:
    """Put captures that ended in one of these states back to pending, and open their cases again.

    A case that a reviewer has confirmed or overridden does not change: the result that they saw must stay the same. The
    result that a case had stays in the event, and in the reporting queue until the new one replaces it.

    Raises NoSuchRun, and UsageError if the run is cancelled or has no such case.
    """
    with writing(engine) as connection:
        if _existing(connection, run_id).cancelled_at is not None:
            raise UsageError(f"run {run_id} is cancelled; `screen resume {run_id}` first")
        selected = (Case.run_id == run_id) if case_id is None else (Case.run_id == run_id) & (Case.id == case_id)
        locked = take_turn(connection, selected & Case.id.in_(_case_ids(run_id, states)))
        cases = [
            case
            for ids in slices(locked, 500)
            for case in connection.execute(
                select(Case.id, Case.verdict, Case.subtype, Case.score).where(Case.id.in_(ids)).order_by(Case.id)
            )
        ]
        if case_id is not None and not connection.execute(select(Case.id).where(selected)).first():
            raise UsageError(f"run {run_id} has no case {case_id}; `screen report {run_id}` lists its cases")
        reviewed = set(connection.execute(select(Case.id).where(selected, signed())).scalars())
        opened = [case for case in cases if case.id not in reviewed]
        captures: list[int] = []
        for ids in slices([case.id for case in opened], 500):
            connection.execute(update(Case).where(Case.id.in_(ids)).values(_OPEN_CASE))
            captures += connection.execute(
                update(Capture)
                .where(Capture.case_id.in_(ids), Capture.state.in_(states))
                .values(_PENDING_CAPTURE)
                .returning(Capture.id)
            ).scalars()
        # Until they have a result again, earlier cases of their patients are what there is.
        back = earlier_cases(connection, [case.id for case in opened])
        judge_again(connection, perhaps_in_conflict(connection, back), in_conflict=False)
        chunk_ids = new_chunks(connection, run_id, slices(sorted(captures), chunk_size))
        if captures:
            before = {str(case.id): [case.verdict, case.subtype, case.score] for case in opened}
            detail = {"captures": len(captures), "results_before": before}
            note(connection, EventKind.RETRIED, actor=actor, run_id=run_id, detail=detail)
        return Retried(len(captures), len(opened), chunk_ids, [case.id for case in cases if case.id in reviewed])


def _finished(connection: Connection, run_id: int) -> Sequence[int]:
    finished = select(Case.id).where(Case.run_id == run_id, Case.state == CaseState.AGGREGATED)
    return connection.execute(finished.order_by(Case.id)).scalars().all()


def _case_ids(run_id: int, states: Collection[CaptureState]) -> Select[int]:
    return select(Capture.case_id).where(Capture.run_id == run_id, Capture.state.in_(states))


def _root(connection: Connection, run_id: int) -> bytes:
    return bytes(connection.execute(select(Run.root).where(Run.id == run_id)).scalar_one())


def _existing(connection: Connection, run_id: int) -> AnyRow:
    # key_share: a transaction that has locked a case and queues its result refers to the run. It must not wait for this
    # lock while this transaction waits for its case.
    statement = select(Run.id, Run.cancelled_at).where(Run.id == run_id).with_for_update(key_share=True)
    run = connection.execute(statement).first()
    if run is None:
        raise NoSuchRun(run_id)
    return run
