"""Chunks that are held, the lengths of leases, and what a run's numbers are counted from.

Revision: 0012, after 0010. A chunk counts the processes that ended at it, and may be held. Whatever is taken until some
time says for how long, so that a clock that steps back makes nobody wait for the old time. A run knows how many of its
captures were copied, and the captures that ended are found by their case: so a list of runs reads no finished captures.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None

LONGEST_LEASE_S = 3600
"""The largest SCREEN_LEASE_SECONDS, for what workers of an earlier release have in hand."""
COPIED = "SELECT COUNT(*) FROM capture WHERE capture.run_id = run.id AND capture.reused_from IS NOT NULL"


def upgrade() -> None:
    with op.batch_alter_table("chunk", table_kwargs={"sqlite_autoincrement": True}) as chunk:
        chunk.add_column(sa.Column("deaths", sa.Integer(), server_default="0", nullable=False))
        chunk.add_column(sa.Column("lease_seconds", sa.Double(), nullable=True))
        chunk.drop_constraint(op.f("ck_chunk_state"), type_="check")
        chunk.create_check_constraint(op.f("ck_chunk_state"), "state IN ('pending', 'leased', 'held', 'done')")
    op.add_column("case", sa.Column("review_held_seconds", sa.Double(), nullable=True))
    op.add_column("report_queue", sa.Column("taken_seconds", sa.Double(), nullable=True))
    op.add_column("run", sa.Column("reused", sa.Integer(), server_default="0", nullable=False))
    op.drop_index(op.f("ix_capture_case_id"), "capture")
    op.create_index(op.f("ix_capture_case_id_state"), "capture", ["case_id", "state"])
    connection = op.get_bind()
    connection.execute(
        sa.text("UPDATE chunk SET lease_seconds = :longest WHERE state = 'leased'"), {"longest": LONGEST_LEASE_S}
    )
    connection.execute(sa.text(f"UPDATE run SET reused = ({COPIED})"))  # noqa: S608 - text of our own


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
