"""The views for people with a SQL client. docs/data.md describes every column; a test fails where it does not.

`db.schema.upgrade` drops them before it migrates and creates them afterwards, so a changed view needs a migration too,
if only an empty one. In the order in which they build on one another.
"""

VIEWS = {
    "run_summary": """
        SELECT run.id AS run_id, run.root_text AS archive, bundle.name AS bundle_name, run.bundle_digest,
               run.software_version, run.created_at, run.cancelled_at, run.submitted, run.skipped,
               COALESCE(c.screened, 0) AS screened, COALESCE(c.rejected, 0) AS rejected,
               COALESCE(c.quarantined, 0) AS quarantined, COALESCE(c.pending, 0) AS pending,
               COALESCE(c.reused, 0) AS reused, run.cases, COALESCE(k.finished, 0) AS cases_finished,
               COALESCE(k.benign, 0) AS cases_benign, COALESCE(k.all_, 0) AS cases_all,
               COALESCE(k.indeterminate, 0) AS cases_indeterminate, COALESCE(k.insufficient, 0) AS cases_insufficient,
               CASE WHEN COALESCE(k.finished, 0) = run.cases THEN k.finished_at END AS finished_at
        FROM run
        JOIN bundle ON bundle.digest = run.bundle_digest
        LEFT JOIN (
            SELECT run_id,
                   SUM(CASE WHEN state = 'screened' THEN 1 ELSE 0 END) AS screened,
                   SUM(CASE WHEN state = 'rejected' THEN 1 ELSE 0 END) AS rejected,
                   SUM(CASE WHEN state = 'quarantined' THEN 1 ELSE 0 END) AS quarantined,
                   SUM(CASE WHEN state = 'pending' THEN 1 ELSE 0 END) AS pending,
                   SUM(CASE WHEN reused_from IS NOT NULL THEN 1 ELSE 0 END) AS reused
            FROM capture GROUP BY run_id
        ) c ON c.run_id = run.id
        LEFT JOIN (
            SELECT run_id,
                   SUM(CASE WHEN state = 'aggregated' THEN 1 ELSE 0 END) AS finished,
                   SUM(CASE WHEN verdict = 'benign' THEN 1 ELSE 0 END) AS benign,
                   SUM(CASE WHEN verdict = 'all' THEN 1 ELSE 0 END) AS all_,
                   SUM(CASE WHEN verdict = 'indeterminate' THEN 1 ELSE 0 END) AS indeterminate,
                   SUM(CASE WHEN verdict = 'insufficient' THEN 1 ELSE 0 END) AS insufficient,
                   MAX(aggregated_at) AS finished_at
            FROM "case" GROUP BY run_id
        ) k ON k.run_id = run.id
    """,
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
               k.identity_conflict, k.excluded, k.novel
        FROM "case" k
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = k.run_id
        JOIN bundle ON bundle.digest = run.bundle_digest
    """,
    "review_queue": """
        SELECT k.priority, k.run_id, k.id AS case_id, patient.external_id AS patient, k.verdict, k.subtype, k.score,
               k.score_low, k.score_high, k.submitted, k.screened, k.reasons, k.aggregated_at, k.identity_conflict,
               k.excluded, k.novel
        FROM "case" k
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = k.run_id
        WHERE k.state = 'aggregated' AND run.cancelled_at IS NULL
          AND NOT EXISTS (
              SELECT 1 FROM review WHERE review.case_id = k.id AND review.action IN ('confirm', 'override')
          )
    """,
}
