"""Writes a run. Its rows are the outbox: one transaction holds run, cases, captures and chunks, and nothing is
published before its commit.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import Connection, Engine, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.names import display_name
from contract.states import PASSING, CaptureState, EventKind
from db.aggregation import aggregate_finished_cases
from db.audit import SUBMIT, note
from db.columns import Life, columns_of
from db.engine import AnyRow, insert_many, reading, slices, writing
from db.models import BundleRow, Capture, Case, Chunk, Patient, Run

REUSABLE = (CaptureState.SCREENED, CaptureState.REJECTED)
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
    """Fingerprint of the key whose pseudonyms replace patients' names in `captures` and `skipped`; None: real names."""
    site: str | None = None


@dataclass
class SubmitPlan:
    """What a submit does, in numbers: `cases` with a new, changed or removed capture; their captures to screen
    (`pending`) and those copied from an earlier run (`reused`); captures of all other patients (`unchanged`).
    """

    cases: int = 0
    pending: int = 0
    reused: int = 0
    unchanged: int = 0
    last_run: int | None = None

    @property
    def submitted(self) -> int:
        return self.pending + self.reused

    def count(self, case: "_PlannedCase") -> None:
        if case.is_touched:
            self.cases += 1
            self.pending += len(case.pending)
            self.reused += len(case.reused)
        else:
            self.unchanged += case.captures


@dataclass(frozen=True)
class _PlannedCase:
    """One patient's captures: those to screen, and the ids of earlier rows to copy."""

    patient: str
    pending: list[FoundCapture]
    reused: list[int]
    is_touched: bool

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
        return self.plan.cases > 0


def plan_submit(engine: Engine, request: SubmitRequest) -> SubmitPlan:
    """What `submit` would do now; writes nothing."""
    with reading(engine) as connection:
        plan = SubmitPlan(last_run=_last_run(connection, request))
        for cases in _planned(connection, request, plan.last_run):
            for case in cases:
                plan.count(case)
        return plan


def submit(engine: Engine, request: SubmitRequest) -> Submission:
    """Write the run in one transaction. Two submits of the same archive and bundle wait for each other."""
    with writing(engine) as connection:
        _lock_archive(connection, request)
        plan = SubmitPlan(last_run=_last_run(connection, request))
        run: _RunWriter | None = None
        for cases in _planned(connection, request, plan.last_run):
            for case in cases:
                plan.count(case)
            touched = [case for case in cases if case.is_touched]
            if touched:
                run = run or _RunWriter(connection, request)
                run.add(touched)
        if run is None:
            return Submission(plan.last_run, plan)
        run.seal(plan)
        return Submission(run.id, plan, run.chunk_ids)


def _lock_archive(connection: Connection, request: SubmitRequest) -> None:
    """On SQLite the writing transaction is the lock; on PostgreSQL an advisory lock until the commit."""
    if connection.dialect.name == "postgresql":
        digest = hashlib.sha256(request.root + b"\0" + request.bundle.digest.encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _last_run(connection: Connection, request: SubmitRequest) -> int | None:
    """The last run of this archive with this bundle, whose results may be reused."""
    if request.everything:
        return None
    return connection.execute(
        select(func.max(Run.id)).where(
            Run.root == request.root,
            Run.bundle_digest == request.bundle.digest,
            Run.cancelled_at.is_(None),
            Run.pseudonym_key.is_not_distinct_from(request.pseudonym_key),
        )
    ).scalar()


def _planned(connection: Connection, request: SubmitRequest, last_run: int | None) -> Iterator[list[_PlannedCase]]:
    """All cases of the request, a few thousand captures at a time.

    A patient gets a new case if a capture is new, changed or removed since the last case with this bundle. Unchanged
    captures are copied from there, because a result must depend on all captures of the patient, and on no others.
    """
    by_patient = (list(captures) for _, captures in groupby(request.captures, key=lambda capture: capture.patient))
    for cases in _batches(by_patient):
        earlier = _earlier(connection, request, cases) if last_run is not None else {}
        yield [_planned_case(captures, earlier.get(display_name(captures[0].patient), {})) for captures in cases]


def _batches(cases: Iterable[list[FoundCapture]]) -> Iterator[list[list[FoundCapture]]]:
    batch: list[list[FoundCapture]] = []
    for captures in cases:
        batch.append(captures)
        if sum(map(len, batch)) >= AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch


_Earlier = dict[bytes, AnyRow]
"""For one patient: path -> the latest row of that capture."""


def _planned_case(captures: list[FoundCapture], earlier: _Earlier) -> _PlannedCase:
    def is_new(capture: FoundCapture) -> bool:
        row = earlier.get(capture.path)
        return row is None or (row.size_bytes, row.modified_ns) != (capture.size_bytes, capture.modified_ns)

    paths = {capture.path for capture in captures}
    last_case = max((row.case_id for row in earlier.values()), default=None)
    is_removed = any(row.case_id == last_case and path not in paths for path, row in earlier.items())
    reused = [capture for capture in captures if not is_new(capture) and earlier[capture.path].state in REUSABLE]
    reused_paths = {capture.path for capture in reused}
    return _PlannedCase(
        patient=display_name(captures[0].patient),
        pending=[capture for capture in captures if capture.path not in reused_paths],
        reused=[earlier[capture.path].id for capture in reused],
        is_touched=is_removed or any(map(is_new, captures)),
    )


def _earlier(
    connection: Connection, request: SubmitRequest, cases: Sequence[list[FoundCapture]]
) -> dict[str, _Earlier]:
    """The latest rows of these patients' captures in earlier runs of this archive with this bundle."""
    earlier: dict[str, _Earlier] = {}
    for patients in slices([display_name(captures[0].patient) for captures in cases], 500):
        rows = connection.execute(
            select(
                Patient.external_id, Capture.path, Capture.size_bytes, Capture.modified_ns, Capture.id, Capture.case_id,
                Capture.state,
            )
            .join(Case, Case.id == Capture.case_id)
            .join(Patient, Patient.id == Case.patient_id)
            .join(Run, Run.id == Case.run_id)
            .where(Patient.root == request.root, Patient.external_id.in_(patients))
            .where(Run.root == request.root, Run.bundle_digest == request.bundle.digest, Run.cancelled_at.is_(None))
            .where(Run.pseudonym_key.is_not_distinct_from(request.pseudonym_key))
            .where(Capture.reject_code.is_(None) | Capture.reject_code.not_in(PASSING))
            .order_by(Capture.run_id)
        )  # fmt: skip
        for row in rows:
            earlier.setdefault(row.external_id, {})[row.path] = row
    return earlier


class _RunWriter:
    """Writes a run in several steps within one transaction; its row gets its final numbers at the end."""

    def __init__(self, connection: Connection, request: SubmitRequest) -> None:
        self._connection = connection
        self._request = request
        self._waiting: list[tuple[int, FoundCapture]] = []
        self._complete: list[int] = []
        self.chunk_ids: list[int] = []
        _ensure_bundle(connection, request.bundle)
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

    def seal(self, plan: SubmitPlan) -> None:
        """Write the last chunks, the results of cases that wait for no capture, and the run's numbers."""
        self._insert_chunks(self._waiting)
        self._connection.execute(
            update(Run).where(Run.id == self.id).values(submitted=plan.submitted, cases=plan.cases)
        )
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
                {"run_id": self.id, "patient_id": patient_ids[case.patient], "submitted": case.captures}
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


def _ensure_bundle(connection: Connection, bundle: Bundle) -> None:
    stored_path = connection.execute(select(BundleRow.path).where(BundleRow.digest == bundle.digest)).scalar()
    path = str(bundle.path.resolve())
    if stored_path is None:
        manifest = bundle.manifest.model_dump(mode="json")
        connection.execute(
            insert(BundleRow).values(digest=bundle.digest, name=bundle.manifest.name, path=path, manifest=manifest)
        )
    elif stored_path != path:
        connection.execute(update(BundleRow).where(BundleRow.digest == bundle.digest).values(path=path))


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
