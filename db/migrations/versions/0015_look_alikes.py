"""A patient has the key of the names that look like its folder's: two of an archive with the same key may be one.

Revision: 0015, after 0014. Pseudonyms get their key when their patient is submitted again: only who has the secret can
make it. The key is made here as this release makes it, because a migration does not change afterwards.
"""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_SAME_SHAPE = str.maketrans("авекмнорстухіјѕαβεηικμνορτυχ‐–—−’‘ʼ`0", "abekmhopctyxijsabehikmnoptyx----''''o")
PATIENTS = sa.table(
    "patient", sa.column("id"), sa.column("external_id"), sa.column("pseudonymous"), sa.column("look_alike")
)
AT_ONCE = 5000


def upgrade() -> None:
    op.add_column("patient", sa.Column("look_alike", sa.Text(), nullable=True))
    op.create_index("ix_patient_root_look_alike", "patient", ["root", "look_alike"])
    connection = op.get_bind()
    named = sa.select(PATIENTS.c.id, PATIENTS.c.external_id).where(PATIENTS.c.pseudonymous.is_(sa.false()))
    last = 0
    while rows := connection.execute(named.where(PATIENTS.c.id > last).order_by(PATIENTS.c.id).limit(AT_ONCE)).all():
        last = rows[-1].id
        connection.execute(
            sa.update(PATIENTS).where(PATIENTS.c.id == sa.bindparam("row")).values(look_alike=sa.bindparam("key")),
            [{"row": row.id, "key": _key(row.external_id)} for row in rows],
        )


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")


def _key(name: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(text.split()).translate(_SAME_SHAPE)
