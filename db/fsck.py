"""The invariants of a run, counted anew from its rows: what `screen fsck` prints.

Nothing here believes a stored count: each is held against the rows that it sums up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, func, or_, select
from sqlalchemy.orm import aliased

from contract.case_rule import CaseCounts
from contract.states import CaptureState, CaseState, ChunkState, ReviewState
from db.aggregation import JUDGED, judge_rows, with_policy
from db.clock import db_now
from db.compare import same_value
from db.engine import reading
from db.mix_ups import CONFLICTS
from db.models import Capture, Case, Chunk, ReportQueue, Review, columns_of
from db.opinions import CASE_REVIEW
from db.runs import RunRow, named_run

EXAMPLES = 5
"""Scores and probabilities nearer than this are the same: databases keep 64 bits, engines compute in 32."""


@dataclass(frozen=True)
class Finding:
    """One invariant: of so many rows, how many break it, and the ids of some."""

    invariant: str
    checked: int
    broken: int
    examples: list[str]

    @property
    def holds(self) -> bool:
        return self.broken == 0


def fsck(engine: Engine, run_id: int, *, grace_s: float, against: int | None = None) -> list[Finding]:
    """Check every invariant of a run; with `against`, also that its results are those of that run, row by row.

    A lease may be over for `grace_s` seconds before somebody must have noticed. Raises NoSuchRun.
    """
    with reading(engine) as connection:
        run = named_run(connection, run_id)
        findings = [
            *_captures(connection, run),
            *_chunks(connection, run, grace_s),
            *_cases(connection, run),
            _results(connection, run),
            _identity(connection, run),
        ]
        if against is not None:
            findings += _comparison(connection, run, named_run(connection, against))
        return findings


def _captures(connection: Connection, run: RunRow) -> Iterator[Finding]:
    states: dict[str, int] = dict(
        connection.execute(
            select(Capture.state, func.count()).where(Capture.run_id == run.id).group_by(Capture.state)
        ).all()
    )
    sums = ", ".join(f"{states.get(state, 0)} {state}" for state in CaptureState)
    yield Finding(
        f"submitted = screened + rejected + quarantined + pending ({run.submitted} = {sums})",
        run.submitted,
        abs(run.submitted - sum(states.values())),
        [],
    )
    repeated = (
        select(func.min(Capture.id)).where(Capture.run_id == run.id).group_by(Capture.path).having(func.count() > 1)
    )
    yield _finding(connection, "one row per capture and bundle", run.submitted, repeated, "capture")
    astray = (
        select(Capture.id)
        .join(Case, Case.id == Capture.case_id)
        .where(Capture.run_id == run.id, Case.run_id != Capture.run_id)
    )
    yield _finding(connection, "every capture belongs to a case of its run", run.submitted, astray, "capture")


def _chunks(connection: Connection, run: RunRow, grace_s: float) -> Iterator[Finding]:
    pending = connection.execute(
        select(func.count()).where(Capture.run_id == run.id, Capture.state == CaptureState.PENDING)
    ).scalar_one()
    orphans = (
        select(Capture.id)
        .outerjoin(Chunk, Chunk.id == Capture.chunk_id)
        .where(Capture.run_id == run.id, Capture.state == CaptureState.PENDING)
        .where(or_(Chunk.id.is_(None), Chunk.state == ChunkState.DONE, Chunk.run_id != run.id))
    )
    yield _finding(connection, "every pending capture is in a chunk that is not done", pending, orphans, "capture")
    chunks = connection.execute(select(func.count()).where(Chunk.run_id == run.id)).scalar_one()
    stale = select(Chunk.id).where(
        Chunk.run_id == run.id, Chunk.state == ChunkState.LEASED, Chunk.lease_until < db_now(-grace_s)
    )
    yield _finding(connection, "no lease outlives its worker", chunks, stale, "chunk")


def _cases(connection: Connection, run: RunRow) -> Iterator[Finding]:
    of_run = Case.run_id == run.id
    found = connection.execute(select(func.count()).where(of_run)).scalar_one()
    yield Finding(f"{run.cases} cases were submitted and are there", run.cases, abs(run.cases - found), [])
    by_state = {
        state: select(func.count()).where(Capture.case_id == Case.id, Capture.state == state).scalar_subquery()
        for state in CaptureState
    }
    total = select(func.count()).where(Capture.case_id == Case.id).scalar_subquery()
    lost = select(Case.id).where(of_run, Case.submitted != total)
    yield _finding(connection, "every case has the captures that it was submitted with", found, lost, "case")
    waiting = by_state[CaptureState.PENDING] > 0
    wrong = select(Case.id).where(of_run, (Case.state == CaseState.AGGREGATED) == waiting)
    yield _finding(connection, "a case has its result if and only if all its captures ended", found, wrong, "case")
    ended = (CaptureState.SCREENED, CaptureState.REJECTED, CaptureState.QUARANTINED)
    miscounted = select(Case.id).where(
        of_run,
        Case.state == CaseState.AGGREGATED,
        or_(*(getattr(Case, state.value) != by_state[state] for state in ended)),
    )
    yield _finding(connection, "the counts of a case are those of its rows", found, miscounted, "case")
    yield _queue(connection, run, found)


def _queue(connection: Connection, run: RunRow, cases: int) -> Finding:
    """Rows that no other row replaces: exactly one for each case that has a result, or that reviewers have closed,
    where the run's results wait for the sign-off; then none without a review.
    """
    later = aliased(ReportQueue)
    current = (
        select(func.count())
        .where(ReportQueue.case_id == Case.id)
        .where(~select(later.id).where(later.replaces_id == ReportQueue.id).exists())
        .scalar_subquery()
    )
    if run.report_at_sign_off:
        closed = select(CASE_REVIEW.c.case_id).where(
            CASE_REVIEW.c.case_id == Case.id, CASE_REVIEW.c.state == ReviewState.CLOSED
        )
        reviewed = select(Review.id).where(Review.case_id == Case.id)
        broken = or_(current > 1, and_(closed.exists(), current != 1), and_(~reviewed.exists(), current != 0))
    else:
        has_result = Case.state == CaseState.AGGREGATED
        broken = or_(and_(has_result, current != 1), and_(~has_result, current > 1))
    wrong = select(Case.id).where(Case.run_id == run.id, broken)
    return _finding(connection, "exactly one result and one queue row per case", cases, wrong, "case")


def _results(connection: Connection, run: RunRow) -> Finding:
    """The case rule, applied to the rows again, says what is stored."""
    manifest = run.manifest
    cases = connection.execute(
        select(Case.id, Case.submitted, Case.screened, Case.rejected, Case.quarantined, Case.verdict, Case.subtype,
               Case.score, Case.case_policy)
        .where(Case.run_id == run.id, Case.state == CaseState.AGGREGATED)
        .order_by(Case.id)
    ).all()  # fmt: skip
    rows = connection.execution_options(yield_per=5000).execute(
        select(Capture.case_id, *JUDGED)
        .where(Capture.run_id == run.id, Capture.state == CaptureState.SCREENED)
        .order_by(Capture.case_id)
    )
    by_case = {case_id: list(some) for case_id, some in groupby(rows, key=lambda row: row.case_id)}
    broken = []
    for case in cases:
        counts = CaseCounts(case.submitted, case.screened, case.rejected, case.quarantined)
        wanted = judge_rows(by_case.get(case.id, []), counts, with_policy(manifest, case.case_policy))
        if (case.verdict, case.subtype) != (wanted.verdict, wanted.subtype) or not same_value(case.score, wanted.score):
            broken.append(case.id)
    return Finding(
        "each result is what the case rule says of the rows", len(cases), len(broken), _named("case", broken)
    )


def _identity(connection: Connection, run: RunRow) -> Finding:
    """Results of before schema 0002 were not looked through for conflicts, and say nothing of them."""
    looked_through = (Case.run_id == run.id) & Case.identity_conflict.is_not(None)
    cases = connection.execute(select(func.count()).where(looked_through)).scalar_one()
    silent = select(Case.id).where(
        looked_through, Case.identity_conflict.is_(False), Case.id.in_(select(CONFLICTS.c.case_id))
    )
    return _finding(connection, "the same capture under two patients is noted at both cases", cases, silent, "case")


def _comparison(connection: Connection, run: RunRow, other: RunRow) -> Iterator[Finding]:
    of_captures, of_cases = columns_of(Capture, compared=True), columns_of(Case, compared=True)

    def rows_of(of: RunRow) -> dict[bytes, Any]:
        columns = (getattr(Capture, name) for name in of_captures)
        found = connection.execute(select(Capture.path, *columns).where(Capture.run_id == of.id))
        return {bytes(row.path): row for row in found}

    ours, theirs = rows_of(run), rows_of(other)
    differ = [
        path for path in ours.keys() | theirs.keys() if not _same_row(ours.get(path), theirs.get(path), of_captures)
    ]
    names = sorted(path.decode("utf-8", "backslashreplace") for path in differ)
    yield Finding(f"every capture ended as in run {other.id}", len(ours), len(differ), names[:EXAMPLES])

    def results_of(of: RunRow) -> dict[int, Any]:
        columns = (getattr(Case, name) for name in of_cases)
        found = connection.execute(select(Case.patient_id, *columns).where(Case.run_id == of.id))
        return {row.patient_id: row for row in found}

    mine, wanted = results_of(run), results_of(other)
    patients = [
        patient
        for patient in mine.keys() | wanted.keys()
        if not _same_row(mine.get(patient), wanted.get(patient), of_cases)
    ]
    yield Finding(
        f"every patient's result is that of run {other.id}", len(mine), len(patients), _named("patient", patients)
    )


def _same_row(one: Any, other: Any, columns: Sequence[str]) -> bool:
    if one is None or other is None:
        return False
    return all(same_value(getattr(one, name), getattr(other, name)) for name in columns)


def _finding(connection: Connection, invariant: str, checked: int, broken: Select[Any], kind: str) -> Finding:
    """`broken` selects the ids of rows that break the invariant."""
    ids = connection.execute(broken.order_by(None)).scalars().all()
    return Finding(invariant, checked, len(ids), _named(kind, ids))


def _named(kind: str, ids: Sequence[int]) -> list[str]:
    return [f"{kind} {one}" for one in sorted(ids)[:EXAMPLES]]
