"""Columns for quality, novelty, review by several, reporting at sign-off and pseudonyms.

Revision: 0003, after 0002. Captures and cases from before have no marks; their new columns stay empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

REVIEW_ACTIONS = "action IN ('confirm', 'override', 'defer', 'comment', 'second_opinion')"
QUEUE_RULES = {
    "ck_report_queue_cause": "cause IN ('screened', 'signed_off', 'override', 'recomputed')",
    "ck_report_queue_correction_names_what_it_replaces": (
        "(cause IN ('screened', 'signed_off')) = (replaces_id IS NULL)"
    ),
}


def upgrade() -> None:
    op.add_column("run", sa.Column("reviewers_required", sa.Integer(), server_default="1", nullable=False))
    op.add_column("run", sa.Column("report_at_sign_off", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("run", sa.Column("pseudonym_key", sa.String(length=16), nullable=True))
    op.add_column("case", sa.Column("excluded", sa.Integer(), nullable=True))
    op.add_column("case", sa.Column("novel", sa.Integer(), nullable=True))
    op.add_column("capture", sa.Column("excluded", sa.Boolean(), nullable=True))
    op.add_column("capture", sa.Column("camera", sa.Text(), nullable=True))
    op.add_column("capture", sa.Column("captured_at", sa.DateTime(), nullable=True))
    with op.batch_alter_table("review") as review:
        review.drop_constraint(op.f("ck_review_action"), type_="check")
        review.create_check_constraint(op.f("ck_review_action"), REVIEW_ACTIONS)
    with op.batch_alter_table("report_queue") as queue:
        for name, rule in QUEUE_RULES.items():
            queue.drop_constraint(op.f(name), type_="check")
            queue.create_check_constraint(op.f(name), rule)


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
