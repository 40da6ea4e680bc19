"""Writes a run. Its rows are the outbox: one transaction holds run, cases, captures and chunks, and nothing is
published before its commit.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import Connection, Engine, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from contract.archive import FoundCapture, PatientWithoutCaptures
from contract.bundle import Bundle
from contract.names import display_name
from contract.states import CaptureState, EventKind
from db.absent import Absent, absent_patients, codes_of_run, write_absent
from db.aggregation import aggregate_finished_cases
from db.audit import SUBMIT, note
from db.bundles import ensure_bundle
from db.columns import Life, columns_of
from db.engine import insert_many, reading, slices, writing
from db.history import History, LatestCase, history_of, last_run, latest_cases, refuse_other_depth
from db.models import Capture, Case, Chunk, Patient, Run

AT_A_TIME = 5000
"""About this many captures are in memory at once; patients are not divided."""
_PENDING = ("run_id", "case_id", "chunk_id", *columns_of(Capture, Life.SEALED, Life.STATE))
_COPIED = columns_of(Capture, Life.SEALED, Life.STATE, Life.OUTCOME)


@dataclass(frozen=True)
class SubmitRequest:
    """What `screen submit` wants to write. `root` is the real, absolute path of the archive.

    `captures` come patient by patient. They are read once, a few thousand at a time: there may be millions.
    """

    root: bytes
    bundle: Bundle
    captures: Iterable[FoundCapture]
    skipped: Mapping[str, Sequence[str]]
    chunk_size: int
    software_version: str
    everything: bool = False
    reviewers_required: int = 1
    report_at_sign_off: bool = False
    pseudonym_key: str | None = None
    """Fingerprint of the key whose pseudonyms replace patients' names in `captures` and the rest; None: real names."""
    without_captures: Sequence[PatientWithoutCaptures] = ()
    patient_depth: int = 1
    patients_complete: bool = True
    """Whether the walk could list every folder above the patients: then a patient that it did not find is gone."""
    site: str | None = None


@dataclass
class SubmitPlan:
    """What a submit does, in numbers: `cases` with a new, changed or removed capture; their captures to screen
    (`pending`) and those copied from an earlier run (`reused`); captures of all other patients (`unchanged`).

    `latest` has the patients' latest cases before this submit, with whatever bundle. `with_captures` names the patients
    with captures, `patients_unchanged` counts those of them without a case. `absent` are those without captures;
    `absent_is_news` says whether the last run did not know this of one of them.
    """

    cases: int = 0
    pending: int = 0
    reused: int = 0
    unchanged: int = 0
    last_run: int | None = None
    latest: dict[str, LatestCase] = field(default_factory=dict)
    with_captures: set[str] = field(default_factory=set)
    patients_unchanged: int = 0
    absent: list[Absent] = field(default_factory=list)
    absent_is_news: bool = False

    @property
    def submitted(self) -> int:
        return self.pending + self.reused

    @property
    def patients(self) -> int:
        return len(self.with_captures) + len(self.absent)

    @property
    def writes_a_run(self) -> bool:
        return self.cases > 0 or self.absent_is_news

    def count(self, case: "_PlannedCase") -> None:
        """Count one more patient with captures."""
        self.with_captures.add(case.patient)
        if case.is_touched:
            self.cases += 1
            self.pending += len(case.pending)
            self.reused += len(case.reused)
        else:
            self.patients_unchanged += 1
            self.unchanged += case.captures


@dataclass(frozen=True)
class _PlannedCase:
    """One patient's captures: those to screen, and the ids of earlier rows to copy."""

    patient: str
    pending: list[FoundCapture]
    reused: list[int]
    is_touched: bool
    folder_inode: int | None = None

    @property
    def captures(self) -> int:
        return len(self.pending) + len(self.reused)


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
    """What `submit` would do now; writes nothing. Raises UsageError as `submit` does."""
    with reading(engine) as connection:
        plan = _new_plan(connection, request)
        for _ in _planned(connection, request, plan):
            pass
        _plan_absent(connection, request, plan)
        return plan


def submit(engine: Engine, request: SubmitRequest) -> Submission:
    """Write the run in one transaction. Two submits of the same archive wait for each other.

    Raises UsageError if an earlier run of the archive has its patients at another depth.
    """
    with writing(engine) as connection:
        _lock_archive(connection, request)
        plan = _new_plan(connection, request)
        run: _RunWriter | None = None
        for cases in _planned(connection, request, plan):
            run = run or _RunWriter(connection, request)
            run.add(cases)
        _plan_absent(connection, request, plan)
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


def _new_plan(connection: Connection, request: SubmitRequest) -> SubmitPlan:
    refuse_other_depth(connection, request.root, request.patient_depth)
    plan = SubmitPlan(latest=latest_cases(connection, request.root, request.pseudonym_key))
    if not request.everything:
        plan.last_run = last_run(connection, request.root, request.bundle.digest, request.pseudonym_key)
    return plan


def _planned(connection: Connection, request: SubmitRequest, plan: SubmitPlan) -> Iterator[list[_PlannedCase]]:
    """The cases to write, a few thousand captures at a time; `plan` counts them and all other patients with captures.

    A patient gets a new case if a capture is new, changed or removed since the last case with this bundle, or if the
    latest case has withdrawn the result. Unchanged captures are copied, because a result must depend on all captures of
    the patient, and on no others.
    """
    by_patient = (list(captures) for _, captures in groupby(request.captures, key=lambda capture: capture.patient))
    for batch in _batches(by_patient):
        names = [display_name(captures[0].patient) for captures in batch]
        histories: dict[str, History] = {}
        if plan.last_run is not None:
            histories = history_of(connection, request.root, request.bundle.digest, request.pseudonym_key, names)
        cases = [
            _planned_case(name, captures, histories.get(name, History()), plan.latest.get(name))
            for name, captures in zip(names, batch, strict=True)
        ]
        for case in cases:
            plan.count(case)
        if touched := [case for case in cases if case.is_touched]:
            yield touched


def _plan_absent(connection: Connection, request: SubmitRequest, plan: SubmitPlan) -> None:
    """Add the patients without captures to the plan. Those with an earlier result that rests on captures get a case."""
    plan.absent = absent_patients(
        request.without_captures,
        plan.with_captures,
        {name: case.in_force for name, case in plan.latest.items() if case.in_force is not None},
        complete=request.patients_complete,
    )
    codes = {patient.patient: patient.code.value for patient in plan.absent}
    plan.absent_is_news = not codes.items() <= codes_of_run(connection, plan.last_run).items()
    plan.cases += sum(patient.withdraws for patient in plan.absent)


def _batches(cases: Iterable[list[FoundCapture]]) -> Iterator[list[list[FoundCapture]]]:
    batch: list[list[FoundCapture]] = []
    for captures in cases:
        batch.append(captures)
        if sum(map(len, batch)) >= AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch


def _planned_case(
    patient: str, captures: list[FoundCapture], history: History, latest: LatestCase | None
) -> _PlannedCase:
    is_withdrawn = latest is not None and not latest.captures
    rows = [history.reusable(capture) for capture in captures]
    return _PlannedCase(
        patient=patient,
        pending=[capture for capture, row in zip(captures, rows, strict=True) if row is None],
        reused=[row for row in rows if row is not None],
        is_touched=is_withdrawn or not history.is_up_to_date(captures),
        folder_inode=captures[0].folder_inode,
    )


class _RunWriter:
    """Writes a run in several steps within one transaction; its row gets its final numbers at the end."""

    def __init__(self, connection: Connection, request: SubmitRequest) -> None:
        self._connection = connection
        self._request = request
        self._waiting: list[tuple[int, FoundCapture]] = []
        self._complete: list[int] = []
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
                software_version=request.software_version,
                reviewers_required=request.reviewers_required,
                report_at_sign_off=request.report_at_sign_off,
                pseudonym_key=request.pseudonym_key,
                patient_depth=request.patient_depth,
                site=request.site,
            )
            .returning(Run.id)
        ).scalar_one()

    def add(self, cases: Sequence[_PlannedCase]) -> None:
        """Write these cases with their captures; a chunk may hold captures of several cases."""
        case_ids = self._insert_cases(cases)
        for case in cases:
            self._waiting += [(case_ids[case.patient], capture) for capture in case.pending]
        size = self._request.chunk_size
        full = len(self._waiting) // size * size
        self._insert_chunks(self._waiting[:full])
        self._waiting = self._waiting[full:]
        for case in cases:
            self._insert_reused(case_ids[case.patient], case.reused)
            if not case.pending:
                self._complete.append(case_ids[case.patient])

    def add_absent(self, absent: Sequence[Absent]) -> None:
        """Write the patients without captures, and a case without captures for each who had some before."""
        patient_ids = _ensure_patients(self._connection, self._request, [patient.patient for patient in absent])
        write_absent(self._connection, self.id, absent, patient_ids)
        withdrawn = [_PlannedCase(patient.patient, [], [], True) for patient in absent if patient.withdraws]
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
        detail = {reason: list(names) for reason, names in self._request.skipped.items()}
        note(self._connection, EventKind.SUBMITTED, actor=SUBMIT, run_id=self.id, detail={"skipped": detail})
        if self._connection.dialect.name == "postgresql":  # otherwise it would plan for an empty table
            self._connection.execute(text("ANALYZE capture, chunk"))
        for case_ids in slices(self._complete, 500):
            aggregate_finished_cases(self._connection, case_ids)

    def _insert_cases(self, cases: Sequence[_PlannedCase]) -> dict[str, int]:
        patient_ids = _ensure_patients(self._connection, self._request, [case.patient for case in cases])
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
                capture.modified_ns, CaptureState.PENDING.value,
            )
            for chunk_id, piece in zip(chunk_ids, pieces, strict=True)
            for case_id, capture in piece
        )  # fmt: skip
        insert_many(self._connection, Capture.__table__, _PENDING, rows)

    def _insert_reused(self, case_id: int, capture_ids: Sequence[int]) -> None:
        """Copy the rows of unchanged captures within the database."""
        columns = [Capture.__table__.c[name] for name in _COPIED]
        for ids in slices(capture_ids, 500):
            copied = select(literal(self.id), literal(case_id), Capture.id, *columns).where(Capture.id.in_(ids))
            self._connection.execute(
                insert(Capture).from_select(["run_id", "case_id", "reused_from", *_COPIED], copied)
            )


def _ensure_patients(connection: Connection, request: SubmitRequest, external_ids: Sequence[str]) -> dict[str, int]:
    """The ids of these patients of the archive; those that it did not have yet get a row."""
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    pseudonymous = request.pseudonym_key is not None
    patient_ids: dict[str, int] = {}
    for batch in slices(external_ids, 500):
        connection.execute(
            upsert(Patient).on_conflict_do_nothing(index_elements=["root", "external_id"]),
            [{"root": request.root, "external_id": external_id, "pseudonymous": pseudonymous} for external_id in batch],
        )
        rows = connection.execute(
            select(Patient.external_id, Patient.id).where(Patient.root == request.root, Patient.external_id.in_(batch))
        )
        patient_ids |= dict(rows.all())
    return patient_ids
