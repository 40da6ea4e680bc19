"""The schema: tables and indexes.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

from db.clock import UTCDateTime, db_now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "bundle",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("manifest", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_bundle")),
    )
    op.create_table(
        "event",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("case_id", sa.BigInteger(), nullable=True),
        sa.Column("capture_id", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_run_id"), "event", ["run_id"], unique=False)

    op.create_table(
        "patient",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("pseudonymous", sa.Boolean(), nullable=False),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient")),
        sa.UniqueConstraint("external_id", name=op.f("uq_patient_external_id")),
    )
    op.create_table(
        "run",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("root_text", sa.Text(), nullable=False),
        sa.Column("submitted", sa.Integer(), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("software_version", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.Column("cancelled_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["bundle_digest"], ["bundle.digest"], name=op.f("fk_run_bundle_digest_bundle")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_root_bundle_digest"), "run", ["root", "bundle_digest"], unique=False)

    op.create_table(
        "case",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("run_id", BIG_ID, nullable=False),
        sa.Column("patient_id", BIG_ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("submitted", sa.Integer(), nullable=False),
        sa.Column("screened", sa.Integer(), nullable=True),
        sa.Column("rejected", sa.Integer(), nullable=True),
        sa.Column("quarantined", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("subtype", sa.Text(), nullable=True),
        sa.Column("subtype_margin", sa.Double(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("score_low", sa.Double(), nullable=True),
        sa.Column("score_high", sa.Double(), nullable=True),
        sa.Column("priority", sa.Double(), nullable=True),
        sa.Column("reasons", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("case_rule", sa.Text(), nullable=True),
        sa.Column("aggregated_at", UTCDateTime(), nullable=True),
        sa.Column("review_holder", sa.Text(), nullable=True),
        sa.Column("review_held_until", UTCDateTime(), nullable=True),
        sa.CheckConstraint(
            "state = 'open' OR (verdict IS NOT NULL AND submitted = coalesce(screened + rejected + quarantined, -1))",
            name=op.f("ck_case_aggregated_accounts_for_all"),
        ),
        sa.CheckConstraint("state IN ('open', 'aggregated')", name=op.f("ck_case_state")),
        sa.CheckConstraint(
            "verdict IN ('benign', 'all', 'indeterminate', 'insufficient')", name=op.f("ck_case_verdict")
        ),
        sa.ForeignKeyConstraint(["patient_id"], ["patient.id"], name=op.f("fk_case_patient_id_patient")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_case_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_case")),
        sa.UniqueConstraint("run_id", "patient_id", name=op.f("uq_case_run_id_patient_id")),
    )
    op.create_index(op.f("ix_case_patient_id"), "case", ["patient_id"], unique=False)
    op.create_index(op.f("ix_case_state_priority"), "case", ["state", "priority"], unique=False)

    op.create_table(
        "chunk",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("run_id", BIG_ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("captures", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("published_at", UTCDateTime(), nullable=True),
        sa.Column("done_at", UTCDateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("seconds", sa.JSON(none_as_null=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'leased') = (lease_token IS NOT NULL AND lease_until IS NOT NULL)",
            name=op.f("ck_chunk_lease_when_leased"),
        ),
        sa.CheckConstraint("state IN ('pending', 'leased', 'done')", name=op.f("ck_chunk_state")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_chunk_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunk")),
    )
    op.create_index(op.f("ix_chunk_run_id"), "chunk", ["run_id"], unique=False)
    op.create_index(op.f("ix_chunk_state_lease_until"), "chunk", ["state", "lease_until"], unique=False)

    op.create_table(
        "capture",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("run_id", BIG_ID, nullable=False),
        sa.Column("case_id", BIG_ID, nullable=False),
        sa.Column("chunk_id", BIG_ID, nullable=True),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("path_text", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("modified_ns", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reject_code", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("p_all", sa.Double(), nullable=True),
        sa.Column("probabilities", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("cam", sa.LargeBinary(), nullable=True),
        sa.Column("quality", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("marks", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("novelty", sa.Double(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("reused_from", BIG_ID, nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint(
            "(state = 'rejected') = (reject_code IS NOT NULL)", name=op.f("ck_capture_rejected_has_code")
        ),
        sa.CheckConstraint(
            "(state = 'screened') = (probabilities IS NOT NULL)", name=op.f("ck_capture_screened_has_probabilities")
        ),
        sa.CheckConstraint(
            "reject_code IN ('empty_file', 'not_an_image', 'truncated', 'corrupt', 'too_small', 'too_large', "
            "'unsupported_depth', 'multi_page', 'missing', 'changed', 'not_readable', 'outside_archive')",
            name=op.f("ck_capture_reject_code"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'screened', 'rejected', 'quarantined')", name=op.f("ck_capture_state")
        ),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_capture_case_id_case"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["chunk.id"], name=op.f("fk_capture_chunk_id_chunk"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["reused_from"], ["capture.id"], name=op.f("fk_capture_reused_from_capture"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_capture_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capture")),
        sa.UniqueConstraint("run_id", "path", name=op.f("uq_capture_run_id_path")),
    )
    op.create_index(op.f("ix_capture_case_id"), "capture", ["case_id"], unique=False)
    op.create_index(op.f("ix_capture_chunk_id"), "capture", ["chunk_id"], unique=False)
    op.create_index(op.f("ix_capture_reused_from"), "capture", ["reused_from"], unique=False)
    op.create_index(op.f("ix_capture_run_id_state"), "capture", ["run_id", "state"], unique=False)

    op.create_table(
        "report_queue",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("run_id", BIG_ID, nullable=False),
        sa.Column("case_id", BIG_ID, nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("replaces_id", BIG_ID, nullable=True),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=True),
        sa.Column("taken_until", UTCDateTime(), nullable=True),
        sa.Column("acknowledged_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint(
            "(cause = 'screened') = (replaces_id IS NULL)",
            name=op.f("ck_report_queue_correction_names_what_it_replaces"),
        ),
        sa.CheckConstraint("cause IN ('screened', 'override', 'recomputed')", name=op.f("ck_report_queue_cause")),
        sa.ForeignKeyConstraint(
            ["case_id"], ["case.id"], name=op.f("fk_report_queue_case_id_case"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["replaces_id"],
            ["report_queue.id"],
            name=op.f("fk_report_queue_replaces_id_report_queue"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_report_queue_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report_queue")),
        sa.UniqueConstraint("replaces_id", name=op.f("uq_report_queue_replaces_id")),
    )
    op.create_index(op.f("ix_report_queue_run_id"), "report_queue", ["run_id"], unique=False)
    op.create_index("ix_report_queue_waiting", "report_queue", ["acknowledged_at", "id"], unique=False)
    op.create_index(
        "uq_report_queue_first_of_case",
        "report_queue",
        ["case_id"],
        unique=True,
        sqlite_where=sa.text("replaces_id IS NULL"),
        postgresql_where=sa.text("replaces_id IS NULL"),
    )

    op.create_table(
        "review",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("case_id", BIG_ID, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("subtype", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("software_version", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.CheckConstraint(
            "action <> 'override' OR (verdict IS NOT NULL AND comment IS NOT NULL)",
            name=op.f("ck_review_override_says_why"),
        ),
        sa.CheckConstraint("action IN ('confirm', 'override', 'defer', 'comment')", name=op.f("ck_review_action")),
        sa.CheckConstraint(
            "verdict IN ('benign', 'all', 'indeterminate', 'insufficient')", name=op.f("ck_review_verdict")
        ),
        sa.ForeignKeyConstraint(["bundle_digest"], ["bundle.digest"], name=op.f("fk_review_bundle_digest_bundle")),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_review_case_id_case"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review")),
    )
    op.create_index(op.f("ix_review_case_id"), "review", ["case_id"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("there is nothing before the first schema; restore a backup instead")
