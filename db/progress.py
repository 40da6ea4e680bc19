"""Where runs stand: what `screen status` and `screen watch` read. Every function is one short reading transaction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Integer, RowMapping, Text, column, func, select, table
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from contract.errors import NoSuchRun, UsageError
from contract.states import CaptureState, CaseState, ChunkState
from db.chunks import HOPELESS
from db.clock import UTCDateTime, db_now
from db.engine import AnyRow, reading
from db.models import Capture, Case, Chunk, Run


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `recent_per_s` is the rate of the last minute, by the database's clock."""

    submitted: int
    screened: int
    rejected: int
    quarantined: int
    cases: int
    cases_finished: int
    cases_with_captures: int
    patients: int | None
    """Patients of the archive at submit; None for a run of an earlier release, which did not count them."""
    patients_unchanged: int | None
    patients_without_captures: int
    chunks_leased: int
    recent_per_s: float
    cancelled: bool
    trouble: str | None
    """Why a chunk that is pending now was given back; None if there is no such chunk."""
    held: int = 0
    """Pending captures in chunks that are held (db/held.py)."""
    held_reason: str | None = None
    """How the last worker ended that had one of these chunks."""
    only_held: bool = False
    """Whether no chunk is left that a worker could claim, and some are held: the run is not finished, and waits for a
    person.
    """

    @property
    def ended(self) -> int:
        return self.screened + self.rejected + self.quarantined

    @property
    def finished(self) -> bool:
        return self.cases_finished == self.cases

    @property
    def some_ended_badly(self) -> bool:
        """Whether captures were not screened, or patients have none."""
        return bool(self.rejected or self.quarantined or self.patients_without_captures)

    def held_sentence(self, run_id: int) -> str | None:
        """What a person must know of the held captures of this run, and do; None if there are none."""
        if not self.held:
            return None
        return (
            f"{self.held} captures are held: worker after worker ended while it claimed or finished their chunk, and "
            f"was at none of its captures (the last: {self.held_reason}). The worker's log and the system's say more; "
            f"`screen resume {run_id}`, or the same `screen run`, tries them again"
        )

    @property
    def ended_or_held(self) -> bool:
        """Whether nothing goes on any more, whatever one waits for."""
        return self.finished or self.cancelled or self.only_held

    @property
    def hopeless(self) -> bool:
        """Whether the trouble stays until a person has mended its cause."""
        return self.trouble is not None and self.trouble.endswith(HOPELESS)

    @property
    def accounted_for(self) -> bool:
        """submitted = screened + rejected + quarantined, and the same for patients."""
        return self.ended == self.submitted and not self.patients_missing

    @property
    def accounting(self) -> str:
        """The same sum in words; it must hold for every finished run."""
        total = (
            f"submitted {self.submitted} = screened {self.screened} + rejected {self.rejected} + quarantined "
            f"{self.quarantined}"
        )
        missing = self.submitted - self.ended
        if not missing:
            return total
        held = f" ({self.held} of them held)" if self.held else ""
        return f"{total} + {missing} {'UNACCOUNTED FOR' if self.finished else f'pending{held}'}"

    @property
    def patients_missing(self) -> int:
        """Patients that are neither in this run, nor unchanged, nor named as without captures."""
        if self.patients is None or self.patients_unchanged is None:
            return 0
        return self.patients - self.cases_with_captures - self.patients_unchanged - self.patients_without_captures

    @property
    def patients_accounting(self) -> str | None:
        """The patients' sum in words, which must hold from the submit on; None for a run of an earlier release."""
        if self.patients is None:
            return None
        total = (
            f"patients {self.patients} = in this run {self.cases_with_captures} + unchanged {self.patients_unchanged} "
            f"+ without captures {self.patients_without_captures}"
        )
        return f"{total} + {self.patients_missing} UNACCOUNTED FOR" if self.patients_missing else total

    @property
    def accounts(self) -> tuple[str, ...]:
        """Both sums, a line each."""
        return tuple(line for line in (self.accounting, self.patients_accounting) if line)


RATE_WINDOW_S = 60
ENDED = (CaptureState.SCREENED, CaptureState.REJECTED, CaptureState.QUARANTINED)
"""The states of a capture of which something became."""


def _rate(done: Sequence[tuple[datetime, int]], now: datetime) -> float:
    """Captures per second since the first of these chunks was done; its own captures were done before that time."""
    elapsed = (now - done[0][0]).total_seconds()
    return sum(captures for _, captures in done[1:]) / elapsed if elapsed > 0 else 0.0


def progress(engine: Engine, run_id: int) -> Progress:
    """Where a run stands. Raises NoSuchRun."""
    with reading(engine) as connection:
        return progress_of(connection, run_id)


def progress_of(connection: Connection, run_id: int) -> Progress:
    """The same, in a transaction of the caller. Raises NoSuchRun."""
    run = connection.execute(
        select(
            Run.submitted, Run.cases, Run.patients, Run.patients_unchanged, Run.patients_without_captures,
            Run.cancelled_at,
        ).where(Run.id == run_id)
    ).first()  # fmt: skip
    if run is None:
        raise NoSuchRun(run_id)
    cases = connection.execute(
        select(
            func.count().filter(Case.aggregated_at.is_not(None)).label("finished"),
            func.count().filter(Case.submitted > 0).label("with_captures"),
            *(_sum(getattr(Case, state.value)).label(state.value) for state in ENDED),
        ).where(Case.run_id == run_id)
    ).one()
    in_open, chunks = _ended_in_open_cases(connection, run_id), _chunks_to_do(connection, run_id)
    recent = connection.execute(
        select(Chunk.done_at, Chunk.captures, db_now().label("now"))
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.DONE, Chunk.done_at > db_now(-RATE_WINDOW_S))
        .order_by(Chunk.done_at)
    ).all()
    trouble = connection.execute(
        select(Chunk.last_error)
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING, Chunk.last_error.is_not(None))
        .order_by(Chunk.id)
        .limit(1)
    ).scalar()
    return Progress(
        submitted=run.submitted,
        screened=int(cases.screened) + in_open[CaptureState.SCREENED],
        rejected=int(cases.rejected) + in_open[CaptureState.REJECTED],
        quarantined=int(cases.quarantined) + in_open[CaptureState.QUARANTINED],
        cases=run.cases,
        cases_finished=cases.finished,
        cases_with_captures=cases.with_captures,
        patients=run.patients,
        patients_unchanged=run.patients_unchanged,
        patients_without_captures=run.patients_without_captures,
        chunks_leased=chunks[ChunkState.LEASED].chunks if ChunkState.LEASED in chunks else 0,
        recent_per_s=_rate([(row.done_at, row.captures) for row in recent], recent[0].now) if recent else 0.0,
        cancelled=run.cancelled_at is not None,
        trouble=trouble,
        held=int(chunks[ChunkState.HELD].captures) if ChunkState.HELD in chunks else 0,
        held_reason=chunks[ChunkState.HELD].last_error if ChunkState.HELD in chunks else None,
        only_held=set(chunks) == {ChunkState.HELD},
    )


def _ended_in_open_cases(connection: Connection, run_id: int) -> Counter[str]:
    """By state: an open case has no sums yet, and of its captures only those that ended are read."""
    is_open = select(Case.id).where(Case.run_id == run_id, Case.state == CaseState.OPEN)
    rows = connection.execute(
        select(Capture.state, func.count())
        .where(Capture.case_id.in_(is_open), Capture.state.in_(ENDED))
        .group_by(Capture.state)
    )
    return Counter(dict(rows.all()))


def _chunks_to_do(connection: Connection, run_id: int) -> dict[str, AnyRow]:
    """By state: how many chunks are not done, with how many captures, and an error of theirs."""
    rows = connection.execute(
        select(
            Chunk.state,
            func.count().label("chunks"),
            _sum(Chunk.captures).label("captures"),
            func.max(Chunk.last_error).label("last_error"),
        )
        .where(Chunk.run_id == run_id, Chunk.state != ChunkState.DONE)
        .group_by(Chunk.state)
    )
    return {row.state: row for row in rows}


def _sum(column: ColumnElement[Any] | InstrumentedAttribute[Any]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


@dataclass(frozen=True)
class Undone:
    """What workers have left to do in all runs that are not cancelled: chunks, how often these were claimed so far, and
    how many of them a worker has in hand. As long as any worker gets on with anything, `chunks` or `attempts` changes.
    """

    chunks: int
    attempts: int
    leased: int


def undone(engine: Engine) -> Undone:
    """What is left to do at this moment."""
    is_leased = Chunk.state == ChunkState.LEASED
    with reading(engine) as connection:
        row = connection.execute(
            select(
                func.count().label("chunks"),
                _sum(Chunk.attempts).label("attempts"),
                func.count().filter(is_leased).label("leased"),
            )
            .join(Run, Run.id == Chunk.run_id)
            .where(Chunk.state.in_((ChunkState.PENDING, ChunkState.LEASED)), Run.cancelled_at.is_(None))
        ).one()
    return Undone(row.chunks, int(row.attempts), row.leased)


def pseudonym_keys_needed(engine: Engine) -> dict[str, list[int]]:
    """The fingerprints of the keys without which runs that are not finished cannot be screened, with these runs."""
    with reading(engine) as connection:
        rows = connection.execute(
            select(Run.pseudonym_key, Run.id)
            .where(Run.pseudonym_key.is_not(None), Run.cancelled_at.is_(None))
            .where(select(Chunk.id).where(Chunk.run_id == Run.id, Chunk.state != ChunkState.DONE).exists())
            .order_by(Run.id)
        ).all()
    needed: dict[str, list[int]] = {}
    for fingerprint, run_id in rows:
        needed.setdefault(str(fingerprint), []).append(run_id)
    return needed


@dataclass(frozen=True)
class RunSummary:
    """A row of the view run_summary; docs/data.md describes the columns."""

    run_id: int
    archive: str
    bundle_name: str
    bundle_digest: str
    software_version: str
    created_at: datetime
    cancelled_at: datetime | None
    submitted: int
    skipped: int
    screened: int
    rejected: int
    quarantined: int
    pending: int
    reused: int
    cases: int
    cases_finished: int
    cases_benign: int
    cases_all: int
    cases_indeterminate: int
    cases_insufficient: int
    patients: int | None
    patients_unchanged: int | None
    patients_without_captures: int
    patient_depth: int
    finished_at: datetime | None
    site: str | None


_TYPES: dict[Any, TypeEngine[Any]] = {int: Integer(), int | None: Integer(), str: Text(), str | None: Text()}
_SUMMARY = table(
    "run_summary", *(column(field.name, _TYPES.get(field.type, UTCDateTime())) for field in fields(RunSummary))
)


def this_run(engine: Engine, run_id: int) -> int:
    """The number of the run that is meant: the one that was submitted last for 0, otherwise `run_id` itself.

    Raises UsageError if there are no runs.
    """
    if run_id:
        return run_id
    with reading(engine) as connection:
        latest = connection.execute(select(func.max(Run.id))).scalar()
    if latest is None:
        raise UsageError("there are no runs yet; `screen submit ARCHIVE` makes one")
    return int(latest)


def run_summaries(engine: Engine) -> list[RunSummary]:
    """All runs, newest first."""
    with reading(engine) as connection:
        rows = connection.execute(select(_SUMMARY).order_by(_SUMMARY.c.run_id.desc())).mappings()
        return [_summary(row) for row in rows]


def run_summary(connection: Connection, run_id: int) -> RunSummary:
    """One run. Raises NoSuchRun."""
    row = connection.execute(select(_SUMMARY).where(_SUMMARY.c.run_id == run_id)).mappings().first()
    if row is None:
        raise NoSuchRun(run_id)
    return _summary(row)


def _summary(row: RowMapping) -> RunSummary:
    """Convert decimals, which PostgreSQL gives for sums, to integers."""
    values: dict[str, Any] = {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    return RunSummary(**values)
