"""Writes a run. Its rows are the outbox: one transaction holds run, cases, captures and chunks, and nothing is
published before its commit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy import Connection, Engine, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased

from contract.archive import FoundCapture
from contract.names import display_name
from contract.states import CaptureState, EventKind
from db.absent import Absent, write_absent
from db.aggregation import aggregate_finished_cases, judge_look_alikes
from db.audit import SUBMIT, note
from db.bundles import ensure_bundle
from db.columns import Life, columns_of
from db.engine import reading, slices, writing
from db.history import History
from db.many import insert_many
from db.models import Capture, Case, Chunk, Patient, Run
from db.rereading import InDoubt, ReadAgain
from db.reused import LEFT_WITH_ORIGINAL
from db.submit_plan import (
    PlannedCase,
    SubmitPlan,
    SubmitRequest,
    by_patient,
    known_histories,
    new_plan,
    plan_absent,
    planned,
)

GROWN = 10
"""A table that grows by a tenth is analysed, as PostgreSQL's own autovacuum does after a while."""
_PENDING = ("run_id", "case_id", "chunk_id", *columns_of(Capture, Life.SEALED, Life.STATE))
_COPIED = tuple(
    name for name in columns_of(Capture, Life.SEALED, Life.STATE, Life.OUTCOME) if name not in LEFT_WITH_ORIGINAL
)


@dataclass(frozen=True)
class Submission:
    """What was written. If nothing is new, no run is written, and `run_id` is the last run of this archive."""

    run_id: int | None
    plan: SubmitPlan
    chunk_ids: list[int] = field(default_factory=list)

    @property
    def created(self) -> bool:
        return self.plan.writes_a_run


def plan_submit(engine: Engine, request: SubmitRequest) -> SubmitPlan:
    """What `submit` would do now; writes nothing. Raises as `submit` does."""
    again = ReadAgain(request.root, request.verify)
    with reading(engine) as connection:
        plan = new_plan(connection, request, again)

    def histories(captures: Sequence[FoundCapture]) -> dict[str, History]:
        with reading(engine) as connection:
            found = known_histories(connection, request, plan, captures)
        again.look(captures, found)
        return found

    for _ in planned(request, plan, histories):
        pass
    with reading(engine) as connection:
        plan_absent(connection, request, plan)
    return plan


def submit(engine: Engine, request: SubmitRequest) -> Submission:
    """Write the run in one transaction. Two submits of the same archive wait for each other.

    Where a capture may be another file than before, it is read first, outside that transaction (db/rereading.py).
    Raises UsageError if an earlier run of the archive has its patients at another depth, and ArchiveUnavailable if the
    archive goes away while it is read.
    """
    again = ReadAgain(request.root, request.verify)
    if request.verify:
        _read_again(engine, request, again)
    try:
        return _submit(engine, request, again)
    except InDoubt:
        _read_again(engine, request, again)
        return _submit(engine, request, again)


def _read_again(engine: Engine, request: SubmitRequest, again: ReadAgain) -> None:
    with reading(engine) as connection:
        plan = new_plan(connection, request, again)

    def histories(connection: Connection, captures: Sequence[FoundCapture]) -> dict[str, History]:
        return known_histories(connection, request, plan, captures)

    again.look_at_all(engine, (list(chain(*batch)) for batch in by_patient(request.captures)), histories)


def _submit(engine: Engine, request: SubmitRequest, again: ReadAgain) -> Submission:
    """Raises InDoubt, and has written nothing, if captures must be read first."""
    with writing(engine) as connection:
        _lock_archive(connection, request)
        plan = new_plan(connection, request, again)

        def histories(captures: Sequence[FoundCapture]) -> dict[str, History]:
            found = known_histories(connection, request, plan, captures)
            again.mark(captures, found)
            return found

        run: _RunWriter | None = None
        for cases in planned(request, plan, histories):
            run = run or _RunWriter(connection, request)
            run.add(cases)
        plan_absent(connection, request, plan)
        if not plan.writes_a_run:
            return Submission(plan.last_run, plan)
        run = run or _RunWriter(connection, request)
        run.add_absent(plan.absent)
        run.seal(plan)
        return Submission(run.id, plan, run.chunk_ids)


def _lock_archive(connection: Connection, request: SubmitRequest) -> None:
    """On SQLite the writing transaction is the lock; on PostgreSQL an advisory lock until the commit."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(request.root).digest()[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


class _RunWriter:
    """Writes a run in several steps within one transaction; its row gets its final numbers at the end."""

    def __init__(self, connection: Connection, request: SubmitRequest) -> None:
        self._connection = connection
        self._request = request
        self._waiting: list[tuple[int, FoundCapture]] = []
        self._complete: list[int] = []
        self._emptied: list[int] = []
        self.chunk_ids: list[int] = []
        ensure_bundle(connection, request.bundle)
        self.id: int = connection.execute(
            insert(Run)
            .values(
                bundle_digest=request.bundle.digest,
                root=request.root,
                root_text=display_name(request.root),
                submitted=0,
                cases=0,
                skipped=sum(map(len, request.skipped.values())),
                skipped_files={reason: list(names) for reason, names in request.skipped.items()},
                software_version=request.software_version,
                reviewers_required=request.reviewers_required,
                report_at_sign_off=request.report_at_sign_off,
                pseudonym_key=request.pseudonym_key,
                patient_depth=request.patient_depth,
                site=request.site,
            )
            .returning(Run.id)
        ).scalar_one()

    def add(self, cases: Sequence[PlannedCase]) -> None:
        """Write these cases with their captures; a chunk may hold captures of several cases."""
        case_ids = self._insert_cases(cases)
        for case in cases:
            self._waiting += [(case_ids[case.patient], capture) for capture in case.pending]
        size = self._request.chunk_size
        full = len(self._waiting) // size * size
        self._insert_chunks(self._waiting[:full])
        self._waiting = self._waiting[full:]
        self._insert_reused([capture_id for case in cases for capture_id in case.reused])
        for case in cases:
            if not case.pending:
                (self._complete if case.reused else self._emptied).append(case_ids[case.patient])

    def add_absent(self, absent: Sequence[Absent]) -> None:
        """Write the patients without captures, and a case without captures for each who had some before."""
        patient_ids = _ensure_patients(self._connection, self._request, {patient.patient: None for patient in absent})
        write_absent(self._connection, self.id, absent, patient_ids)
        withdrawn = [PlannedCase(patient.patient, [], [], True) for patient in absent if patient.withdraws]
        if withdrawn:
            self.add(withdrawn)

    def seal(self, plan: SubmitPlan) -> None:
        """Write the last chunks, the results of cases that wait for no capture, and the run's numbers."""
        self._insert_chunks(self._waiting)
        numbers = {
            "submitted": plan.submitted, "cases": plan.cases, "patients": plan.patients,
            "patients_unchanged": plan.patients_unchanged, "reused": plan.reused,
            "patients_without_captures": len(plan.absent),
        }  # fmt: skip
        self._connection.execute(update(Run).where(Run.id == self.id).values(numbers))
        skipped = {reason: len(names) for reason, names in self._request.skipped.items()}
        note(self._connection, EventKind.SUBMITTED, actor=SUBMIT, run_id=self.id, detail={"skipped": skipped})
        if self._connection.dialect.name == "postgresql" and self._is_most_of_the_table(plan.submitted):
            self._connection.execute(text("ANALYZE capture, chunk"))
        # First the cases without captures: what lay under their patients is no mix-up for the others any more.
        for case_ids in [*slices(self._emptied, 500), *slices(self._complete, 500)]:
            aggregate_finished_cases(self._connection, case_ids)
        judge_look_alikes(self._connection, self._request.root, actor=SUBMIT)

    def _is_most_of_the_table(self, captures: int) -> bool:
        """Whether PostgreSQL would plan for a much smaller table. A night of few captures in a table of many must not
        pay for a new sample of all.
        """
        known = text("SELECT reltuples FROM pg_class WHERE oid = 'capture'::regclass")
        return captures * GROWN >= float(self._connection.execute(known).scalar_one())

    def _insert_cases(self, cases: Sequence[PlannedCase]) -> dict[str, int]:
        keys = {case.patient: case.look_alike for case in cases}
        patient_ids = _ensure_patients(self._connection, self._request, keys)
        rows = self._connection.execute(
            insert(Case).returning(Case.id, Case.patient_id),
            [
                {
                    "run_id": self.id,
                    "patient_id": patient_ids[case.patient],
                    "submitted": case.captures,
                    "folder_inode": case.folder_inode,
                }
                for case in cases
            ],
        )
        case_of = {patient_id: case_id for case_id, patient_id in rows}
        return {case.patient: case_of[patient_ids[case.patient]] for case in cases}

    def _insert_chunks(self, captures: Sequence[tuple[int, FoundCapture]]) -> None:
        pieces = slices(captures, self._request.chunk_size)
        if not pieces:
            return
        chunk_ids = list(
            self._connection.execute(
                insert(Chunk).returning(Chunk.id, sort_by_parameter_order=True),
                [{"run_id": self.id, "captures": len(piece)} for piece in pieces],
            ).scalars()
        )
        self.chunk_ids += chunk_ids
        rows = (
            (
                self.id, case_id, chunk_id, capture.path, display_name(capture.path), capture.size_bytes,
                capture.modified_ns, capture.inode, capture.changed_ns, CaptureState.PENDING.value,
            )
            for chunk_id, piece in zip(chunk_ids, pieces, strict=True)
            for case_id, capture in piece
        )  # fmt: skip
        insert_many(self._connection, Capture.__table__, _PENDING, rows)

    def _insert_reused(self, capture_ids: Sequence[int]) -> None:
        """Copy the rows of unchanged captures within the database, each into its patient's case of this run. Every copy
        names the original, never another copy, and leaves the largest columns with it.
        """
        earlier, new = aliased(Case), aliased(Case)
        original = func.coalesce(Capture.reused_from, Capture.id)
        columns = [Capture.__table__.c[name] for name in _COPIED]
        copied = (
            select(literal(self.id), new.id, original, *columns)
            .join(earlier, earlier.id == Capture.case_id)
            .join(new, (new.run_id == self.id) & (new.patient_id == earlier.patient_id))
        )
        into = ["run_id", "case_id", "reused_from", *_COPIED]
        for ids in slices(capture_ids, 500):
            self._connection.execute(insert(Capture).from_select(into, copied.where(Capture.id.in_(ids))))


def _ensure_patients(
    connection: Connection, request: SubmitRequest, patients: Mapping[str, str | None]
) -> dict[str, int]:
    """The ids of these patients of the archive; those that it did not have yet get a row. Beside each name is the key
    of the names that look like it, if the caller knows that: an earlier release made none, or another one.
    """
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    pseudonymous = request.pseudonym_key is not None
    patient_ids: dict[str, int] = {}
    for batch in slices(list(patients), 500):
        connection.execute(
            upsert(Patient).on_conflict_do_nothing(index_elements=["root", "external_id"]),
            [
                {"root": request.root, "external_id": name, "pseudonymous": pseudonymous, "look_alike": patients[name]}
                for name in batch
            ],
        )
        rows = connection.execute(
            select(Patient.external_id, Patient.id, Patient.look_alike).where(
                Patient.root == request.root, Patient.external_id.in_(batch)
            )
        ).all()
        patient_ids |= {row.external_id: row.id for row in rows}
        for row in rows:
            key = patients[row.external_id]
            if key is not None and key != row.look_alike:
                connection.execute(update(Patient).where(Patient.id == row.id).values(look_alike=key))
    return patient_ids
