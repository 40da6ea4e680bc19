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
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from contract.states import (
    CaptureState,
    CaseState,
    ChunkState,
    NoCaptures,
    RejectCode,
    ReportCause,
    ReviewAction,
    Verdict,
)
from db.clock import db_now
from db.columns import NUMBERS_ONCE, Base, BigId, history, key, lease, one_of, outcome, sealed, standing


class BundleRow(Base):
    """A bundle that a run was submitted with."""

    __tablename__ = "bundle"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True, doc="sha256 of bundle.json")
    name: Mapped[str] = mapped_column(Text, doc="name in the manifest")
    path: Mapped[str] = mapped_column(Text, doc="its path at the last submit")
    manifest: Mapped[dict[str, Any]] = mapped_column(
        doc="the whole manifest, so that results can be recomputed without the files"
    )
    warnings: Mapped[list[Any] | None] = mapped_column(
        doc="JSON list of sentences: its notice and the warnings of its model card; of a bundle last submitted before "
        "schema 0006 only the notice"
    )
    training_captures: Mapped[int | None] = mapped_column(
        doc="how many captures it was made with, training and validation; empty if it does not list them"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of the first submit with it")


class TrainingCapture(Base):
    """A capture that a bundle was made with, in its training or its validation split."""

    __tablename__ = "training_capture"

    bundle_digest: Mapped[str] = mapped_column(
        ForeignKey("bundle.digest", ondelete="CASCADE"), primary_key=True, doc="the bundle"
    )
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True, doc="sha256 of the capture's file")


class Run(Base):
    """One submit of one archive with one bundle. Its captures and cases are fixed when it is written."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="number of the run")
    bundle_digest: Mapped[str] = mapped_column(ForeignKey("bundle.digest"), doc="the bundle, fixed for the run")
    root: Mapped[bytes] = mapped_column(LargeBinary, doc="the archive's real path as bytes")
    root_text: Mapped[str] = mapped_column(Text, doc="the archive's real path as text")
    submitted: Mapped[int] = mapped_column(doc="number of captures, fixed at submit")
    cases: Mapped[int] = mapped_column(doc="number of cases, fixed at submit")
    patients: Mapped[int | None] = mapped_column(
        doc="number of patients that the archive had at submit, also those without a case; empty before schema 0004"
    )
    patients_unchanged: Mapped[int | None] = mapped_column(
        doc="those of them without a case: nothing of them was new, changed or removed; empty before schema 0004"
    )
    patients_without_captures: Mapped[int] = mapped_column(
        server_default="0", doc="those of them without captures: the rows of `patient_without_captures`"
    )
    patient_depth: Mapped[int] = mapped_column(
        server_default="1", doc="how many levels below the archive's root the patients' folders lie"
    )
    reused: Mapped[int] = mapped_column(
        server_default="0", doc="number of captures whose row was copied from an earlier run, fixed at submit"
    )
    skipped: Mapped[int] = mapped_column(doc="number of skipped files")
    skipped_files: Mapped[dict[str, Any] | None] = mapped_column(
        doc="JSON: the names of the skipped files, by the reason; pseudonyms replace patients' names where the run has "
        "them; empty where an earlier purge has removed them"
    )
    reviewers_required: Mapped[int] = mapped_column(
        server_default="1", doc="reviewers who must agree before a case is closed"
    )
    report_at_sign_off: Mapped[bool] = mapped_column(
        server_default=false(), doc="whether its cases go to the reporting queue only when reviewers have closed them"
    )
    pseudonym_key: Mapped[str | None] = mapped_column(
        String(16), doc="fingerprint of the key that made its patients' pseudonyms; empty if they have none"
    )
    site: Mapped[str | None] = mapped_column(
        String(32), doc="the laboratory's SCREEN_SITE at submit; empty if it was not set, and before schema 0007"
    )
    software_version: Mapped[str] = mapped_column(Text, doc="version of slide-screen that wrote the run")
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of submit")
    cancelled_at: Mapped[datetime | None] = mapped_column(doc="set when the run is cancelled")

    __table_args__ = (Index(None, "root", "bundle_digest"), NUMBERS_ONCE)


class ThisDatabase(Base):
    """One row: what tells this database apart from every other one."""

    __tablename__ = "this_database"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False, doc="always 1")
    uuid: Mapped[str] = mapped_column(
        String(36),
        doc="a random UUID, drawn when the database is made and again by `screen db restored`; queue rows and messages "
        "carry it, exported ids are made from it",
    )

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Patient(Base):
    """A patient's folder of one archive, and the only place that holds a patient's external id."""

    __tablename__ = "patient"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="primary key")
    root: Mapped[bytes] = mapped_column(
        LargeBinary, doc="the archive's real path as bytes: the same name in another archive is another patient"
    )
    external_id: Mapped[str] = mapped_column(
        Text, doc="the path of the patient's folder below the archive's root, as text; mostly one name"
    )
    pseudonymous: Mapped[bool] = mapped_column(default=False, doc="whether external_id is a pseudonym")
    look_alike: Mapped[str | None] = mapped_column(
        Text,
        doc="key that folders have in common whose names look the same, of a pseudonym hashed with its key; empty for "
        "pseudonyms from before schema 0015 that were not submitted since",
    )
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of the first submit")

    __table_args__ = (UniqueConstraint("root", "external_id"), Index(None, "root", "look_alike"))


class Case(Base):
    """One patient in one run. The result columns are empty while it is open."""

    __tablename__ = "case"

    id: Mapped[int] = key(BigId, primary_key=True, doc="primary key")
    run_id: Mapped[int] = key(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    patient_id: Mapped[int] = key(ForeignKey("patient.id"), doc="the patient")
    state: Mapped[str] = standing(String(16), default=CaseState.OPEN, doc="`open`, then `aggregated`")
    submitted: Mapped[int] = sealed(doc="number of captures, fixed at submit")
    folder_inode: Mapped[int | None] = sealed(
        BigInteger, doc="inode of the patient's folder at submit: a worker tells by it whether the same disk is mounted"
    )
    screened: Mapped[int | None] = outcome(doc="number of screened captures, counted when the case is aggregated")
    rejected: Mapped[int | None] = outcome(doc="number of rejected captures, counted in the same way")
    quarantined: Mapped[int | None] = outcome(
        doc="number of quarantined captures; a CHECK enforces that the three add up to submitted"
    )
    excluded: Mapped[int | None] = outcome(
        doc="number of screened captures that do not count for the result because of their marks"
    )
    novel: Mapped[int | None] = outcome(doc="number of screened captures marked `novel`")
    counting: Mapped[int | None] = outcome(
        doc="number of captures that count for the result: screened, not excluded, each file once; empty for results "
        "from before schema 0016"
    )
    nucleated_cells: Mapped[int | None] = outcome(
        doc="number of nucleated cells in the captures that count, as far as it is known; empty if it is known of none"
    )
    cells_at_least: Mapped[bool | None] = outcome(
        doc="whether there may be more: of some captures that count it is not known, or a capture has 64 or more"
    )
    verdict: Mapped[str | None] = outcome(String(16), compared=True, doc="see [Verdicts](#verdicts)")
    subtype: Mapped[str | None] = outcome(Text, compared=True, doc="the most probable subtype")
    subtype_margin: Mapped[float | None] = outcome(doc="how far it is ahead of the next, as a share of P(ALL)")
    score: Mapped[float | None] = outcome(compared=True, doc="score for ALL, by the case rule")
    score_low: Mapped[float | None] = outcome(doc="lower end of the score's interval")
    score_high: Mapped[float | None] = outcome(doc="upper end of the score's interval")
    priority: Mapped[float | None] = outcome(doc="place in the review queue: higher is more urgent")
    reasons: Mapped[list[Any] | None] = outcome(doc="JSON list of `{code, sentence}`")
    identity_conflict: Mapped[bool | None] = outcome(
        doc="whether a capture of it also lies under another patient, or another folder's name looks the same, and "
        "nobody has settled that"
    )
    case_rule: Mapped[str | None] = outcome(Text, doc="name and version of the case rule")
    case_policy: Mapped[dict[str, Any] | None] = outcome(
        doc="JSON: rule, parameters and thresholds, if the case was recomputed with others than its bundle's"
    )
    aggregated_at: Mapped[datetime | None] = outcome(doc="time of the result")
    result_version: Mapped[int] = history(
        default=0, doc="counts the writes of its result; a confirm counts for the version that its reviewer saw"
    )
    review_holder: Mapped[str | None] = history(
        Text,
        doc=(
            "the reviewer to whom `screen review next` gave the case; not a record: it changes, and becomes empty "
            "when they act"
        ),
    )
    review_held_until: Mapped[datetime | None] = history(doc="until this time no other reviewer is given the case")
    review_held_seconds: Mapped[float | None] = history(doc="for how many seconds they were given it")
    superseded_by: Mapped[int | None] = history(
        ForeignKey("case.id", ondelete="SET NULL"),
        index=True,
        doc="the newer case of the same archive and patient that took its place before reviewers had closed it",
    )

    __table_args__ = (
        UniqueConstraint("run_id", "patient_id"),
        Index(None, "patient_id", "id"),
        Index(None, "state", "priority"),
        CheckConstraint(one_of("state", CaseState), name="state"),
        CheckConstraint(one_of("verdict", Verdict), name="verdict"),
        CheckConstraint(
            "state = 'open' OR (verdict IS NOT NULL AND submitted = coalesce(screened + rejected + quarantined, -1))",
            name="aggregated_accounts_for_all",
        ),
        NUMBERS_ONCE,
    )


class PatientWithoutCaptures(Base):
    """A patient of a run's archive that had no captures at submit, and why; with a case only if it had some before."""

    __tablename__ = "patient_without_captures"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="primary key")
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"), index=True, doc="the patient")
    code: Mapped[str] = mapped_column(String(32), doc="see [No captures](#no-captures)")
    reason: Mapped[str] = mapped_column(Text, doc="the end of the sentence that begins with the patient's name")
    earlier_case_id: Mapped[int | None] = mapped_column(
        ForeignKey("case.id", ondelete="SET NULL"),
        index=True,
        doc="the patient's latest case until then, if that had captures: withdrawn if the patient has a case in this "
        "run, and still in force if not",
    )

    __table_args__ = (
        UniqueConstraint("run_id", "patient_id"),
        CheckConstraint(one_of("code", NoCaptures), name="code"),
    )


class Chunk(Base):
    """A fixed list of captures, also of several patients. A message names it, and a worker leases it."""

    __tablename__ = "chunk"

    id: Mapped[int] = key(BigId, primary_key=True, doc="primary key; a message names it")
    run_id: Mapped[int] = key(ForeignKey("run.id", ondelete="CASCADE"), index=True, doc="the run")
    state: Mapped[str] = standing(String(16), default=ChunkState.PENDING, doc="`pending`, `leased`, `held`, `done`")
    captures: Mapped[int] = sealed(doc="number of captures")
    attempts: Mapped[int] = history(default=0, doc="how often it was claimed so far")
    deaths: Mapped[int] = history(
        default=0,
        server_default="0",
        doc="how many of these attempts ended with a worker's process that was at none of its captures: while it was "
        "claimed, finished or written; too many, and it is held",
    )
    lease_token: Mapped[str | None] = lease(String(32), doc="random text that proves the lease")
    lease_until: Mapped[datetime | None] = lease(doc="end of the lease, by the database's clock")
    lease_seconds: Mapped[float | None] = lease(doc="the lease's length; it cannot end later than that from now")
    worker: Mapped[str | None] = history(
        Text, doc="process of its last claim (host, its start, PID namespace, id, start, a token)"
    )
    published_at: Mapped[datetime | None] = lease(doc="when its message was last sent")
    done_at: Mapped[datetime | None] = outcome(doc="when it was finished")
    last_error: Mapped[str | None] = history(
        Text,
        doc="why a worker last gave it back, ending with `trying again does not help` where a person must mend it; "
        "`screen watch` and `screen status` show it",
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
        NUMBERS_ONCE,
    )


CHAIN_POSITION = "its place in the chain of its run's rows, from 1; empty until the transaction that adds it ends"
CHAIN_HASH = "sha256 of the hash before it in this chain and of what the row says"


def _where(condition: str, name: str, column: str) -> Index:
    return Index(name, column, sqlite_where=text(condition), postgresql_where=text(condition))


_UNCHAINED = "chain_hash IS NULL"
_ORIGINAL, _COPY = "reused_from IS NULL", "reused_from IS NOT NULL"


class Capture(Base):
    """One file of the archive in one run, and what became of it."""

    __tablename__ = "capture"

    id: Mapped[int] = key(BigId, primary_key=True, doc="primary key")
    run_id: Mapped[int] = key(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    case_id: Mapped[int] = key(ForeignKey("case.id", ondelete="CASCADE"), doc="the case")
    chunk_id: Mapped[int | None] = key(
        ForeignKey("chunk.id", ondelete="SET NULL"), index=True, doc="its chunk; empty for a reused capture"
    )
    path: Mapped[bytes] = sealed(LargeBinary, doc="path relative to the archive's root, as bytes")
    path_text: Mapped[str] = sealed(Text, doc="the path as text: UTF-8 as it is, other bytes as `\\xNN`")
    size_bytes: Mapped[int] = sealed(BigInteger, doc="size at submit")
    modified_ns: Mapped[int] = sealed(
        BigInteger,
        doc="modification time at submit, nanoseconds since 1970, in 64 bits: before 1678 and after 2262 it wraps",
    )
    inode: Mapped[int | None] = sealed(
        BigInteger,
        doc="inode of the file at submit: a later submit reads a file again that has another one; empty where the file "
        "system has none, and before schema 0011",
    )
    changed_ns: Mapped[int | None] = sealed(
        BigInteger,
        doc="change time (ctime) at submit, like `modified_ns`: a submit reads a file again that has another one; a "
        "submit that found the same bytes writes the new inode and change time here",
    )
    sha256: Mapped[str | None] = outcome(
        String(64), compared=True, doc="sha256 of the bytes that were decoded; empty if they could not be read"
    )
    state: Mapped[str] = standing(
        String(16), default=CaptureState.PENDING, doc="`pending`, then one of `screened`, `rejected`, `quarantined`"
    )
    reject_code: Mapped[str | None] = outcome(
        String(32), compared=True, doc="for rejected captures, see [Reject codes](#reject-codes)"
    )
    reason: Mapped[str | None] = outcome(Text, doc="a sentence that says why, for rejected and quarantined captures")
    label: Mapped[str | None] = outcome(Text, compared=True, doc="the most probable label")
    probability: Mapped[float | None] = outcome(doc="probability of that label")
    p_all: Mapped[float | None] = outcome(doc="1 - P(benign label)")
    probabilities: Mapped[list[Any] | None] = outcome(
        compared=True, doc="JSON list in the order of the bundle's labels"
    )
    cam: Mapped[bytes | None] = outcome(
        LargeBinary,
        doc=(
            "activation map of the label: float16, row by row, as many rows as columns; empty if the bundle makes "
            "none, and in a copied row"
        ),
    )
    quality: Mapped[dict[str, Any] | None] = outcome(
        doc="JSON: its [measures of quality](#quality); empty in a copied row"
    )
    marks: Mapped[list[Any] | None] = outcome(doc="JSON list of `{code, sentence}`: its [marks](#marks)")
    novelty: Mapped[float | None] = outcome(
        doc="distance of its embedding from the training captures; above 1 it is marked `novel`; empty if the "
        "bundle has no reference"
    )
    excluded: Mapped[bool | None] = outcome(doc="whether its marks keep it out of the case's result")
    nucleated_cells: Mapped[int | None] = outcome(
        doc="how many nucleated cells it has; 64 stands for 64 or more; empty, which is not 0, where nobody looked for "
        "cells: before schema 0016"
    )
    cells: Mapped[bytes | None] = outcome(
        LargeBinary,
        doc="where these cells are and what the activation map says there, see [Cells](#cells); empty where "
        "`nucleated_cells` is, and in a copied row",
    )
    camera: Mapped[str | None] = outcome(Text, doc="camera model in the file's EXIF; empty if there is none")
    captured_at: Mapped[datetime | None] = outcome(
        DateTime, doc="time of capture from the file's EXIF, by the microscope's clock, without a time zone"
    )
    width: Mapped[int | None] = outcome(doc="width in pixels, of the upright image")
    height: Mapped[int | None] = outcome(doc="height in pixels, of the upright image")
    engine: Mapped[str | None] = outcome(Text, doc="engine and precision, such as `openvino/bfloat16`")
    reused_from: Mapped[int | None] = key(
        ForeignKey("capture.id", ondelete="SET NULL"),
        doc="the capture of an earlier run whose row was copied: the one that was screened, never another copy",
    )
    ended_at: Mapped[datetime | None] = outcome(doc="when it ended")

    __table_args__ = (
        UniqueConstraint("run_id", "path"),
        Index(None, "run_id", "state"),
        Index(None, "case_id", "state"),
        Index(None, "sha256"),
        # A patient's copies are as many as the nights that followed; these find what was screened beside them.
        _where(_ORIGINAL, "ix_capture_sha256_of_originals", "sha256"),
        _where(_ORIGINAL, "ix_capture_path_of_originals", "path"),
        # Copies alone: asked for originals, SQLite would go through all of them by this one.
        _where(_COPY, "ix_capture_reused_from", "reused_from"),
        CheckConstraint(one_of("state", CaptureState), name="state"),
        CheckConstraint(one_of("reject_code", RejectCode), name="reject_code"),
        CheckConstraint("(state = 'screened') = (probabilities IS NOT NULL)", name="screened_has_probabilities"),
        CheckConstraint("(state = 'rejected') = (reject_code IS NOT NULL)", name="rejected_has_code"),
        NUMBERS_ONCE,
    )


class Review(Base):
    """What reviewers did, append-only: triggers refuse to update or delete a row (db.append_only)."""

    __tablename__ = "review"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="primary key")
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), index=True, doc="the case")
    action: Mapped[str] = mapped_column(String(16), doc="see [actions of a reviewer](#states-actions-and-causes)")
    reviewer: Mapped[str] = mapped_column(Text, doc="the name that the reviewer gave")
    person: Mapped[str | None] = mapped_column(
        Text,
        doc="that name as it is compared: spellings that differ in case, blanks or invisible characters are one person",
    )
    os_user: Mapped[str | None] = mapped_column(
        Text, doc="the user of the operating system who acted; empty before schema 0014"
    )
    verdict: Mapped[str | None] = mapped_column(String(16), doc="the verdict that was confirmed or set instead")
    subtype: Mapped[str | None] = mapped_column(
        Text, doc="the subtype of that verdict; empty if there is none, or for ALL if it is not known"
    )
    result_version: Mapped[int | None] = mapped_column(doc="the version of the case's result at that moment")
    comment: Mapped[str | None] = mapped_column(Text, doc="required for an override, a comment and a settlement")
    bundle_digest: Mapped[str] = mapped_column(ForeignKey("bundle.digest"), doc="the bundle whose result was reviewed")
    software_version: Mapped[str] = mapped_column(Text, doc="version of slide-screen")
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of the action")
    chain_position: Mapped[int | None] = mapped_column(BigInteger, doc=CHAIN_POSITION)
    chain_hash: Mapped[str | None] = mapped_column(String(64), doc=CHAIN_HASH)

    __table_args__ = (
        _where(_UNCHAINED, "ix_review_unchained", "id"),
        CheckConstraint(one_of("action", ReviewAction), name="action"),
        CheckConstraint(one_of("verdict", Verdict), name="verdict"),
        CheckConstraint(
            "action <> 'override' OR (verdict IS NOT NULL AND comment IS NOT NULL)", name="override_says_why"
        ),
        NUMBERS_ONCE,
    )


class SettledIdentity(Base):
    """A capture that also lies under another patient, for which reviewers have settled this; append-only.

    It stays when the run of its case is purged, as long as both patients are there: later cases rest on it.
    """

    __tablename__ = "settled_identity"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="primary key")
    patient_id: Mapped[int] = mapped_column(
        ForeignKey("patient.id", ondelete="CASCADE"), doc="the patient whose cases are no longer in conflict for it"
    )
    other_patient_id: Mapped[int] = mapped_column(
        ForeignKey("patient.id", ondelete="CASCADE"),
        index=True,
        doc="the other patient, whose own cases stay in conflict until they are settled too",
    )
    sha256: Mapped[str] = mapped_column(
        String(64), doc="sha256 of the capture's file; `names` if it is that the folders' names look the same"
    )
    case_id: Mapped[int] = mapped_column(BigInteger, doc="the case that was settled; it may have been purged since")
    review_id: Mapped[int] = mapped_column(BigInteger, doc="the action in `review`, with its comment; it goes with it")
    reviewer: Mapped[str] = mapped_column(Text, doc="the name that the reviewer gave")
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of the action")

    __table_args__ = (UniqueConstraint("patient_id", "other_patient_id", "sha256"),)


class ReportQueue(Base):
    """One row per finished case for other systems: taken with SKIP LOCKED, acknowledged when delivered."""

    __tablename__ = "report_queue"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="primary key")
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), doc="the run")
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), doc="the case")
    cause: Mapped[str] = mapped_column(
        String(16),
        doc=(
            "`screened`, or `signed_off` if the run's results wait for that; `signed` by reviewers as it was "
            "reported; `override` by a reviewer; `recomputed`: captures were tried again, one was also found under "
            "another patient, or `screen recompute --apply`; `superseded`: a newer case of the patient replaces an "
            "earlier one"
        ),
    )
    replaces_id: Mapped[int | None] = mapped_column(
        ForeignKey("report_queue.id", ondelete="CASCADE"),
        unique=True,
        doc="the row that this one corrects; empty for `superseded` when that row's run was purged",
    )
    review_id: Mapped[int | None] = mapped_column(
        ForeignKey("review.id", ondelete="CASCADE"),
        index=True,
        doc="the opinion with which reviewers had closed the case when the row was added; empty if they had not",
    )
    created_at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time at which the row was added")
    taken_by: Mapped[str | None] = mapped_column(Text, doc="the consumer that took it last")
    taken_until: Mapped[datetime | None] = mapped_column(doc="when the consumer's lease ends")
    taken_seconds: Mapped[float | None] = mapped_column(
        doc="the length of that lease; it cannot end later than that from now. Empty counts as a day"
    )
    acknowledged_at: Mapped[datetime | None] = mapped_column(doc="when it was delivered")
    chain_position: Mapped[int | None] = mapped_column(BigInteger, doc=CHAIN_POSITION)
    chain_hash: Mapped[str | None] = mapped_column(String(64), doc=CHAIN_HASH)

    __table_args__ = (
        _where(_UNCHAINED, "ix_report_queue_unchained", "id"),
        Index(None, "run_id"),
        Index(None, "case_id"),
        Index("ix_report_queue_waiting", "acknowledged_at", "id"),
        # A case is reported once when it is screened; a later row names the row that it replaces.
        Index(
            "uq_report_queue_first_of_case",
            "case_id",
            unique=True,
            sqlite_where=(replaces_id.is_(None)),
            postgresql_where=(replaces_id.is_(None)),
        ),
        CheckConstraint(one_of("cause", ReportCause), name="cause"),
        CheckConstraint(
            "cause = 'superseded' OR (cause IN ('screened', 'signed_off')) = (replaces_id IS NULL)",
            name="correction_names_what_it_replaces",
        ),
        NUMBERS_ONCE,
    )


class Event(Base):
    """What happened, append-only, for the audit. `detail` holds no patient id."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, doc="primary key")
    at: Mapped[datetime] = mapped_column(server_default=db_now(), doc="time of the event")
    kind: Mapped[str] = mapped_column(String(32), doc="kind of event")
    run_id: Mapped[int | None] = mapped_column(BigInteger, index=True, doc="the run")
    case_id: Mapped[int | None] = mapped_column(BigInteger, doc="the case")
    capture_id: Mapped[int | None] = mapped_column(BigInteger, doc="the capture")
    actor: Mapped[str] = mapped_column(
        Text,
        doc="who did it: a user's login name, `submit` or `worker`; for `result_changed`, which the database writes, "
        "its role, or `sqlite`",
    )
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="JSON")
    chain_position: Mapped[int | None] = mapped_column(BigInteger, doc=CHAIN_POSITION)
    chain_hash: Mapped[str | None] = mapped_column(String(64), doc=CHAIN_HASH)

    __table_args__ = (_where(_UNCHAINED, "ix_event_unchained", "id"),)


class AuditChain(Base):
    """Length and head of the chain that the rows of a table are for one run. It stays when the run is purged."""

    __tablename__ = "audit_chain"

    table_name: Mapped[str] = mapped_column(String(16), primary_key=True, doc="`event`, `review` or `report_queue`")
    run_id: Mapped[int] = mapped_column(
        BigId, primary_key=True, autoincrement=False, doc="the run; 0 for events that are about none"
    )
    length: Mapped[int] = mapped_column(BigInteger, doc="number of rows in the chain")
    head: Mapped[str] = mapped_column(String(64), doc="`chain_hash` of the last of them")
