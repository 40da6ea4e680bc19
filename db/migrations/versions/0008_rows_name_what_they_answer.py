"""Rows name what they answer: a review the version of the result that it saw, a queue row the opinion that it reports.

Revision: 0008, after 0007. Until now times decided, which a clock that steps back puts in another order. What earlier
releases wrote gets its numbers from these times once more, because nothing else is known: a confirm that no longer
counted, as a mix-up had been noted since, still does not count.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NOTED = (
    "SELECT COUNT(*) FROM event WHERE event.run_id = k.run_id AND event.case_id = k.id AND kind = 'identity_conflict'"
)
VERSIONS = (
    f"""UPDATE "case" SET result_version = (
            SELECT CASE WHEN k.state = 'aggregated' THEN 1 + CASE WHEN k.identity_conflict THEN ({NOTED}) ELSE 0 END
                        ELSE 0 END
            FROM "case" k WHERE k.id = "case".id
        )""",  # noqa: S608 - text of our own
    f"""UPDATE review SET result_version = (
            SELECT CASE WHEN k.state = 'aggregated' THEN 1 + CASE WHEN k.identity_conflict THEN (
                            {NOTED} AND event.at <= review.created_at) ELSE 0 END
                        ELSE 0 END
            FROM "case" k WHERE k.id = review.case_id
        )""",  # noqa: S608 - text of our own
    """UPDATE report_queue SET review_id = (
            SELECT MAX(review.id) FROM review
            WHERE review.case_id = report_queue.case_id AND review.action IN ('confirm', 'override')
              AND review.created_at <= report_queue.created_at
        )""",
)


def upgrade() -> None:
    op.add_column("case", sa.Column("result_version", sa.Integer(), nullable=True))
    op.add_column("review", sa.Column("result_version", sa.Integer(), nullable=True))
    with op.batch_alter_table("report_queue") as queue:
        queue.add_column(sa.Column("review_id", BIG_ID, nullable=True))
        queue.create_foreign_key(
            op.f("fk_report_queue_review_id_review"), "review", ["review_id"], ["id"], ondelete="CASCADE"
        )
        queue.create_index(op.f("ix_report_queue_review_id"), ["review_id"])
    for statement in VERSIONS:
        op.get_bind().execute(sa.text(statement))
    with op.batch_alter_table("case") as case:
        case.alter_column("result_version", existing_type=sa.Integer(), nullable=False)


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
