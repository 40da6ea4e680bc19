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

VIEWS = {
    # Pairs of captures with the same bytes at two paths of one archive, screened with one bundle, under two patients.
    # Only screened ones, which a CHECK says have probabilities (asked by their state, PostgreSQL would look through all
    # captures in that state): two empty files are the same, too. A case that a later run of its patient has replaced is
    # no longer the other side of a conflict.
    "identity_conflicts": """
        SELECT k.run_id, k.id AS case_id, patient.external_id AS patient, c.id AS capture_id, c.path_text AS path,
               other_k.run_id AS other_run_id, other_k.id AS other_case_id,
               other_patient.external_id AS other_patient, other_c.id AS other_capture_id,
               other_c.path_text AS other_path, c.sha256
        FROM capture c
        JOIN "case" k ON k.id = c.case_id
        JOIN run ON run.id = k.run_id
        JOIN patient ON patient.id = k.patient_id
        JOIN capture other_c
          ON other_c.sha256 = c.sha256 AND other_c.case_id <> c.case_id AND other_c.path <> c.path
        JOIN "case" other_k ON other_k.id = other_c.case_id AND other_k.patient_id <> k.patient_id
        JOIN run other_run
          ON other_run.id = other_k.run_id AND other_run.root = run.root
         AND other_run.bundle_digest = run.bundle_digest
        JOIN patient other_patient ON other_patient.id = other_k.patient_id
        WHERE c.probabilities IS NOT NULL AND other_c.probabilities IS NOT NULL
          AND NOT EXISTS (
              SELECT 1 FROM "case" later
              JOIN run later_run ON later_run.id = later.run_id
              WHERE later.patient_id = other_k.patient_id AND later.id > other_k.id
                AND later_run.root = run.root AND later_run.bundle_digest = run.bundle_digest
          )
    """,
    "case_results": """
        SELECT k.run_id, k.id AS case_id, patient.external_id AS patient, k.state, k.verdict, k.subtype,
               k.subtype_margin, k.score, k.score_low, k.score_high, k.priority, k.submitted, k.screened, k.rejected,
               k.quarantined, k.reasons, k.case_rule, k.aggregated_at, bundle.name AS bundle_name, run.bundle_digest,
               k.identity_conflict
        FROM "case" k
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = k.run_id
        JOIN bundle ON bundle.digest = run.bundle_digest
    """,
    "review_queue": """
        SELECT k.priority, k.run_id, k.id AS case_id, patient.external_id AS patient, k.verdict, k.subtype, k.score,
               k.score_low, k.score_high, k.submitted, k.screened, k.reasons, k.aggregated_at, k.identity_conflict
        FROM "case" k
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = k.run_id
        WHERE k.state = 'aggregated' AND run.cancelled_at IS NULL
          AND NOT EXISTS (
              SELECT 1 FROM review WHERE review.case_id = k.id AND review.action IN ('confirm', 'override')
          )
    """,
}


def upgrade() -> None:
    op.add_column("case", sa.Column("identity_conflict", sa.Boolean(), nullable=True))
    op.add_column("case", sa.Column("case_policy", sa.JSON(none_as_null=True), nullable=True))
    op.create_index(op.f("ix_capture_sha256"), "capture", ["sha256"], unique=False)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW IF EXISTS {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
