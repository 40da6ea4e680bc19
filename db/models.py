"""The tables. Every column says in `doc` what it means: `make docs` prints that in docs/data.md.

No code creates these from the models: the migrations build the schema, on SQLite and PostgreSQL alike, and a test
compares the two.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from contract.states import CaptureState, CaseState, ChunkState, RejectCode, ReportCause, ReviewAction, Verdict
from db.clock import db_now
from db.columns import Base, BigId, history, key, lease, one_of, outcome, sealed, standing


class BundleRow(Base):
    """A bundle that a run was submitted with."""

    __tablename__ = "bundle"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True, doc="sha256 of bundle.json")
    name: Mapped[str] = mapped_column(Text, doc="name in the manifest")
    path: Mapped[str] = mapped_column(Text, doc="where it lay at the last submit")
    manifest: Mapped[dict[str, Any]] = mapped_column(
        doc="the whole manifest, so that results can be recomputed without the files"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="first submit with it")


class Run(Base):
    """One submit of one archive with one bundle. Its captures and cases are sealed when it is written."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="number of the run")
    bundle_digest: Mapped[str] = mapped_column(ForeignKey("bundle.digest"), doc="the bundle, fixed for the run")
    root: Mapped[bytes] = mapped_column(LargeBinary, doc="the archive's real path as bytes")
    root_text: Mapped[str] = mapped_column(Text, doc="the same as text")
    submitted: Mapped[int] = mapped_column(doc="captures, sealed")
    cases: Mapped[int] = mapped_column(doc="patients, sealed")
    skipped: Mapped[int] = mapped_column(doc="files passed over; their names are in the event `submitted`")
    reviewers_required: Mapped[int] = mapped_column(
        server_default="1", doc="reviewers who must agree before a case is closed"
    )
    report_at_sign_off: Mapped[bool] = mapped_column(
        server_default=false(), doc="whether its cases go to the reporting queue only when reviewers have closed them"
    )
    pseudonym_key: Mapped[str | None] = mapped_column(
        String(16), doc="fingerprint of the key that made its patients' pseudonyms; empty where they are named"
    )
    software_version: Mapped[str] = mapped_column(Text, doc="slide-screen that wrote the run")
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of submit")
    cancelled_at: Mapped[datetime | None] = mapped_column(doc="set when the run is cancelled")

    __table_args__ = (Index(None, "root", "bundle_digest"),)


class Patient(Base):
    """The only place that holds a patient's external id."""

    __tablename__ = "patient"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="key")
    external_id: Mapped[str] = mapped_column(
        Text, unique=True, doc="the folder's name right below the archive's root, as text"
    )
    pseudonymous: Mapped[bool] = mapped_column(default=False, doc="whether external_id is a pseudonym")
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="first submit")


class Case(Base):
    """One patient in one run. The result columns are empty while it is open."""

    __tablename__ = "case"

    id: Mapped[int] = key(BigId, primary_key=True, doc="key")
    run_id: Mapped[int] = key(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    patient_id: Mapped[int] = key(ForeignKey("patient.id"), index=True, doc="the patient")
    state: Mapped[str] = standing(String(16), default=CaseState.OPEN, doc="`open`, then `aggregated`")
    submitted: Mapped[int] = sealed(doc="captures, sealed")
    screened: Mapped[int | None] = outcome(doc="counted when aggregated")
    rejected: Mapped[int | None] = outcome(doc="counted when aggregated")
    quarantined: Mapped[int | None] = outcome(
        doc="counted when aggregated; the three add up to submitted, which a CHECK enforces"
    )
    excluded: Mapped[int | None] = outcome(
        doc="of the screened ones, those that do not count for the result because of their marks"
    )
    novel: Mapped[int | None] = outcome(doc="of the screened ones, those marked `novel`")
    verdict: Mapped[str | None] = outcome(String(16), compared=True, doc="see below")
    subtype: Mapped[str | None] = outcome(Text, compared=True, doc="most probable subtype")
    subtype_margin: Mapped[float | None] = outcome(doc="its lead")
    score: Mapped[float | None] = outcome(compared=True, doc="for ALL, by the case rule")
    score_low: Mapped[float | None] = outcome(doc="interval")
    score_high: Mapped[float | None] = outcome(doc="interval")
    priority: Mapped[float | None] = outcome(doc="place in the review queue")
    reasons: Mapped[list[Any] | None] = outcome(doc="JSON list of `{code, sentence}`")
    identity_conflict: Mapped[bool | None] = outcome(doc="whether a capture lies under another patient too")
    case_rule: Mapped[str | None] = outcome(Text, doc="rule and version")
    case_policy: Mapped[dict[str, Any] | None] = outcome(
        doc="JSON: rule, parameters and thresholds, where the case was recomputed with others than its bundle's"
    )
    aggregated_at: Mapped[datetime | None] = outcome(doc="time of the result")
    review_holder: Mapped[str | None] = history(
        Text,
        doc=(
            "to whom `screen review next` has handed it; a hand-out, no record: it changes, and is emptied when "
            "she acts"
        ),
    )
    review_held_until: Mapped[datetime | None] = history(doc="until when nobody else is handed it")

    __table_args__ = (
        UniqueConstraint("run_id", "patient_id"),
        Index(None, "state", "priority"),
        CheckConstraint(one_of("state", CaseState), name="state"),
        CheckConstraint(one_of("verdict", Verdict), name="verdict"),
        CheckConstraint(
            "state = 'open' OR (verdict IS NOT NULL AND submitted = coalesce(screened + rejected + quarantined, -1))",
            name="aggregated_accounts_for_all",
        ),
    )


class Chunk(Base):
    """A fixed list of captures, cut across patients; what a message names and a worker leases."""

    __tablename__ = "chunk"

    id: Mapped[int] = key(BigId, primary_key=True, doc="key, and all that a message holds")
    run_id: Mapped[int] = key(ForeignKey("run.id", ondelete="CASCADE"), index=True, doc="the run")
    state: Mapped[str] = standing(String(16), default=ChunkState.PENDING, doc="`pending`, `leased`, `done`")
    captures: Mapped[int] = sealed(doc="how many")
    attempts: Mapped[int] = history(default=0, doc="claims so far")
    lease_token: Mapped[str | None] = lease(String(32), doc="proves the lease; random")
    lease_until: Mapped[datetime | None] = lease(doc="end of the lease, by the database's clock")
    worker: Mapped[str | None] = history(Text, doc="host, process and its token that claimed it last")
    published_at: Mapped[datetime | None] = lease(doc="when its message was sent last")
    done_at: Mapped[datetime | None] = outcome(doc="when it was finished")
    last_error: Mapped[str | None] = history(
        Text, doc="why a worker gave it back last; `screen watch` and `screen status` show it"
    )
    seconds: Mapped[dict[str, Any] | None] = outcome(
        doc="JSON: where the worker's time went (read, decode, quality, wait, infer, total)"
    )

    __table_args__ = (
        Index(None, "state", "lease_until"),
        CheckConstraint(one_of("state", ChunkState), name="state"),
        CheckConstraint(
            "(state = 'leased') = (lease_token IS NOT NULL AND lease_until IS NOT NULL)", name="lease_when_leased"
        ),
    )


class Capture(Base):
    """One file of the archive in one run, and what became of it."""

    __tablename__ = "capture"

    id: Mapped[int] = key(BigId, primary_key=True, doc="key")
    run_id: Mapped[int] = key(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    case_id: Mapped[int] = key(ForeignKey("case.id", ondelete="CASCADE"), index=True, doc="the case")
    chunk_id: Mapped[int | None] = key(
        ForeignKey("chunk.id", ondelete="SET NULL"), index=True, doc="its chunk; empty for a reused capture"
    )
    path: Mapped[bytes] = sealed(LargeBinary, doc="relative to the archive's root, as bytes")
    path_text: Mapped[str] = sealed(Text, doc="the same as text: UTF-8 as it is, other bytes as `\\xNN`")
    size_bytes: Mapped[int] = sealed(BigInteger, doc="at submit")
    modified_ns: Mapped[int] = sealed(BigInteger, doc="modification time at submit, nanoseconds since 1970")
    sha256: Mapped[str | None] = outcome(
        String(64), compared=True, doc="of the bytes that were decoded; empty where they could not be read"
    )
    state: Mapped[str] = standing(
        String(16), default=CaptureState.PENDING, doc="`pending`, then one of `screened`, `rejected`, `quarantined`"
    )
    reject_code: Mapped[str | None] = outcome(String(32), compared=True, doc="see below, for rejected captures")
    reason: Mapped[str | None] = outcome(Text, doc="sentence, for rejected and quarantined captures")
    label: Mapped[str | None] = outcome(Text, compared=True, doc="the most probable label")
    probability: Mapped[float | None] = outcome(doc="its probability")
    p_all: Mapped[float | None] = outcome(doc="1 - P(benign label)")
    probabilities: Mapped[list[Any] | None] = outcome(
        compared=True, doc="JSON list in the order of the bundle's labels"
    )
    cam: Mapped[bytes | None] = outcome(
        LargeBinary,
        doc=(
            "activation map of the label: float16, row by row, as many rows as columns; empty where the bundle has none"
        ),
    )
    quality: Mapped[dict[str, Any] | None] = outcome(doc="JSON: its [measures of quality](#quality)")
    marks: Mapped[list[Any] | None] = outcome(doc="JSON list of `{code, sentence}`: its [marks](#marks)")
    novelty: Mapped[float | None] = outcome(
        doc="distance of its embedding from the training captures; above 1 it is marked `novel`; empty where the "
        "bundle has no reference"
    )
    excluded: Mapped[bool | None] = outcome(doc="whether its marks keep it out of the case's result")
    camera: Mapped[str | None] = outcome(Text, doc="camera model in the file's EXIF; empty where there is none")
    captured_at: Mapped[datetime | None] = outcome(
        DateTime, doc="when the file's EXIF says it was taken, by the microscope's clock, without a time zone"
    )
    width: Mapped[int | None] = outcome(doc="pixels, upright")
    height: Mapped[int | None] = outcome(doc="pixels, upright")
    engine: Mapped[str | None] = outcome(Text, doc="engine and precision, such as `openvino/bfloat16`")
    reused_from: Mapped[int | None] = key(
        ForeignKey("capture.id", ondelete="SET NULL"),
        index=True,
        doc="the capture of an earlier run whose row was copied",
    )
    ended_at: Mapped[datetime | None] = outcome(doc="when it ended")

    __table_args__ = (
        UniqueConstraint("run_id", "path"),
        Index(None, "run_id", "state"),
        Index(None, "sha256"),
        CheckConstraint(one_of("state", CaptureState), name="state"),
        CheckConstraint(one_of("reject_code", RejectCode), name="reject_code"),
        CheckConstraint("(state = 'screened') = (probabilities IS NOT NULL)", name="screened_has_probabilities"),
        CheckConstraint("(state = 'rejected') = (reject_code IS NOT NULL)", name="rejected_has_code"),
    )


class Review(Base):
    """What reviewers did, append-only: triggers refuse to update or delete a row (db.append_only)."""

    __tablename__ = "review"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="key")
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), index=True, doc="the case")
    action: Mapped[str] = mapped_column(String(16), doc="`confirm`, `override`, `defer`, `comment`, `second_opinion`")
    reviewer: Mapped[str] = mapped_column(Text, doc="who, by the name that she gave")
    verdict: Mapped[str | None] = mapped_column(String(16), doc="of an override, and what a confirm has confirmed")
    subtype: Mapped[str | None] = mapped_column(
        Text, doc="the same; empty where there is none, or for ALL where it is not known"
    )
    comment: Mapped[str | None] = mapped_column(Text, doc="required for an override and a comment")
    bundle_digest: Mapped[str] = mapped_column(ForeignKey("bundle.digest"), doc="the bundle that was reviewed")
    software_version: Mapped[str] = mapped_column(Text, doc="slide-screen")
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="when")

    __table_args__ = (
        CheckConstraint(one_of("action", ReviewAction), name="action"),
        CheckConstraint(one_of("verdict", Verdict), name="verdict"),
        CheckConstraint(
            "action <> 'override' OR (verdict IS NOT NULL AND comment IS NOT NULL)", name="override_says_why"
        ),
    )


class ReportQueue(Base):
    """One row per finished case for other systems: taken with SKIP LOCKED, acknowledged when delivered."""

    __tablename__ = "report_queue"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="key")
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), doc="the case")
    cause: Mapped[str] = mapped_column(
        String(16),
        doc=(
            "`screened`, or `signed_off` where the run's results wait for that; `override` by a reviewer; "
            "`recomputed`: captures were tried again, one was found under another patient too, or `screen "
            "recompute --apply`"
        ),
    )
    replaces_id: Mapped[int | None] = mapped_column(
        ForeignKey("report_queue.id", ondelete="CASCADE"), unique=True, doc="the row that this one corrects"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="when")
    taken_by: Mapped[str | None] = mapped_column(Text, doc="consumer")
    taken_until: Mapped[datetime | None] = mapped_column(doc="end of its lease")
    acknowledged_at: Mapped[datetime | None] = mapped_column(doc="when it was delivered")

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
        CheckConstraint(one_of("cause", ReportCause), name="cause"),
        CheckConstraint(
            "(cause IN ('screened', 'signed_off')) = (replaces_id IS NULL)", name="correction_names_what_it_replaces"
        ),
    )


class Event(Base):
    """What happened, append-only, for the audit. `detail` holds no patient id."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="key")
    at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="when")
    kind: Mapped[str] = mapped_column(String(32), doc="what")
    run_id: Mapped[int | None] = mapped_column(BigInteger, index=True, doc="the run")
    case_id: Mapped[int | None] = mapped_column(BigInteger, doc="the case")
    capture_id: Mapped[int | None] = mapped_column(BigInteger, doc="the capture")
    actor: Mapped[str] = mapped_column(Text, doc="`submit` or `worker`")
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="JSON")
