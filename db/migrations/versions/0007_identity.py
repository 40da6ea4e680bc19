"""A patient is a folder of one archive, a run has a site, and the database has an identity of its own.

Revision: 0007, after 0006. A name that lay in several archives becomes one patient for each of them; cases, and with
them reviews and rows of the reporting queue, follow their archive. Results from before were compared with captures of
their own archive alone: where the same bytes lie in another one, `identity_conflict` is emptied, because nobody looked.
"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OF_PATIENTS = ("case", "patient_without_captures")
"""Tables with a run and a patient."""


def upgrade() -> None:
    op.create_table(
        "this_database",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_this_database_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_this_database")),
    )
    connection = op.get_bind()
    connection.execute(sa.text("INSERT INTO this_database (id, uuid) VALUES (1, :uuid)"), {"uuid": str(uuid4())})
    op.add_column("run", sa.Column("site", sa.String(length=32), nullable=True))
    with op.batch_alter_table("patient") as patient:
        patient.drop_constraint(op.f("uq_patient_external_id"), type_="unique")
        patient.add_column(sa.Column("root", sa.LargeBinary(), nullable=True))
    _give_roots(connection)
    with op.batch_alter_table("patient") as patient:
        patient.alter_column("root", existing_type=sa.LargeBinary(), nullable=False)
        patient.create_unique_constraint(op.f("uq_patient_root_external_id"), ["root", "external_id"])
    _follow_archives(connection)
    connection.execute(sa.text(_NOT_SEARCHED))


def _give_roots(connection: sa.Connection) -> None:
    """Each patient gets the archive of its first run, and a row more for each other archive."""
    for name in OF_PATIENTS:
        connection.execute(
            sa.text(
                f"""UPDATE patient SET root = (
                        SELECT run.root FROM run WHERE run.id = (
                            SELECT MIN(one.run_id) FROM "{name}" one WHERE one.patient_id = patient.id
                        )
                    ) WHERE root IS NULL"""  # noqa: S608 - names of our own
            )
        )
    connection.execute(sa.text("DELETE FROM patient WHERE root IS NULL"))  # of no run
    seen = " UNION ".join(
        f'SELECT one.patient_id, run.root FROM "{name}" one JOIN run ON run.id = one.run_id'  # noqa: S608
        for name in OF_PATIENTS
    )
    connection.execute(
        sa.text(
            f"""INSERT INTO patient (root, external_id, pseudonymous, created_at)
                SELECT seen.root, patient.external_id, patient.pseudonymous, patient.created_at
                FROM ({seen}) seen JOIN patient ON patient.id = seen.patient_id AND patient.root <> seen.root"""  # noqa: S608
        )
    )


def _follow_archives(connection: sa.Connection) -> None:
    for name in OF_PATIENTS:
        connection.execute(
            sa.text(
                f"""UPDATE "{name}" SET patient_id = (
                        SELECT own.id FROM run
                        JOIN patient named ON named.id = "{name}".patient_id
                        JOIN patient own ON own.root = run.root AND own.external_id = named.external_id
                        WHERE run.id = "{name}".run_id
                    )
                    WHERE (SELECT root FROM run WHERE run.id = "{name}".run_id)
                       <> (SELECT root FROM patient WHERE patient.id = "{name}".patient_id)"""  # noqa: S608
            )
        )


_NOT_SEARCHED = """
    UPDATE "case" SET identity_conflict = NULL
    WHERE identity_conflict = FALSE AND EXISTS (
        SELECT 1 FROM capture c
        JOIN run ON run.id = c.run_id
        JOIN capture other_c ON other_c.sha256 = c.sha256 AND other_c.case_id <> c.case_id
        JOIN run other_run ON other_run.id = other_c.run_id AND other_run.root <> run.root
        WHERE c.case_id = "case".id AND c.probabilities IS NOT NULL AND other_c.probabilities IS NOT NULL
    )
"""


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
