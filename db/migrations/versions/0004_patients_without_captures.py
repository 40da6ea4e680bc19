"""Patients without captures: named with the reason, and counted. And how deep in the archive the patients lie.

Revision: 0004, after 0003. Runs from before counted only the patients with captures, and had them right below the root.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CODES = "code IN ('empty', 'only_links', 'no_capture_files', 'not_readable', 'not_at_depth', 'gone')"


def upgrade() -> None:
    op.add_column("run", sa.Column("patients", sa.Integer(), nullable=True))
    op.add_column("run", sa.Column("patients_unchanged", sa.Integer(), nullable=True))
    op.add_column("run", sa.Column("patients_without_captures", sa.Integer(), server_default="0", nullable=False))
    op.add_column("run", sa.Column("patient_depth", sa.Integer(), server_default="1", nullable=False))
    op.create_table(
        "patient_without_captures",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("run_id", BIG_ID, nullable=False),
        sa.Column("patient_id", BIG_ID, nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("earlier_case_id", BIG_ID, nullable=True),
        sa.CheckConstraint(CODES, name=op.f("ck_patient_without_captures_code")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_patient_without_captures_run_id_run"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_patient_without_captures_patient_id_patient")
        ),
        sa.ForeignKeyConstraint(
            ["earlier_case_id"],
            ["case.id"],
            name=op.f("fk_patient_without_captures_earlier_case_id_case"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient_without_captures")),
        sa.UniqueConstraint("run_id", "patient_id", name=op.f("uq_patient_without_captures_run_id_patient_id")),
    )
    for column in ("patient_id", "earlier_case_id"):
        op.create_index(
            op.f(f"ix_patient_without_captures_{column}"), "patient_without_captures", [column], unique=False
        )


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
