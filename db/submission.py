"""Writing a run: its rows are the outbox, so one transaction holds run, cases, captures and chunks, and nothing is
published before it is committed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from contract.bundle import Bundle
from contract.names import display_name
from contract.states import PASSING, CaptureState
from db.engine import reading, slices, writing
from db.models import BundleRow, Capture, Case, Chunk, Event, Patient, Run

REUSABLE = (CaptureState.SCREENED, CaptureState.REJECTED)
_COPIED = (
    "path", "path_text", "size_bytes", "modified_ns", "sha256", "state", "reject_code", "reason", "label",
    "probability", "p_all", "probabilities", "cam", "quality", "marks", "novelty", "width", "height", "engine",
    "ended_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoundCapture:
    """A file of the archive: `path` is relative to its root, `patient` is the folder right below the root."""

    path: bytes
    patient: bytes
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class SubmitRequest:
    """What `screen submit` wants written. `root` is the real, absolute path of the archive."""

    root: bytes
    bundle: Bundle
    captures: Sequence[FoundCapture]
    skipped: Mapping[str, Sequence[str]]
    chunk_size: int
    software_version: str
    everything: bool = False


@dataclass(frozen=True)
class SubmitPlan:
    """What a submit does: the cases with something new or changed, with all their captures.

    `reused` maps a capture's path to the id of the earlier row that it is copied from.
    """

    captures: list[FoundCapture]
    reused: dict[bytes, int]
    unchanged: int
    last_run: int | None

    @property
    def cases(self) -> int:
        return len({one.patient for one in self.captures})

    @property
    def pending(self) -> list[FoundCapture]:
        return [one for one in self.captures if one.path not in self.reused]


@dataclass(frozen=True)
class Submission:
    """What was written. Without anything new no run is written, and `run_id` is the last run of this archive."""

    run_id: int | None
    plan: SubmitPlan
    chunk_ids: list[int] = field(default_factory=list)

    @property
    def created(self) -> bool:
        return bool(self.plan.captures)


def plan_submit(engine: Engine, request: SubmitRequest) -> SubmitPlan:
    """What `submit` would do now; writes nothing."""
    with reading(engine) as connection:
        return _plan(connection, request)


def submit(engine: Engine, request: SubmitRequest) -> Submission:
    """Write the run in one transaction. Two submits of the same archive and bundle wait for one another."""
    with writing(engine) as connection:
        _lock_archive(connection, request)
        plan = _plan(connection, request)
        if not plan.captures:
            return Submission(plan.last_run, plan)
        _ensure_bundle(connection, request.bundle)
        run_id = connection.execute(
            insert(Run)
            .values(
                bundle_digest=request.bundle.digest,
                root=request.root,
                root_text=display_name(request.root),
                submitted=len(plan.captures),
                cases=plan.cases,
                skipped=sum(map(len, request.skipped.values())),
                software_version=request.software_version,
            )
            .returning(Run.id)
        ).scalar_one()
        case_ids = _insert_cases(connection, run_id, plan)
        chunk_ids = _insert_pending(connection, run_id, plan, case_ids, request.chunk_size)
        _insert_reused(connection, run_id, plan, case_ids)
        detail = {reason: list(names) for reason, names in request.skipped.items()}
        connection.execute(
            insert(Event).values(kind="submitted", run_id=run_id, actor="submit", detail={"skipped": detail})
        )
        return Submission(run_id, plan, chunk_ids)


def _lock_archive(connection: Connection, request: SubmitRequest) -> None:
    """On SQLite the writing transaction is the lock; on PostgreSQL an advisory lock until the commit."""
    if connection.dialect.name == "postgresql":
        digest = hashlib.sha256(request.root + b"\0" + request.bundle.digest.encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _plan(connection: Connection, request: SubmitRequest) -> SubmitPlan:
    """A case is screened anew when one of its captures is new or changed since the last run with this bundle.

    Its unchanged captures are copied from there, because a result must rest on all captures of the patient.
    """
    earlier: dict[bytes, tuple[int, int, int, str]] = {}
    last_run: int | None = None
    if not request.everything:
        rows = connection.execute(
            select(Capture.path, Capture.size_bytes, Capture.modified_ns, Capture.id, Capture.state, Capture.run_id)
            .join(Run, Run.id == Capture.run_id)
            .where(Run.root == request.root, Run.bundle_digest == request.bundle.digest, Run.cancelled_at.is_(None))
            .where(Capture.reject_code.is_(None) | Capture.reject_code.not_in(PASSING))
            .order_by(Capture.run_id)
        )
        for path, size, modified, capture_id, state, last_run in rows:  # noqa: B007 - the last one is wanted
            earlier[path] = (size, modified, capture_id, state)

    def is_new(one: FoundCapture) -> bool:
        seen = earlier.get(one.path)
        return seen is None or seen[:2] != (one.size_bytes, one.modified_ns)

    touched = {one.patient for one in request.captures if is_new(one)}
    wanted = [one for one in request.captures if one.patient in touched]
    reused = {one.path: earlier[one.path][2] for one in wanted if not is_new(one) and earlier[one.path][3] in REUSABLE}
    return SubmitPlan(wanted, reused, len(request.captures) - len(wanted), last_run)


def _ensure_bundle(connection: Connection, bundle: Bundle) -> None:
    known = connection.execute(select(BundleRow.path).where(BundleRow.digest == bundle.digest)).scalar()
    path = str(bundle.path.resolve())
    if known is None:
        manifest = bundle.manifest.model_dump(mode="json")
        connection.execute(
            insert(BundleRow).values(digest=bundle.digest, name=bundle.manifest.name, path=path, manifest=manifest)
        )
    elif known != path:
        connection.execute(update(BundleRow).where(BundleRow.digest == bundle.digest).values(path=path))


def _insert_cases(connection: Connection, run_id: int, plan: SubmitPlan) -> dict[bytes, int]:
    sizes: dict[bytes, int] = {}
    for one in plan.captures:
        sizes[one.patient] = sizes.get(one.patient, 0) + 1
    external = {patient: display_name(patient) for patient in sizes}
    patient_ids = _ensure_patients(connection, list(external.values()))
    rows = connection.execute(
        insert(Case).returning(Case.id, Case.patient_id),
        [{"run_id": run_id, "patient_id": patient_ids[external[p]], "submitted": n} for p, n in sizes.items()],
    )
    case_of = {patient_id: case_id for case_id, patient_id in rows}
    return {patient: case_of[patient_ids[external[patient]]] for patient in sizes}


def _ensure_patients(connection: Connection, external_ids: Sequence[str]) -> dict[str, int]:
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    found: dict[str, int] = {}
    for some in slices(external_ids, 500):
        connection.execute(
            upsert(Patient).on_conflict_do_nothing(index_elements=["external_id"]),
            [{"external_id": one, "pseudonymous": False} for one in some],
        )
        rows = connection.execute(select(Patient.external_id, Patient.id).where(Patient.external_id.in_(some)))
        found |= dict(rows.all())
    return found


def _insert_pending(
    connection: Connection, run_id: int, plan: SubmitPlan, case_ids: Mapping[bytes, int], chunk_size: int
) -> list[int]:
    pieces = slices(plan.pending, chunk_size)
    if not pieces:
        return []
    chunk_ids = list(
        connection.execute(
            insert(Chunk).returning(Chunk.id, sort_by_parameter_order=True),
            [{"run_id": run_id, "captures": len(piece)} for piece in pieces],
        ).scalars()
    )
    for chunk_id, piece in zip(chunk_ids, pieces, strict=True):
        connection.execute(
            insert(Capture),
            [
                {
                    "run_id": run_id,
                    "case_id": case_ids[one.patient],
                    "chunk_id": chunk_id,
                    "path": one.path,
                    "path_text": display_name(one.path),
                    "size_bytes": one.size_bytes,
                    "modified_ns": one.modified_ns,
                }
                for one in piece
            ],
        )
    return chunk_ids


def _insert_reused(connection: Connection, run_id: int, plan: SubmitPlan, case_ids: Mapping[bytes, int]) -> None:
    """Copy the rows of unchanged captures, case by case, within the database."""
    by_case: dict[int, list[int]] = {}
    for one in plan.captures:
        if one.path in plan.reused:
            by_case.setdefault(case_ids[one.patient], []).append(plan.reused[one.path])
    columns = [Capture.__table__.c[name] for name in _COPIED]
    for case_id, capture_ids in by_case.items():
        for some in slices(capture_ids, 500):
            copied = select(literal(run_id), literal(case_id), Capture.id, *columns).where(Capture.id.in_(some))
            connection.execute(insert(Capture).from_select(["run_id", "case_id", "reused_from", *_COPIED], copied))
