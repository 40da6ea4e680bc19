"""Reviews, events and queue rows are chained by hashes, with the length and the head of each chain kept apart.

Revision: 0014, after 0013. Rows from before are chained by the upgrade, as they are then. The names of skipped files
move from the event of the submit to the run: an event is never written again, also not when the run is purged. A review
says which person its reviewer's name means, and which user of the operating system acted.
"""

import sqlalchemy as sa
from alembic import op

from contract.people import person

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

CHAINED = ("review", "event", "report_queue")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for table in CHAINED:
        op.add_column(table, sa.Column("chain_position", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("chain_hash", sa.String(length=64), nullable=True))
        unchained = sa.text("chain_hash IS NULL")
        op.create_index(f"ix_{table}_unchained", table, ["id"], sqlite_where=unchained, postgresql_where=unchained)
    op.create_table(
        "audit_chain",
        sa.Column("table_name", sa.String(length=16), nullable=False),
        sa.Column("run_id", BIG_ID, nullable=False, autoincrement=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("table_name", "run_id", name=op.f("pk_audit_chain")),
    )
    op.add_column("review", sa.Column("person", sa.Text(), nullable=True))
    op.add_column("review", sa.Column("os_user", sa.Text(), nullable=True))
    op.add_column("run", sa.Column("skipped_files", sa.JSON(), nullable=True))
    connection = op.get_bind()
    reviewers = connection.execute(sa.text("SELECT DISTINCT reviewer FROM review")).scalars().all()
    for reviewer in reviewers:
        connection.execute(
            sa.text("UPDATE review SET person = :person WHERE reviewer = :reviewer"),
            {"person": person(reviewer), "reviewer": reviewer},
        )
    _move_names(connection)


def _move_names(connection: sa.Connection) -> None:
    run = sa.table("run", sa.column("id", BIG_ID), sa.column("skipped_files", sa.JSON()))
    event = sa.table(
        "event", sa.column("id", BIG_ID), sa.column("run_id"), sa.column("kind"), sa.column("detail", sa.JSON())
    )
    submitted = connection.execute(
        sa.select(event.c.id, event.c.run_id, event.c.detail).where(event.c.kind == "submitted")
    )
    for row in submitted.all():
        skipped = row.detail.get("skipped", {})
        numbers = {reason: len(names) if isinstance(names, list) else names for reason, names in skipped.items()}
        names = {reason: names for reason, names in skipped.items() if isinstance(names, list)}
        connection.execute(sa.update(run).where(run.c.id == row.run_id).values(skipped_files=names))
        connection.execute(
            sa.update(event).where(event.c.id == row.id).values(detail=row.detail | {"skipped": numbers})
        )


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
