"""Numbers of rows are given once, and each row for other systems names its database.

Revision: 0009, after 0007. SQLite gives the highest number again when its row is gone, unless the table is declared
AUTOINCREMENT; to declare that, it is built anew. PostgreSQL's sequences never go back. The view reporting_queue, which
`db.schema.upgrade` makes again, has the column `database`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COUNTED = {"run": "run_id", "case": "case_id", "capture": "capture_id", "chunk": None, "review": None,
           "report_queue": None}  # fmt: skip
"""Table -> the column of `event` that still names its purged rows."""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    for name in COUNTED:
        with op.batch_alter_table(name, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass
    for name, named_by in COUNTED.items():
        sources = [f'SELECT id FROM "{name}"', *([f"SELECT {named_by} FROM event"] if named_by else [])]  # noqa: S608
        highest = f"SELECT COALESCE(MAX(id), 0) FROM ({' UNION ALL '.join(sources)})"  # noqa: S608 - names of our own
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
        connection.execute(
            sa.text(f"INSERT INTO sqlite_sequence (name, seq) VALUES (:name, ({highest}))"),  # noqa: S608
            {"name": name},
        )


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
