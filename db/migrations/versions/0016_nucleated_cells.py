"""Captures have their nucleated cells, and cases the number of them.

Revision: 0016, after 0015. What was screened before stays empty: nobody looked for cells there, which is not the same
as none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("capture", sa.Column("nucleated_cells", sa.Integer(), nullable=True))
    op.add_column("capture", sa.Column("cells", sa.LargeBinary(), nullable=True))
    op.add_column("case", sa.Column("counting", sa.Integer(), nullable=True))
    op.add_column("case", sa.Column("nucleated_cells", sa.Integer(), nullable=True))
    op.add_column("case", sa.Column("cells_at_least", sa.Boolean(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
