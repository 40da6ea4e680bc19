"""Cases that a newer case of their patient has superseded, two more causes of a queue row, and what a bundle says of
itself.

Revision: 0006, after 0005. Earlier cases that no reviewer has signed are marked here, too; their queue rows stay as
they were delivered.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

QUEUE_RULES = {
    "ck_report_queue_cause": "cause IN ('screened', 'signed_off', 'signed', 'override', 'recomputed', 'superseded')",
    "ck_report_queue_correction_names_what_it_replaces": (
        "cause = 'superseded' OR (cause IN ('screened', 'signed_off')) = (replaces_id IS NULL)"
    ),
}
NEXT_FINISHED = """
    SELECT earlier.id, earlier.run_id, MIN(later.id) AS superseded_by
    FROM "case" earlier
    JOIN run earlier_run ON earlier_run.id = earlier.run_id
    JOIN "case" later
      ON later.patient_id = earlier.patient_id AND later.id > earlier.id AND later.state = 'aggregated'
    JOIN run later_run
      ON later_run.id = later.run_id AND later_run.root = earlier_run.root AND later_run.cancelled_at IS NULL
    WHERE earlier.state = 'aggregated' AND NOT EXISTS (
        SELECT 1 FROM review WHERE review.case_id = earlier.id AND review.action IN ('confirm', 'override')
    )
    GROUP BY earlier.id, earlier.run_id
"""


def upgrade() -> None:
    with op.batch_alter_table("case") as case:
        case.add_column(sa.Column("superseded_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))
        case.create_foreign_key(
            op.f("fk_case_superseded_by_case"), "case", ["superseded_by"], ["id"], ondelete="SET NULL"
        )
        case.create_index(op.f("ix_case_superseded_by"), ["superseded_by"])
    with op.batch_alter_table("report_queue") as queue:
        for name, rule in QUEUE_RULES.items():
            queue.drop_constraint(op.f(name), type_="check")
            queue.create_check_constraint(op.f(name), rule)
    op.create_index(op.f("ix_report_queue_case_id"), "report_queue", ["case_id"])
    _bundles()
    connection = op.get_bind()
    for row in connection.execute(sa.text(NEXT_FINISHED)).all():
        values = {"id": row.id, "run": row.run_id, "by": row.superseded_by}
        connection.execute(sa.text('UPDATE "case" SET superseded_by = :by WHERE id = :id'), values)
        connection.execute(
            sa.text(
                "INSERT INTO event (kind, run_id, case_id, actor, detail) "
                "VALUES ('superseded', :run, :id, 'upgrade', :detail)"
            ),
            values | {"detail": json.dumps({"superseded_by": row.superseded_by})},
        )


def _bundles() -> None:
    """The notice of each bundle is known here; all else is written at the next submit with it."""
    op.add_column("bundle", sa.Column("warnings", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("bundle", sa.Column("training_captures", sa.Integer(), nullable=True))
    op.create_table(
        "training_capture",
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["bundle_digest"], ["bundle.digest"], name=op.f("fk_training_capture_bundle_digest_bundle"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("bundle_digest", "sha256", name=op.f("pk_training_capture")),
    )  # fmt: skip
    bundle = sa.table("bundle", sa.column("digest"), sa.column("manifest", sa.JSON()), sa.column("warnings", sa.JSON()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(bundle.c.digest, bundle.c.manifest)).all():
        notice = row.manifest.get("notice")
        values = {"warnings": [notice] if notice else []}
        connection.execute(sa.update(bundle).where(bundle.c.digest == row.digest).values(values))


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
