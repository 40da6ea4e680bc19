"""The views for people with a SQL client. docs/data.md describes every column; a test fails where it does not.

`db.schema.upgrade` drops them before it migrates and creates them afterwards, so a changed view needs a migration too,
if only an empty one. In the order in which they build on one another.
"""

VIEWS = {
    # A finished case has the sums of its captures. So captures are read of open cases only, and of these only the ones
    # that have ended: a list of runs takes no longer for a million finished captures.
    "run_summary": """
        SELECT run.id AS run_id, run.root_text AS archive, bundle.name AS bundle_name, run.bundle_digest,
               run.software_version, run.created_at, run.cancelled_at, run.submitted, run.skipped,
               COALESCE(k.screened, 0) + COALESCE(c.screened, 0) AS screened,
               COALESCE(k.rejected, 0) + COALESCE(c.rejected, 0) AS rejected,
               COALESCE(k.quarantined, 0) + COALESCE(c.quarantined, 0) AS quarantined,
               COALESCE(k.in_open, 0) - COALESCE(c.ended, 0) AS pending, run.reused, run.cases,
               COALESCE(k.finished, 0) AS cases_finished,
               COALESCE(k.benign, 0) AS cases_benign, COALESCE(k.all_, 0) AS cases_all,
               COALESCE(k.indeterminate, 0) AS cases_indeterminate, COALESCE(k.insufficient, 0) AS cases_insufficient,
               run.patients, run.patients_unchanged, run.patients_without_captures, run.patient_depth,
               CASE WHEN COALESCE(k.finished, 0) = run.cases THEN COALESCE(k.finished_at, run.created_at) END
                   AS finished_at, run.site
        FROM run
        JOIN bundle ON bundle.digest = run.bundle_digest
        LEFT JOIN (
            SELECT k.run_id, COUNT(*) AS ended,
                   SUM(CASE WHEN c.state = 'screened' THEN 1 ELSE 0 END) AS screened,
                   SUM(CASE WHEN c.state = 'rejected' THEN 1 ELSE 0 END) AS rejected,
                   SUM(CASE WHEN c.state = 'quarantined' THEN 1 ELSE 0 END) AS quarantined
            FROM "case" k
            JOIN capture c ON c.case_id = k.id AND c.state IN ('screened', 'rejected', 'quarantined')
            WHERE k.state = 'open' GROUP BY k.run_id
        ) c ON c.run_id = run.id
        LEFT JOIN (
            SELECT run_id,
                   SUM(CASE WHEN state = 'open' THEN submitted ELSE 0 END) AS in_open,
                   SUM(screened) AS screened, SUM(rejected) AS rejected, SUM(quarantined) AS quarantined,
                   SUM(CASE WHEN state = 'aggregated' THEN 1 ELSE 0 END) AS finished,
                   SUM(CASE WHEN verdict = 'benign' THEN 1 ELSE 0 END) AS benign,
                   SUM(CASE WHEN verdict = 'all' THEN 1 ELSE 0 END) AS all_,
                   SUM(CASE WHEN verdict = 'indeterminate' THEN 1 ELSE 0 END) AS indeterminate,
                   SUM(CASE WHEN verdict = 'insufficient' THEN 1 ELSE 0 END) AS insufficient,
                   MAX(aggregated_at) AS finished_at
            FROM "case" GROUP BY run_id
        ) k ON k.run_id = run.id
    """,
    # Pairs of captures with the same bytes under two patients: in one archive with one bundle, in two with any.
    # Only screened ones, which a CHECK says have probabilities (asked by their state, PostgreSQL would look through all
    # captures in that state): two empty files are the same, too. A case that a later one of its patient has replaced is
    # no longer the other side of a conflict. Only a case replaces others that has its result, in a run that is not
    # cancelled: until then the earlier one is what there is. Within an archive it must be of the same bundle, because
    # two bundles are not compared there: a mix-up would be hidden until both patients are screened with the new one. A
    # case without captures has none to compare, so it replaces those of any bundle. What a reviewer has settled for the
    # patient stays here as a row, but its case is not in conflict for it (`settled`). A folder with the same name and
    # the same files in another archive was copied or moved with it: nobody was mixed up. This is judged by what submit
    # wrote, which never changes. Neither is anybody where one archive lies in another: then it is the same file.
    "identity_conflicts": """
        SELECT k.run_id, k.id AS case_id, patient.external_id AS patient, c.id AS capture_id, c.path_text AS path,
               other_k.run_id AS other_run_id, other_k.id AS other_case_id,
               other_patient.external_id AS other_patient, other_c.id AS other_capture_id,
               other_c.path_text AS other_path, c.sha256, run.root_text AS archive,
               other_run.root_text AS other_archive,
               CASE WHEN EXISTS (
                   SELECT 1 FROM settled_identity settled
                   WHERE settled.patient_id = k.patient_id AND settled.other_patient_id = other_k.patient_id
                     AND settled.sha256 = c.sha256
               ) THEN 1 ELSE 0 END AS settled
        FROM capture c
        JOIN "case" k ON k.id = c.case_id
        JOIN run ON run.id = k.run_id
        JOIN patient ON patient.id = k.patient_id
        JOIN capture other_c ON other_c.sha256 = c.sha256 AND other_c.case_id <> c.case_id
        JOIN "case" other_k ON other_k.id = other_c.case_id AND other_k.patient_id <> k.patient_id
        JOIN run other_run
          ON other_run.id = other_k.run_id
         AND (
             other_run.root = run.root AND other_run.bundle_digest = run.bundle_digest
                 AND other_run.patient_depth = run.patient_depth
             OR other_run.root <> run.root
                 AND other_run.root_text || '/' || other_c.path_text <> run.root_text || '/' || c.path_text
         )
         AND COALESCE(other_run.pseudonym_key, '') = COALESCE(run.pseudonym_key, '')
        JOIN patient other_patient ON other_patient.id = other_k.patient_id
        WHERE c.probabilities IS NOT NULL AND other_c.probabilities IS NOT NULL
          AND NOT EXISTS (
              SELECT 1 FROM "case" later
              JOIN run later_run ON later_run.id = later.run_id
              WHERE later.patient_id = other_k.patient_id AND later.id > other_k.id
                AND later.state = 'aggregated' AND later_run.cancelled_at IS NULL
                AND (
                    later_run.bundle_digest = other_run.bundle_digest OR later.submitted = 0
                        OR other_run.root <> run.root
                )
                AND COALESCE(later_run.pseudonym_key, '') = COALESCE(run.pseudonym_key, '')
          )
          AND NOT (
              other_run.root <> run.root AND other_patient.external_id = patient.external_id
              AND other_k.submitted = k.submitted AND NOT EXISTS (
                  SELECT 1 FROM capture mine
                  LEFT JOIN capture theirs
                    ON theirs.run_id = other_k.run_id AND theirs.path = mine.path
                   AND theirs.size_bytes = mine.size_bytes
                  WHERE mine.case_id = k.id AND theirs.id IS NULL
              )
          )
    """,
    "case_results": """
        SELECT k.run_id, k.id AS case_id, patient.external_id AS patient, k.state, k.verdict, k.subtype,
               k.subtype_margin, k.score, k.score_low, k.score_high, k.priority, k.submitted, k.screened, k.rejected,
               k.quarantined, k.reasons, k.case_rule, k.aggregated_at, bundle.name AS bundle_name, run.bundle_digest,
               k.identity_conflict, k.excluded, k.novel, k.superseded_by, run.root_text AS archive, run.site,
               k.counting, k.nucleated_cells, k.cells_at_least
        FROM "case" k
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = k.run_id
        JOIN bundle ON bundle.digest = run.bundle_digest
    """,
    # Of each reviewer the latest confirm or override, as far as it counts: who confirmed a result that was
    # written again since, also because patients may have been mixed up, has not seen what there is now. No time decides
    # this: the database's clock may step back.
    "review_opinions": """
        SELECT k.run_id, k.id AS case_id, r.id AS review_id, r.reviewer, r.action, r.verdict, r.subtype, r.created_at,
               r.person, r.os_user
        FROM review r
        JOIN "case" k ON k.id = r.case_id
        WHERE k.state = 'aggregated' AND r.action IN ('confirm', 'override')
          AND NOT EXISTS (
              SELECT 1 FROM review later
              WHERE later.case_id = r.case_id AND later.person = r.person AND later.id > r.id
                AND later.action IN ('confirm', 'override')
          )
          AND (
              r.action = 'override'
              OR (
                  r.verdict = k.verdict AND COALESCE(r.subtype, '') = COALESCE(k.subtype, '')
                  AND r.result_version = k.result_version
              )
          )
    """,
    # `seen` counts the opinions on a case, `latest` is the latest of them, `same` counts those that agree with it.
    # Joined like this SQLite makes an index of each; with window functions it went through all opinions for every case.
    "case_review": """
        SELECT run_id, case_id, patient, verdict, subtype, state, opinions, agreeing, wanted,
               CASE WHEN state = 'closed' THEN latest_verdict END AS final_verdict,
               CASE WHEN state = 'closed' THEN latest_subtype END AS final_subtype,
               CASE WHEN state = 'closed' THEN latest_at END AS closed_at,
               last_action, last_reviewer, last_action_at, holder, held_until, superseded_by, last_person
        FROM (
            SELECT known.*,
                   CASE WHEN superseded_by IS NOT NULL THEN 'superseded'
                        WHEN agreeing >= wanted THEN 'closed'
                        WHEN last_action = 'defer' THEN 'deferred'
                        WHEN agreeing < opinions THEN 'disagreement'
                        WHEN asked = 1 THEN 'second_opinion'
                        WHEN opinions > 0 THEN 'partly_signed'
                        ELSE 'waiting' END AS state
            FROM (
                SELECT k.run_id, k.id AS case_id, patient.external_id AS patient, k.verdict, k.subtype,
                       COALESCE(seen.opinions, 0) AS opinions, COALESCE(same.agreeing, 0) AS agreeing,
                       latest.verdict AS latest_verdict, latest.subtype AS latest_subtype,
                       latest.created_at AS latest_at, COALESCE(done.asked, 0) AS asked,
                       CASE WHEN done.asked = 1 AND run.reviewers_required < 2 THEN 2
                            ELSE run.reviewers_required END AS wanted,
                       last.action AS last_action, last.reviewer AS last_reviewer, last.created_at AS last_action_at,
                       k.review_holder AS holder, k.review_held_until AS held_until, k.superseded_by,
                       last.person AS last_person
                FROM "case" k
                JOIN run ON run.id = k.run_id
                JOIN patient ON patient.id = k.patient_id
                LEFT JOIN (
                    SELECT case_id, MAX(id) AS last_id,
                           MAX(CASE WHEN action = 'second_opinion' THEN 1 ELSE 0 END) AS asked
                    FROM review GROUP BY case_id
                ) done ON done.case_id = k.id
                LEFT JOIN review last ON last.id = done.last_id
                LEFT JOIN (
                    SELECT case_id, COUNT(*) AS opinions, MAX(review_id) AS latest_id
                    FROM review_opinions GROUP BY case_id
                ) seen ON seen.case_id = k.id
                LEFT JOIN review latest ON latest.id = seen.latest_id
                LEFT JOIN (
                    SELECT case_id, verdict, COALESCE(subtype, '') AS subtype, COUNT(*) AS agreeing
                    FROM review_opinions GROUP BY case_id, verdict, COALESCE(subtype, '')
                ) same
                  ON same.case_id = k.id AND same.verdict = latest.verdict
                 AND same.subtype = COALESCE(latest.subtype, '')
                WHERE k.state = 'aggregated'
            ) known
        ) judged
    """,
    "review_queue": """
        SELECT k.priority, k.run_id, k.id AS case_id, patient.external_id AS patient, k.verdict, k.subtype, k.score,
               k.score_low, k.score_high, k.submitted, k.screened, k.reasons, k.aggregated_at, k.identity_conflict,
               k.excluded, k.novel,
               case_review.state AS review_state, run.root_text AS archive, run.site, k.counting, k.nucleated_cells,
               k.cells_at_least
        FROM "case" k
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = k.run_id
        JOIN case_review ON case_review.case_id = k.id
        WHERE case_review.state NOT IN ('closed', 'superseded')
    """,
    # What to report is the case's result as it is now: what reviewers agree on, or else the proposal.
    "reporting_queue": """
        SELECT q.id AS queue_id, q.cause, q.replaces_id, q.created_at, q.taken_by, q.taken_until, q.acknowledged_at,
               CASE WHEN EXISTS (SELECT 1 FROM report_queue later WHERE later.replaces_id = q.id) THEN 1 ELSE 0 END
                   AS superseded,
               q.run_id, q.case_id, patient.external_id AS patient,
               CASE WHEN r.state = 'closed' THEN r.final_verdict ELSE k.verdict END AS verdict,
               CASE WHEN r.state = 'closed' THEN r.final_subtype ELSE k.subtype END AS subtype,
               CASE WHEN r.state = 'closed' THEN 1 ELSE 0 END AS signed_off, r.closed_at,
               k.score, k.score_low, k.score_high, k.reasons, k.submitted, k.screened, k.excluded,
               bundle.name AS bundle_name, run.bundle_digest, run.software_version, k.superseded_by,
               bundle.warnings AS bundle_warnings,
               CASE WHEN bundle.training_captures IS NOT NULL THEN (
                   SELECT COUNT(*) FROM capture c
                   JOIN training_capture t ON t.bundle_digest = run.bundle_digest AND t.sha256 = c.sha256
                   WHERE c.case_id = k.id AND c.state = 'screened'
               ) END AS in_training, run.root_text AS archive, run.site,
               (SELECT uuid FROM this_database) AS database
        FROM report_queue q
        JOIN "case" k ON k.id = q.case_id
        JOIN case_review r ON r.case_id = k.id
        JOIN patient ON patient.id = k.patient_id
        JOIN run ON run.id = q.run_id
        JOIN bundle ON bundle.digest = run.bundle_digest
    """,
}
