"""The tables. docs/data.md describes every column; a test fails where it does not.

No code creates these from the models: the migrations build the schema, on SQLite and PostgreSQL alike, and a test
compares the two.
"""

from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from contract.states import CaptureState, CaseState, ChunkState, RejectCode, ReportCause, ReviewAction, Verdict
from db.clock import UTCDateTime, db_now

BigId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts up by itself on SQLite


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(v)) for v in values)})"


class Life(StrEnum):
    """When a column of a case, a chunk or a capture gets its value, and when it loses it again.

    What copies rows, opens them again or gives them back derives its lists of columns from this (`columns_of`).
    """

    KEY = "which row it is, and where it belongs"
    SEALED = "written by submit, and never changed; a copied row takes it along"
    STATE = "where the row stands"
    OUTCOME = "what became of it; a copied row takes it along, and trying again empties it"
    LEASE = "who works on it; empty in a row that waits"
    HISTORY = "what happened to it so far, whatever its state"


_LIFE, _COMPARED = "life", "compared"


def _lived(life: Life, *arguments: Any, compared: bool = False, **options: Any) -> Any:
    """A column with this life. `compared`: `screen fsck --against` looks whether two runs agree on it."""
    return mapped_column(*arguments, info={_LIFE: life, _COMPARED: compared}, **options)


_key = partial(_lived, Life.KEY)
_sealed = partial(_lived, Life.SEALED)
_state = partial(_lived, Life.STATE, compared=True)
_outcome = partial(_lived, Life.OUTCOME)
_lease = partial(_lived, Life.LEASE)
_history = partial(_lived, Life.HISTORY)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UTCDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class BundleRow(Base):
    """A bundle that a run was submitted with."""

    __tablename__ = "bundle"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())


class Run(Base):
    """One submit of one archive with one bundle. Its captures and cases are sealed when it is written."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    bundle_digest: Mapped[str] = mapped_column(ForeignKey("bundle.digest"))
    root: Mapped[bytes] = mapped_column(LargeBinary)
    root_text: Mapped[str] = mapped_column(Text)
    submitted: Mapped[int]
    cases: Mapped[int]
    skipped: Mapped[int]
    reviewers_required: Mapped[int] = mapped_column(server_default="1")
    report_at_sign_off: Mapped[bool] = mapped_column(server_default=false())
    pseudonym_key: Mapped[str | None] = mapped_column(String(16))
    software_version: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())
    cancelled_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "root", "bundle_digest"),)


class Patient(Base):
    """The only place that holds a patient's external id."""

    __tablename__ = "patient"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    external_id: Mapped[str] = mapped_column(Text, unique=True)
    pseudonymous: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())


class Case(Base):
    """One patient in one run. The result columns are empty while it is open."""

    __tablename__ = "case"

    id: Mapped[int] = _key(BigId, primary_key=True)
    run_id: Mapped[int] = _key(ForeignKey("run.id", ondelete="CASCADE"))
    patient_id: Mapped[int] = _key(ForeignKey("patient.id"), index=True)
    state: Mapped[str] = _state(String(16), default=CaseState.OPEN)
    submitted: Mapped[int] = _sealed()
    screened: Mapped[int | None] = _outcome()
    rejected: Mapped[int | None] = _outcome()
    quarantined: Mapped[int | None] = _outcome()
    excluded: Mapped[int | None] = _outcome()
    novel: Mapped[int | None] = _outcome()
    verdict: Mapped[str | None] = _outcome(String(16), compared=True)
    subtype: Mapped[str | None] = _outcome(Text, compared=True)
    subtype_margin: Mapped[float | None] = _outcome()
    score: Mapped[float | None] = _outcome(compared=True)
    score_low: Mapped[float | None] = _outcome()
    score_high: Mapped[float | None] = _outcome()
    priority: Mapped[float | None] = _outcome()
    reasons: Mapped[list[Any] | None] = _outcome()
    identity_conflict: Mapped[bool | None] = _outcome()
    case_rule: Mapped[str | None] = _outcome(Text)
    case_policy: Mapped[dict[str, Any] | None] = _outcome()
    aggregated_at: Mapped[datetime | None] = _outcome()
    review_holder: Mapped[str | None] = _history(Text)
    review_held_until: Mapped[datetime | None] = _history()

    __table_args__ = (
        UniqueConstraint("run_id", "patient_id"),
        Index(None, "state", "priority"),
        CheckConstraint(_one_of("state", CaseState), name="state"),
        CheckConstraint(_one_of("verdict", Verdict), name="verdict"),
        CheckConstraint(
            "state = 'open' OR (verdict IS NOT NULL AND submitted = coalesce(screened + rejected + quarantined, -1))",
            name="aggregated_accounts_for_all",
        ),
    )


class Chunk(Base):
    """A fixed list of captures, cut across patients; what a message names and a worker leases."""

    __tablename__ = "chunk"

    id: Mapped[int] = _key(BigId, primary_key=True)
    run_id: Mapped[int] = _key(ForeignKey("run.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = _state(String(16), default=ChunkState.PENDING)
    captures: Mapped[int] = _sealed()
    attempts: Mapped[int] = _history(default=0)
    lease_token: Mapped[str | None] = _lease(String(32))
    lease_until: Mapped[datetime | None] = _lease()
    worker: Mapped[str | None] = _history(Text)
    published_at: Mapped[datetime | None] = _lease()
    done_at: Mapped[datetime | None] = _outcome()
    last_error: Mapped[str | None] = _history(Text)
    seconds: Mapped[dict[str, Any] | None] = _outcome()

    __table_args__ = (
        Index(None, "state", "lease_until"),
        CheckConstraint(_one_of("state", ChunkState), name="state"),
        CheckConstraint(
            "(state = 'leased') = (lease_token IS NOT NULL AND lease_until IS NOT NULL)", name="lease_when_leased"
        ),
    )


class Capture(Base):
    """One file of the archive in one run, and what became of it."""

    __tablename__ = "capture"

    id: Mapped[int] = _key(BigId, primary_key=True)
    run_id: Mapped[int] = _key(ForeignKey("run.id", ondelete="CASCADE"))
    case_id: Mapped[int] = _key(ForeignKey("case.id", ondelete="CASCADE"), index=True)
    chunk_id: Mapped[int | None] = _key(ForeignKey("chunk.id", ondelete="SET NULL"), index=True)
    path: Mapped[bytes] = _sealed(LargeBinary)
    path_text: Mapped[str] = _sealed(Text)
    size_bytes: Mapped[int] = _sealed(BigInteger)
    modified_ns: Mapped[int] = _sealed(BigInteger)
    sha256: Mapped[str | None] = _outcome(String(64), compared=True)
    state: Mapped[str] = _state(String(16), default=CaptureState.PENDING)
    reject_code: Mapped[str | None] = _outcome(String(32), compared=True)
    reason: Mapped[str | None] = _outcome(Text)
    label: Mapped[str | None] = _outcome(Text, compared=True)
    probability: Mapped[float | None] = _outcome()
    p_all: Mapped[float | None] = _outcome()
    probabilities: Mapped[list[Any] | None] = _outcome(compared=True)
    cam: Mapped[bytes | None] = _outcome(LargeBinary)
    quality: Mapped[dict[str, Any] | None] = _outcome()
    marks: Mapped[list[Any] | None] = _outcome()
    novelty: Mapped[float | None] = _outcome()
    excluded: Mapped[bool | None] = _outcome()
    camera: Mapped[str | None] = _outcome(Text)
    captured_at: Mapped[datetime | None] = _outcome(DateTime)
    width: Mapped[int | None] = _outcome()
    height: Mapped[int | None] = _outcome()
    engine: Mapped[str | None] = _outcome(Text)
    reused_from: Mapped[int | None] = _key(ForeignKey("capture.id", ondelete="SET NULL"), index=True)
    ended_at: Mapped[datetime | None] = _outcome()

    __table_args__ = (
        UniqueConstraint("run_id", "path"),
        Index(None, "run_id", "state"),
        Index(None, "sha256"),
        CheckConstraint(_one_of("state", CaptureState), name="state"),
        CheckConstraint(_one_of("reject_code", RejectCode), name="reject_code"),
        CheckConstraint("(state = 'screened') = (probabilities IS NOT NULL)", name="screened_has_probabilities"),
        CheckConstraint("(state = 'rejected') = (reject_code IS NOT NULL)", name="rejected_has_code"),
    )


class Review(Base):
    """What reviewers did, append-only: triggers refuse to update or delete a row (db.append_only)."""

    __tablename__ = "review"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), index=True)
    action: Mapped[str] = mapped_column(String(16))
    reviewer: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str | None] = mapped_column(String(16))
    subtype: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(Text)
    bundle_digest: Mapped[str] = mapped_column(ForeignKey("bundle.digest"))
    software_version: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())

    __table_args__ = (
        CheckConstraint(_one_of("action", ReviewAction), name="action"),
        CheckConstraint(_one_of("verdict", Verdict), name="verdict"),
        CheckConstraint(
            "action <> 'override' OR (verdict IS NOT NULL AND comment IS NOT NULL)", name="override_says_why"
        ),
    )


class ReportQueue(Base):
    """One row per finished case for other systems: taken with SKIP LOCKED, acknowledged when delivered."""

    __tablename__ = "report_queue"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"))
    cause: Mapped[str] = mapped_column(String(16))
    replaces_id: Mapped[int | None] = mapped_column(ForeignKey("report_queue.id", ondelete="CASCADE"), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())
    taken_by: Mapped[str | None] = mapped_column(Text)
    taken_until: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "run_id"),
        Index("ix_report_queue_waiting", "acknowledged_at", "id"),
        # A case is reported once when it is screened; whatever comes later names the row that it replaces.
        Index(
            "uq_report_queue_first_of_case",
            "case_id",
            unique=True,
            sqlite_where=(replaces_id.is_(None)),
            postgresql_where=(replaces_id.is_(None)),
        ),
        CheckConstraint(_one_of("cause", ReportCause), name="cause"),
        CheckConstraint(
            "(cause IN ('screened', 'signed_off')) = (replaces_id IS NULL)", name="correction_names_what_it_replaces"
        ),
    )


class Event(Base):
    """What happened, append-only, for the audit. `detail` holds no patient id."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=db_now())
    kind: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    case_id: Mapped[int | None] = mapped_column(BigInteger)
    capture_id: Mapped[int | None] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)


def columns_of(model: type[Base], *lives: Life, compared: bool = False) -> tuple[str, ...]:
    """Names of the columns with one of these lives, or of those that are `compared`, in the order of the table."""
    return tuple(
        name
        for name, column in model.__table__.c.items()
        if (column.info.get(_COMPARED, False) if compared else column.info.get(_LIFE) in lives)
    )
