"""A copied row names the capture that was screened, and leaves its activation map and its measures with it.

Revision: 0013, after 0012. Indexes find originals without their copies, and a patient's last case without the others.
A copy that was tried again has a result of its own, and is a copy no longer.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ORIGINAL, COPY = sa.text("reused_from IS NULL"), sa.text("reused_from IS NOT NULL")
TRIED_AGAIN = "UPDATE capture SET reused_from = NULL WHERE reused_from IS NOT NULL AND chunk_id IS NOT NULL"
"""A copy has no chunk, until it is tried again."""
ONE_STEP_NEARER = """
    UPDATE capture SET reused_from = (SELECT o.reused_from FROM capture o WHERE o.id = capture.reused_from)
    WHERE reused_from IN (SELECT o.id FROM capture o WHERE o.reused_from IS NOT NULL)
"""
"""Each halves the way to the original, because what a row points at moves too."""
LEFT_WITH_ORIGINAL = ("cam", "quality")
SAME = {"cam": "capture.cam = o.cam", "quality": "CAST(capture.quality AS TEXT) = CAST(o.quality AS TEXT)"}


def upgrade() -> None:
    op.create_index("ix_case_patient_id_id", "case", ["patient_id", "id"])
    op.drop_index("ix_case_patient_id", "case")
    for column in ("sha256", "path"):
        op.create_index(
            f"ix_capture_{column}_of_originals", "capture", [column], sqlite_where=ORIGINAL, postgresql_where=ORIGINAL
        )
    op.drop_index("ix_capture_reused_from", "capture")
    op.create_index("ix_capture_reused_from", "capture", ["reused_from"], sqlite_where=COPY, postgresql_where=COPY)
    connection = op.get_bind()
    connection.execute(sa.text(TRIED_AGAIN))
    while connection.execute(sa.text(ONE_STEP_NEARER)).rowcount:
        pass
    for name in LEFT_WITH_ORIGINAL:
        connection.execute(
            sa.text(
                f"""UPDATE capture SET {name} = NULL
                    WHERE {name} IS NOT NULL
                      AND EXISTS (SELECT 1 FROM capture o WHERE o.id = capture.reused_from AND {SAME[name]})"""  # noqa: S608
            )
        )


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
