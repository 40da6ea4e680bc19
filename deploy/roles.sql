-- Made by `make docs` from db/roles.py. Roles with the least rights, for psql as the owner of the database:
--   psql --set=ON_ERROR_STOP=1 --file=deploy/roles.sql DATABASE     after each `screen db upgrade`
--   CREATE ROLE night_worker LOGIN PASSWORD '...' IN ROLE screening_worker;
-- `screen db check` says what the connected role may do. Upgrading, purging and `db restored` are left
-- to the owner.
BEGIN;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- status, watch, report, review list and show, fsck, audit, db check
DO $$ BEGIN CREATE ROLE screening_reader NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM screening_reader;
GRANT SELECT ON "alembic_version" TO screening_reader;
GRANT SELECT ON "audit_chain" TO screening_reader;
GRANT SELECT ON "bundle" TO screening_reader;
GRANT SELECT ON "capture" TO screening_reader;
GRANT SELECT ON "case" TO screening_reader;
GRANT SELECT ON "chunk" TO screening_reader;
GRANT SELECT ON "event" TO screening_reader;
GRANT SELECT ON "patient" TO screening_reader;
GRANT SELECT ON "patient_without_captures" TO screening_reader;
GRANT SELECT ON "report_queue" TO screening_reader;
GRANT SELECT ON "review" TO screening_reader;
GRANT SELECT ON "run" TO screening_reader;
GRANT SELECT ON "settled_identity" TO screening_reader;
GRANT SELECT ON "this_database" TO screening_reader;
GRANT SELECT ON "training_capture" TO screening_reader;
GRANT SELECT ON "run_summary" TO screening_reader;
GRANT SELECT ON "identity_conflicts" TO screening_reader;
GRANT SELECT ON "case_results" TO screening_reader;
GRANT SELECT ON "review_opinions" TO screening_reader;
GRANT SELECT ON "case_review" TO screening_reader;
GRANT SELECT ON "review_queue" TO screening_reader;
GRANT SELECT ON "reporting_queue" TO screening_reader;

-- queue
DO $$ BEGIN CREATE ROLE screening_lis NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM screening_lis;
GRANT UPDATE (acknowledged_at, taken_by, taken_seconds, taken_until), SELECT ON "report_queue" TO screening_lis;
GRANT SELECT ON "alembic_version" TO screening_lis;
GRANT SELECT ON "reporting_queue" TO screening_lis;

-- worker
DO $$ BEGIN CREATE ROLE screening_worker NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM screening_worker;
GRANT SELECT ON "alembic_version" TO screening_worker;
GRANT SELECT, INSERT, UPDATE (head, length) ON "audit_chain" TO screening_worker;
GRANT SELECT ON "bundle" TO screening_worker;
GRANT SELECT, UPDATE (cam, camera, captured_at, cells, chunk_id, ended_at, engine, excluded, height, label, marks, novelty, nucleated_cells, p_all, probabilities, probability, quality, reason, reject_code, sha256, state, width) ON "capture" TO screening_worker;
GRANT SELECT, UPDATE (aggregated_at, case_policy, case_rule, cells_at_least, counting, excluded, identity_conflict, novel, nucleated_cells, priority, quarantined, reasons, rejected, result_version, review_held_seconds, review_held_until, review_holder, score, score_high, score_low, screened, state, subtype, subtype_margin, superseded_by, verdict) ON "case" TO screening_worker;
GRANT SELECT, INSERT, UPDATE (attempts, captures, deaths, done_at, id, last_error, lease_seconds, lease_token, lease_until, published_at, run_id, seconds, state, worker), DELETE ON "chunk" TO screening_worker;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "event" TO screening_worker;
GRANT SELECT ON "patient" TO screening_worker;
GRANT SELECT ON "patient_without_captures" TO screening_worker;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "report_queue" TO screening_worker;
GRANT SELECT ON "review" TO screening_worker;
GRANT SELECT ON "run" TO screening_worker;
GRANT SELECT ON "settled_identity" TO screening_worker;
GRANT SELECT ON "this_database" TO screening_worker;
GRANT SELECT ON "training_capture" TO screening_worker;
GRANT SELECT ON "run_summary" TO screening_worker;
GRANT SELECT ON "identity_conflicts" TO screening_worker;
GRANT SELECT ON "case_results" TO screening_worker;
GRANT SELECT ON "review_opinions" TO screening_worker;
GRANT SELECT ON "case_review" TO screening_worker;
GRANT SELECT ON "review_queue" TO screening_worker;
GRANT SELECT ON "reporting_queue" TO screening_worker;
GRANT USAGE ON SEQUENCE chunk_id_seq TO screening_worker;
GRANT USAGE ON SEQUENCE event_id_seq TO screening_worker;
GRANT USAGE ON SEQUENCE report_queue_id_seq TO screening_worker;

-- submit, run, cancel, resume, retry, recompute
DO $$ BEGIN CREATE ROLE screening_submitter NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM screening_submitter;
GRANT SELECT ON "alembic_version" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE (head, length) ON "audit_chain" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE ON "bundle" TO screening_submitter;
GRANT SELECT, UPDATE (cam, camera, captured_at, cells, changed_ns, chunk_id, ended_at, engine, excluded, height, inode, label, marks, novelty, nucleated_cells, p_all, probabilities, probability, quality, reason, reject_code, reused_from, sha256, state, width), INSERT ON "capture" TO screening_submitter;
GRANT SELECT, UPDATE (aggregated_at, case_policy, case_rule, cells_at_least, counting, excluded, identity_conflict, novel, nucleated_cells, priority, quarantined, reasons, rejected, result_version, review_held_seconds, review_held_until, review_holder, score, score_high, score_low, screened, state, subtype, subtype_margin, superseded_by, verdict), INSERT ON "case" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE (attempts, captures, deaths, done_at, id, last_error, lease_seconds, lease_token, lease_until, published_at, run_id, seconds, state, worker), DELETE ON "chunk" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "event" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE (look_alike) ON "patient" TO screening_submitter;
GRANT SELECT, INSERT ON "patient_without_captures" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "report_queue" TO screening_submitter;
GRANT SELECT ON "review" TO screening_submitter;
GRANT SELECT, INSERT, UPDATE ON "run" TO screening_submitter;
GRANT SELECT ON "settled_identity" TO screening_submitter;
GRANT SELECT ON "this_database" TO screening_submitter;
GRANT SELECT, INSERT ON "training_capture" TO screening_submitter;
GRANT SELECT ON "run_summary" TO screening_submitter;
GRANT SELECT ON "identity_conflicts" TO screening_submitter;
GRANT SELECT ON "case_results" TO screening_submitter;
GRANT SELECT ON "review_opinions" TO screening_submitter;
GRANT SELECT ON "case_review" TO screening_submitter;
GRANT SELECT ON "review_queue" TO screening_submitter;
GRANT SELECT ON "reporting_queue" TO screening_submitter;
GRANT USAGE ON SEQUENCE capture_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE case_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE chunk_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE event_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE patient_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE patient_without_captures_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE report_queue_id_seq TO screening_submitter;
GRANT USAGE ON SEQUENCE run_id_seq TO screening_submitter;

-- review
DO $$ BEGIN CREATE ROLE screening_reviewer NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM screening_reviewer;
GRANT SELECT ON "alembic_version" TO screening_reviewer;
GRANT SELECT, INSERT, UPDATE (head, length) ON "audit_chain" TO screening_reviewer;
GRANT SELECT ON "bundle" TO screening_reviewer;
GRANT SELECT ON "capture" TO screening_reviewer;
GRANT SELECT, UPDATE (aggregated_at, case_policy, case_rule, cells_at_least, counting, excluded, identity_conflict, novel, nucleated_cells, priority, quarantined, reasons, rejected, result_version, review_held_seconds, review_held_until, review_holder, score, score_high, score_low, screened, state, subtype, subtype_margin, superseded_by, verdict) ON "case" TO screening_reviewer;
GRANT SELECT ON "chunk" TO screening_reviewer;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "event" TO screening_reviewer;
GRANT SELECT ON "patient" TO screening_reviewer;
GRANT SELECT ON "patient_without_captures" TO screening_reviewer;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "report_queue" TO screening_reviewer;
GRANT SELECT, INSERT, UPDATE (chain_hash, chain_position) ON "review" TO screening_reviewer;
GRANT SELECT ON "run" TO screening_reviewer;
GRANT SELECT, INSERT ON "settled_identity" TO screening_reviewer;
GRANT SELECT ON "this_database" TO screening_reviewer;
GRANT SELECT ON "training_capture" TO screening_reviewer;
GRANT SELECT ON "run_summary" TO screening_reviewer;
GRANT SELECT ON "identity_conflicts" TO screening_reviewer;
GRANT SELECT ON "case_results" TO screening_reviewer;
GRANT SELECT ON "review_opinions" TO screening_reviewer;
GRANT SELECT ON "case_review" TO screening_reviewer;
GRANT SELECT ON "review_queue" TO screening_reviewer;
GRANT SELECT ON "reporting_queue" TO screening_reviewer;
GRANT USAGE ON SEQUENCE event_id_seq TO screening_reviewer;
GRANT USAGE ON SEQUENCE report_queue_id_seq TO screening_reviewer;
GRANT USAGE ON SEQUENCE review_id_seq TO screening_reviewer;
GRANT USAGE ON SEQUENCE settled_identity_id_seq TO screening_reviewer;
COMMIT;
