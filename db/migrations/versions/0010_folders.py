"""The inode of each patient's folder at submit.

Revision: 0010, after 0009. It stays empty for earlier runs: there a worker looks only at the captures beside a missing
one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("case", sa.Column("folder_inode", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
