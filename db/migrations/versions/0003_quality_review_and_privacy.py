"""Columns for quality, novelty, review by several, reporting at sign-off and pseudonyms.

Revision: 0003, after 0002. Captures and cases from before have no marks; their new columns stay empty.
"""

import sqlalchemy as sa
from alembic import op

from db.clock import UTCDateTime, db_now

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
    if op.get_context().dialect.name == "sqlite":
        _rebuild_report_queue()
    else:
        for name, rule in QUEUE_RULES.items():
            op.drop_constraint(op.f(name), "report_queue", type_="check")
            op.create_check_constraint(op.f(name), "report_queue", rule)


def _rebuild_report_queue() -> None:
    """SQLite alters no CHECK. Alembic's copy would lose every correction: dropping the table that its foreign key still
    names deletes them. A renamed table's foreign key to itself goes with it.
    """
    for index in ("ix_report_queue_run_id", "ix_report_queue_waiting", "uq_report_queue_first_of_case"):
        op.drop_index(op.f(index), "report_queue")
    op.rename_table("report_queue", "report_queue_before")
    op.create_table(
        "report_queue",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("replaces_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UTCDateTime(), server_default=db_now(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=True),
        sa.Column("taken_until", UTCDateTime(), nullable=True),
        sa.Column("acknowledged_at", UTCDateTime(), nullable=True),
        *(sa.CheckConstraint(rule, name=op.f(name)) for name, rule in QUEUE_RULES.items()),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_report_queue_{column}_{table}"), ondelete="CASCADE"
            )
            for column, table in (("run_id", "run"), ("case_id", "case"), ("replaces_id", "report_queue"))
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report_queue")),
        sa.UniqueConstraint("replaces_id", name=op.f("uq_report_queue_replaces_id")),
    )
    columns = "id, run_id, case_id, cause, replaces_id, created_at, taken_by, taken_until, acknowledged_at"
    op.execute(f"INSERT INTO report_queue ({columns}) SELECT {columns} FROM report_queue_before ORDER BY id")  # noqa: S608
    op.drop_table("report_queue_before")
    op.create_index(op.f("ix_report_queue_run_id"), "report_queue", ["run_id"], unique=False)
    op.create_index("ix_report_queue_waiting", "report_queue", ["acknowledged_at", "id"], unique=False)
    op.create_index(
        "uq_report_queue_first_of_case", "report_queue", ["case_id"], unique=True,
        sqlite_where=sa.text("replaces_id IS NULL"),
    )  # fmt: skip


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
