"""The inode and the change time of each capture at submit, and mix-ups that reviewers have settled.

Revision: 0011, after 0010. The columns stay empty for earlier captures, which only `screen submit --verify` reads.
"""

import sqlalchemy as sa
from alembic import op

from db.clock import UTCDateTime, db_now

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REVIEW_ACTIONS = "action IN ('confirm', 'override', 'defer', 'comment', 'second_opinion', 'settle_identity')"

ONCE = "uq_settled_identity_patient_id_other_patient_id_sha256"


def upgrade() -> None:
    op.add_column("capture", sa.Column("inode", sa.BigInteger(), nullable=True))
    op.add_column("capture", sa.Column("changed_ns", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("review", table_kwargs={"sqlite_autoincrement": True}) as review:
        review.drop_constraint(op.f("ck_review_action"), type_="check")
        review.create_check_constraint(op.f("ck_review_action"), REVIEW_ACTIONS)
    op.create_table(
        "settled_identity",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("patient_id", BIG_ID, nullable=False),
        sa.Column("other_patient_id", BIG_ID, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=False),
        sa.Column("review_id", sa.BigInteger(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_settled_identity_patient_id_patient"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["other_patient_id"],
            ["patient.id"],
            name=op.f("fk_settled_identity_other_patient_id_patient"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settled_identity")),
        sa.UniqueConstraint("patient_id", "other_patient_id", "sha256", name=op.f(ONCE)),
    )
    op.create_index(op.f("ix_settled_identity_other_patient_id"), "settled_identity", ["other_patient_id"])


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
