"""The invariants of a run, counted again from its rows: what `screen fsck` prints.

Nothing here trusts a stored count: each is compared with the rows that it sums up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, Engine, Select, and_, func, or_, select
from sqlalchemy.orm import aliased

from contract.case_rule import CaseCounts
from contract.errors import UsageError
from contract.states import CaptureState, CaseState, ChunkState, EventKind, ReportCause, ReviewAction, ReviewState
from db.aggregation import JUDGED, judge_rows, with_policy
from db.audit import WORKER
from db.audit_check import checked_chains
from db.clock import db_now
from db.columns import columns_of
from db.compare import same_value
from db.engine import AnyRow, reading
from db.fsck_identity import settled_by_nobody, silent_mix_ups
from db.fsck_rows import of_rows
from db.look_alikes import unmarked_look_alikes
from db.models import Capture, Case, Chunk, Event, Patient, PatientWithoutCaptures, ReportQueue, Review, Run
from db.opinions import CASE_REVIEW
from db.progress import ENDED, progress_of
from db.runs import RunRow, named_run

EXAMPLES = 5
"""Most ids that a finding names."""


@dataclass(frozen=True)
class Finding:
    """One invariant: how many rows were checked, how many break it, and the ids of some of these."""

    invariant: str
    checked: int
    broken: int
    examples: list[str]

    @property
    def holds(self) -> bool:
        return self.broken == 0


def fsck(engine: Engine, run_id: int, *, grace_s: float, against: int | None = None) -> list[Finding]:
    """Check every invariant of a run; with `against`, also that its results equal those of that run, row by row.

    An expired lease is a finding only after `grace_s` seconds, the time the sweeper has to notice.

    Raises NoSuchRun, and UsageError if the two runs had different bundles: then their results may differ.
    """
    with reading(engine) as connection:
        run = named_run(connection, run_id)
        findings = [
            *_captures(connection, run),
            *_chunks(connection, run, grace_s),
            *_cases(connection, run),
            *_patients(connection, run),
            _results(connection, run),
            *_identity(connection, run),
            *(_finding(connection, *broken) for broken in of_rows(connection, run)),
            _audit(connection, run),
        ]
        if against is not None:
            other = named_run(connection, against)
            if other.bundle_digest != run.bundle_digest:
                raise UsageError(
                    f"runs {run_id} and {against} had different bundles ({run.bundle_name} and {other.bundle_name}), "
                    f"so their results may differ; `screen compare-runs {against} {run_id}` says where"
                )
            findings += _comparison(connection, run, other)
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
    misplaced = (
        select(Capture.id)
        .join(Case, Case.id == Capture.case_id)
        .where(Capture.run_id == run.id, Case.run_id != Capture.run_id)
    )
    yield _finding(connection, "every capture belongs to a case of its run", run.submitted, misplaced, "capture")


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
    waiting = (
        select(func.count())
        .where(Capture.chunk_id == Chunk.id, Capture.state == CaptureState.PENDING)
        .scalar_subquery()
    )
    unsaid = select(Chunk.id).where(
        Chunk.run_id == run.id,
        Chunk.state == ChunkState.HELD,
        or_(Chunk.captures != waiting, Chunk.last_error.is_(None), Chunk.deaths == 0),
    )
    yield _finding(connection, "a held chunk has captures that wait, and says why", chunks, unsaid, "chunk")


def _cases(connection: Connection, run: RunRow) -> Iterator[Finding]:
    of_run = Case.run_id == run.id
    cases = connection.execute(select(func.count()).where(of_run)).scalar_one()
    yield Finding(f"{run.cases} cases were submitted and are there", run.cases, abs(run.cases - cases), [])
    by_state = {
        state: select(func.count()).where(Capture.case_id == Case.id, Capture.state == state).scalar_subquery()
        for state in CaptureState
    }
    total = select(func.count()).where(Capture.case_id == Case.id).scalar_subquery()
    lost = select(Case.id).where(of_run, Case.submitted != total)
    yield _finding(connection, "every case has the captures that it was submitted with", cases, lost, "case")
    waiting = by_state[CaptureState.PENDING] > 0
    wrong = select(Case.id).where(of_run, (Case.state == CaseState.AGGREGATED) == waiting)
    yield _finding(connection, "a case has its result if and only if all its captures ended", cases, wrong, "case")
    miscounted = select(Case.id).where(
        of_run,
        Case.state == CaseState.AGGREGATED,
        or_(*(getattr(Case, state.value) != by_state[state] for state in ENDED)),
    )
    yield _finding(connection, "the counts of a case are those of its rows", cases, miscounted, "case")
    yield _queue(connection, run, cases)
    yield _closed(connection, run)
    yield from _superseded(connection, run, cases)


def _patients(connection: Connection, run: RunRow) -> Iterator[Finding]:
    """Runs from before schema 0004 did not count patients without a case."""
    now = progress_of(connection, run.id)
    if now.patients is not None:
        yield Finding(str(now.patients_accounting), now.patients, abs(now.patients_missing), [])
    of_run = PatientWithoutCaptures.run_id == run.id
    named = connection.execute(select(func.count()).where(of_run)).scalar_one()
    yield Finding(
        f"{now.patients_without_captures} patients without captures were submitted and are named",
        named,
        abs(now.patients_without_captures - named),
        [],
    )
    is_named = select(PatientWithoutCaptures.id).where(of_run, PatientWithoutCaptures.patient_id == Case.patient_id)
    wrong = select(Case.id).where(Case.run_id == run.id, (Case.submitted == 0) != is_named.exists())
    yield _finding(connection, "a case without captures says why", run.cases, wrong, "case")


def _queue(connection: Connection, run: RunRow, cases: int) -> Finding:
    """Queue rows that no other row of the case replaces: exactly one for each case that has a result, at most one if a
    newer case superseded it. If the run's results wait for the sign-off, exactly one for each case that reviewers have
    closed, and none for a case without a review.
    """
    later = aliased(ReportQueue)
    current = (
        select(func.count())
        .where(ReportQueue.case_id == Case.id)
        .where(
            ~select(later.id).where(later.replaces_id == ReportQueue.id, later.case_id == ReportQueue.case_id).exists()
        )
        .scalar_subquery()
    )
    if run.report_at_sign_off:
        closed = select(CASE_REVIEW.c.case_id).where(
            CASE_REVIEW.c.case_id == Case.id, CASE_REVIEW.c.state == ReviewState.CLOSED
        )
        reviewed = select(Review.id).where(Review.case_id == Case.id)
        broken = or_(current > 1, and_(closed.exists(), current != 1), and_(~reviewed.exists(), current != 0))
    else:
        is_reported = and_(Case.state == CaseState.AGGREGATED, Case.superseded_by.is_(None))
        broken = or_(and_(is_reported, current != 1), and_(~is_reported, current > 1))
    wrong = select(Case.id).where(Case.run_id == run.id, broken)
    return _finding(connection, "exactly one result and one queue row per case", cases, wrong, "case")


def _closed(connection: Connection, run: RunRow) -> Finding:
    """The last queue row of a closed case names an opinion with its final result, or a newer case's row replaces it.

    Otherwise other systems were not told what reviewers decided last.
    """
    later, of_newer = aliased(ReportQueue), aliased(ReportQueue)
    own_last = select(func.max(later.id)).where(later.case_id == ReportQueue.case_id).scalar_subquery()
    told = (
        select(ReportQueue.id)
        .outerjoin(Review, and_(Review.id == ReportQueue.review_id, Review.case_id == CASE_REVIEW.c.case_id))
        .where(ReportQueue.case_id == CASE_REVIEW.c.case_id, ReportQueue.id == own_last)
        .where(
            or_(
                and_(
                    Review.verdict == CASE_REVIEW.c.final_verdict,
                    func.coalesce(Review.subtype, "") == func.coalesce(CASE_REVIEW.c.final_subtype, ""),
                ),
                select(of_newer.id)
                .where(of_newer.replaces_id == ReportQueue.id, of_newer.case_id != ReportQueue.case_id)
                .exists(),
            )
        )
    )
    is_closed = (CASE_REVIEW.c.run_id == run.id) & (CASE_REVIEW.c.state == ReviewState.CLOSED)
    closed = connection.execute(select(func.count()).select_from(CASE_REVIEW).where(is_closed)).scalar_one()
    untold = select(CASE_REVIEW.c.case_id).where(is_closed, ~told.exists())
    return _finding(connection, "the last queue row of a closed case reports its sign-off", closed, untold, "case")


def _superseded(connection: Connection, run: RunRow, cases: int) -> Iterator[Finding]:
    """Of several finished cases of one archive and patient only the newest waits for review, and other systems know."""
    newer, newer_run = aliased(Case), aliased(Run)
    of_patient = (
        select(newer.id)
        .join(newer_run, newer_run.id == newer.run_id)
        .where(newer.patient_id == Case.patient_id, newer.id > Case.id)
    )
    finished = of_patient.where(newer.state == CaseState.AGGREGATED, newer_run.cancelled_at.is_(None))
    signed = select(Review.id).where(
        Review.case_id == Case.id, Review.action.in_((ReviewAction.CONFIRM, ReviewAction.OVERRIDE))
    )
    forgotten = and_(
        Case.state == CaseState.AGGREGATED, Case.superseded_by.is_(None), finished.exists(), ~signed.exists()
    )
    misled = and_(Case.superseded_by.is_not(None), ~of_patient.where(newer.id == Case.superseded_by).exists())
    wrong = select(Case.id).where(Case.run_id == run.id, or_(forgotten, misled))
    yield _finding(connection, "a newer case supersedes each one that nobody signed", cases, wrong, "case")
    later, before, of_newer = aliased(ReportQueue), aliased(ReportQueue), aliased(ReportQueue)
    replaced = select(later.id).where(later.replaces_id == ReportQueue.id)
    withdrawn = select(before.id).where(
        before.id == ReportQueue.replaces_id,
        before.case_id == ReportQueue.case_id,
        ReportQueue.cause == ReportCause.SUPERSEDED,
    )
    by_worker = select(Event.id).where(
        Event.run_id == run.id, Event.case_id == Case.id, Event.kind == EventKind.SUPERSEDED, Event.actor == WORKER
    )
    unlinked = (
        select(Case.id)
        .join(ReportQueue, ReportQueue.case_id == Case.id)
        .where(Case.run_id == run.id, Case.superseded_by.is_not(None), by_worker.exists())
        .where(~replaced.exists(), ~withdrawn.exists())
        .where(select(of_newer.id).where(of_newer.case_id == Case.superseded_by).exists())
    )
    yield _finding(connection, "the queue row of a superseded case is replaced", cases, unlinked, "case")


def _results(connection: Connection, run: RunRow) -> Finding:
    """The case rule, applied to the rows again, must give what is stored."""
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
    by_case = {case_id: list(captures) for case_id, captures in groupby(rows, key=lambda row: row.case_id)}
    broken = []
    for case in cases:
        counts = CaseCounts(case.submitted, case.screened, case.rejected, case.quarantined)
        result = judge_rows(by_case.get(case.id, []), counts, with_policy(manifest, case.case_policy))
        if (case.verdict, case.subtype) != (result.verdict, result.subtype) or not same_value(case.score, result.score):
            broken.append(case.id)
    return Finding(
        "each result is what the case rule says of the rows", len(cases), len(broken), _named("case", broken)
    )


def _identity(connection: Connection, run: RunRow) -> Iterator[Finding]:
    """Results from before schema 0002 were not searched for conflicts, and say nothing about them."""
    searched = (Case.run_id == run.id) & Case.identity_conflict.is_not(None)
    cases = connection.execute(select(func.count()).where(searched)).scalar_one()
    silent = silent_mix_ups(connection, run.id)
    yield Finding(
        "the same capture under two patients is noted at both cases", cases, len(silent), _named("case", silent)
    )
    unmarked = unmarked_look_alikes(connection, run.id)
    yield Finding(
        "folders whose names look the same are noted at both cases", cases, len(unmarked), _named("case", unmarked)
    )
    unsaid = settled_by_nobody(connection, run.id)
    yield Finding("what is settled at a case a reviewer has settled", cases, len(unsaid), _named("case", unsaid))


def _audit(connection: Connection, run: RunRow) -> Finding:
    """Names the head of each chain: who keeps what fsck printed can tell later that the audit is another one."""
    chains = checked_chains(connection, run.id)
    problems = [problem for chain in chains for problem in chain.problems]
    named = "; ".join(chain.named for chain in chains)
    rows = sum(chain.rows for chain in chains)
    return Finding(f"the audit is as it was written ({named})", rows, len(problems), problems[:EXAMPLES])


def _comparison(connection: Connection, run: RunRow, other: RunRow) -> Iterator[Finding]:
    of_captures, of_cases = columns_of(Capture, compared=True), columns_of(Case, compared=True)

    def captures_of(run_id: int) -> dict[bytes, AnyRow]:
        columns = (getattr(Capture, name) for name in of_captures)
        rows = connection.execute(select(Capture.path, *columns).where(Capture.run_id == run_id))
        return {bytes(row.path): row for row in rows}

    captures, expected = captures_of(run.id), captures_of(other.id)
    differ = [
        path
        for path in captures.keys() | expected.keys()
        if not _same_row(captures.get(path), expected.get(path), of_captures)
    ]
    names = sorted(path.decode("utf-8", "backslashreplace") for path in differ)
    yield Finding(f"every capture ended as in run {other.id}", len(captures), len(differ), names[:EXAMPLES])

    def results_of(run_id: int) -> dict[str, AnyRow]:
        """By the patient's name: the other run may be of a copy of the archive, whose patients have other ids."""
        columns = (getattr(Case, name) for name in of_cases)
        cases = select(Patient.external_id, Case.patient_id, *columns).join(Patient, Patient.id == Case.patient_id)
        return {row.external_id: row for row in connection.execute(cases.where(Case.run_id == run_id))}

    results, expected_results = results_of(run.id), results_of(other.id)
    patients = [
        (results.get(patient) or expected_results[patient]).patient_id
        for patient in results.keys() | expected_results.keys()
        if not _same_row(results.get(patient), expected_results.get(patient), of_cases)
    ]
    yield Finding(
        f"every patient's result is that of run {other.id}", len(results), len(patients), _named("patient", patients)
    )


def _same_row(row: AnyRow | None, expected: AnyRow | None, columns: Sequence[str]) -> bool:
    if row is None or expected is None:
        return False
    return all(same_value(getattr(row, name), getattr(expected, name)) for name in columns)


def _finding(connection: Connection, invariant: str, checked: int, broken: Select[int], kind: str) -> Finding:
    """`broken` selects the ids of rows that break the invariant."""
    ids = connection.execute(broken.order_by(None)).scalars().all()
    return Finding(invariant, checked, len(ids), _named(kind, ids))


def _named(kind: str, ids: Sequence[int]) -> list[str]:
    return [f"{kind} {row_id}" for row_id in sorted(ids)[:EXAMPLES]]
