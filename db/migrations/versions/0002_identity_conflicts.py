"""The same capture under two patients: found by its digest, named by a view, noted at both cases. And the policy of
cases that were recomputed with another one than their bundle's.

Revision: 0002, after 0001. Results from before are not looked through: their `identity_conflict` stays empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("case", sa.Column("identity_conflict", sa.Boolean(), nullable=True))
    op.add_column("case", sa.Column("case_policy", sa.JSON(none_as_null=True), nullable=True))
    op.create_index(op.f("ix_capture_sha256"), "capture", ["sha256"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
