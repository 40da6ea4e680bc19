"""The migrations build what the models say, on both databases; other schema versions are refused."""

import re
import shutil
from pathlib import Path
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, func, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from contract.errors import DatabaseForbids, DatabaseUnavailable, DatabaseVersionError, SettingsError
from db import schema
from db.columns import Base
from db.engine import migrating, open_engine, reading, writing
from db.models import BundleRow, Case, Event, Patient, ReportQueue, Run, ThisDatabase
from tests.support.commands import REPOSITORY
from tests.support.earlier import RUN, write_at


def test_the_migrations_build_exactly_the_models(database: Engine) -> None:
    with reading(database) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def _values(rule: str) -> set[str]:
    """The values that a CHECK names: PostgreSQL keeps its own wording of the rule."""
    return set(re.findall(r"'(\w+)'", rule))


def test_the_check_constraints_of_the_models_are_in_the_database_with_all_their_values(database: Engine) -> None:
    inspector = inspect(database)
    for table in Base.metadata.tables.values():
        checks = [check for check in table.constraints if isinstance(check, CheckConstraint)]
        wanted = {str(check.name): _values(str(check.sqltext)) for check in checks}
        stored = {
            str(check["name"]): _values(check["sqltext"]) for check in inspector.get_check_constraints(table.name)
        }
        assert stored == wanted, table.name


def test_the_views_for_people_exist(database: Engine) -> None:
    assert {"run_summary", "case_results", "review_queue", "identity_conflicts"} <= set(
        inspect(database).get_view_names()
    )


def test_upgrading_twice_changes_nothing(database: Engine) -> None:
    assert schema.upgrade(database) == (schema.head_revision(), schema.head_revision())


def test_what_an_earlier_release_wrote_is_there_after_an_upgrade(database_url: str) -> None:
    """A run with its only case, as schema 0001 had it."""
    engine = open_engine(database_url)
    with writing(engine) as connection:
        write_at(connection, "0001")
    assert schema.upgrade(engine) == ("0001", schema.head_revision())
    with reading(engine) as connection:
        (row,) = connection.execute(text("SELECT * FROM case_results")).mappings()
    assert (row["patient"], row["verdict"], row["score"], row["identity_conflict"]) == ("P1", "all", 0.9, None)


def test_corrections_in_the_reporting_queue_survive_its_new_rules(database_url: str) -> None:
    """SQLite rebuilds the table for them, and deletes along foreign keys when the old one is dropped."""
    engine = open_engine(database_url)
    with writing(engine) as connection:
        write_at(connection, "0002")
        for row in ("(1, 1, 1, 'screened', NULL)", "(2, 1, 1, 'recomputed', 1)", "(3, 1, 1, 'recomputed', 2)"):
            connection.execute(text(f"INSERT INTO report_queue (id, run_id, case_id, cause, replaces_id) VALUES {row}"))
    schema.upgrade(engine)
    with reading(engine) as connection:
        rows = connection.execute(select(ReportQueue.id, ReportQueue.replaces_id).order_by(ReportQueue.id)).all()
    assert [tuple(row) for row in rows] == [(1, None), (2, 1), (3, 2)]
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":  # the numbers above were given by hand
            connection.execute(text("SELECT setval('report_queue_id_seq', 3)"))
        connection.execute(insert(ReportQueue).values(run_id=1, case_id=1, cause="override", replaces_id=3))


def test_an_upgrade_marks_open_cases_that_were_superseded_before_it_and_no_signed_ones(database_url: str) -> None:
    """Five runs of one patient: the first is signed, the fourth was cancelled."""
    engine = open_engine(database_url)
    with writing(engine) as connection:
        write_at(connection, "0003")
        for run in (2, 3, 4, 5):
            connection.execute(
                text(
                    "INSERT INTO run (id, bundle_digest, root, root_text, submitted, cases, skipped, software_version,"
                    " cancelled_at) SELECT :run, bundle_digest, root, root_text, 1, 1, 0, 'test',"
                    " CASE WHEN :run = 4 THEN created_at END FROM run WHERE id = 1"
                ),
                {"run": run},
            )
            connection.execute(
                text(
                    'INSERT INTO "case" (id, run_id, patient_id, state, submitted, screened, rejected, quarantined,'
                    " verdict) VALUES (:run, :run, 1, 'aggregated', 1, 1, 0, 0, 'benign')"
                ),
                {"run": run},
            )
        connection.execute(
            text(
                "INSERT INTO review (case_id, action, reviewer, verdict, bundle_digest, software_version)"
                " VALUES (1, 'confirm', 'anna', 'all', 'd', 'test')"
            )
        )
        connection.execute(text("""UPDATE bundle SET manifest = '{"notice": "Only drawings."}'"""))
    schema.upgrade(engine)
    with reading(engine) as connection:
        marked = connection.execute(select(Case.id, Case.superseded_by).order_by(Case.id)).all()
        events = connection.execute(select(Event.case_id, Event.actor, Event.detail).order_by(Event.id)).all()
        warnings = connection.execute(select(BundleRow.warnings)).scalar_one()
    assert [tuple(row) for row in marked] == [(1, None), (2, 3), (3, 5), (4, 5), (5, None)]
    assert [tuple(event) for event in events] == [
        (2, "upgrade", {"superseded_by": 3}), (3, "upgrade", {"superseded_by": 5}),
        (4, "upgrade", {"superseded_by": 5}),
    ]  # fmt: skip
    assert warnings == ["Only drawings."]


def test_an_upgrade_lets_rows_name_what_they_answer_by_the_times_that_are_known(database_url: str) -> None:
    """A confirm, reported; then a mix-up is noted, and another reviewer confirms."""
    engine = open_engine(database_url)
    with writing(engine) as connection:
        write_at(connection, "0003")
        connection.execute(text('UPDATE "case" SET identity_conflict = TRUE'))
        connection.execute(
            text(
                "INSERT INTO event (at, kind, run_id, case_id, actor, detail)"
                " VALUES ('2026-01-01 12:00:00.000000', 'identity_conflict', 1, 1, 'worker', '{}')"
            )
        )
        for number, (reviewer, hour) in enumerate((("anna", 11), ("ben", 13)), 1):
            connection.execute(
                text(
                    "INSERT INTO review (case_id, action, reviewer, verdict, bundle_digest, software_version,"
                    " created_at)"
                    f" VALUES (1, 'confirm', '{reviewer}', 'all', 'd', 'test', '2026-01-01 {hour}:00:00.000000')"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO report_queue (id, run_id, case_id, cause, replaces_id, created_at) VALUES"
                    f" ({number}, 1, 1, '{'screened' if number == 1 else 'recomputed'}', {number - 1 or 'NULL'},"
                    f" '2026-01-01 {hour}:00:01.000000')"
                )
            )
    schema.upgrade(engine)
    with reading(engine) as connection:
        assert connection.execute(select(Case.result_version)).scalars().all() == [2]
        versions = connection.execute(text("SELECT result_version FROM review ORDER BY id")).scalars().all()
        named = connection.execute(select(ReportQueue.review_id).order_by(ReportQueue.id)).scalars().all()
        counting = connection.execute(text("SELECT reviewer FROM review_opinions")).scalars().all()
    assert (versions, named) == ([1, 2], [1, 2])
    assert counting == ["ben"], "anna had not seen the mix-up"


def test_a_name_in_two_archives_becomes_two_patients_and_cases_follow_their_archive(database_url: str) -> None:
    """As of schema 0007. Results that were not compared with captures of the other archive say so."""
    engine = open_engine(database_url)
    with writing(engine) as connection:
        write_at(connection, "0003")
        connection.execute(text('UPDATE "case" SET identity_conflict = FALSE'))
        for run, root in ((2, "/b"), (3, "/a")):
            connection.execute(
                text(
                    "INSERT INTO run (id, bundle_digest, root, root_text, submitted, cases, skipped, software_version)"
                    f" VALUES ({run}, 'd', :root, '{root}', 1, 1, 0, 'test')"
                ),
                {"root": root.encode()},
            )
            connection.execute(
                text(
                    'INSERT INTO "case" (id, run_id, patient_id, state, submitted, screened, rejected, quarantined,'
                    " verdict, score, identity_conflict)"
                    f" VALUES ({run}, {run}, 1, 'aggregated', 1, 1, 0, 0, 'all', 0.9, FALSE)"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO capture (id, run_id, case_id, path, path_text, size_bytes, modified_ns, sha256, state,"
                    f" probabilities) VALUES ({run}, {run}, {run}, :path, 'P1/1.jpg', 9, 9, :sha, 'screened', '[0.1]')"
                ),
                {"path": b"P1/1.jpg", "sha": "same" if root == "/b" else "other"},
            )
        connection.execute(text("UPDATE run SET root = :root WHERE id = 1"), {"root": b"/a"})
        if engine.dialect.name == "postgresql":  # it did not count the row whose number was given
            connection.execute(text("SELECT setval(pg_get_serial_sequence('patient', 'id'), 1)"))
    schema.upgrade(engine)
    with reading(engine) as connection:
        rows = connection.execute(
            select(Case.id, Patient.root, Patient.external_id, Case.identity_conflict)
            .join(Patient, Patient.id == Case.patient_id)
            .order_by(Case.id)
        ).all()
        sites = connection.execute(select(Run.site)).scalars().all()
        patients = connection.execute(select(func.count()).select_from(Patient)).scalar_one()
        (uuid,) = connection.execute(select(ThisDatabase.uuid)).scalars()
    assert [tuple(row) for row in rows] == [(1, b"/a", "P1", None), (2, b"/b", "P1", None), (3, b"/a", "P1", False)]
    assert (patients, sites) == (2, [None] * 3)
    assert str(UUID(uuid)) == uuid


def test_every_database_has_a_uuid_of_its_own(tmp_path: Path) -> None:
    uuids = set()
    for name in ("one.db", "two.db"):
        engine = open_engine(f"sqlite:///{tmp_path}/{name}")
        schema.upgrade(engine)
        with reading(engine) as connection:
            uuids.add(connection.execute(select(ThisDatabase.uuid)).scalar_one())
        with pytest.raises(IntegrityError), writing(engine) as connection:
            connection.execute(insert(ThisDatabase).values(id=2, uuid="x"))
    assert len(uuids) == 2


A_NEW_CODE = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "9000", "{head}", None, None


def upgrade() -> None:
    with op.batch_alter_table("capture") as capture:
        capture.drop_constraint(op.f("ck_capture_reject_code"), type_="check")
        capture.create_check_constraint(op.f("ck_capture_reject_code"), "reject_code IN ('empty_file', 'too_blue')")
"""


def test_a_migration_that_rebuilds_a_table_keeps_what_refers_to_it(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new reject code does: on SQLite, Alembic copies the table, drops the old one and renames the copy."""
    row = (
        "INSERT INTO capture (id, run_id, case_id, path, path_text, size_bytes, modified_ns, state, reused_from)"
        " VALUES ({0}, 1, 1, '/a/{0}.jpg', '/a/{0}.jpg', 9, 9, 'pending', {1})"
    )
    with writing(database) as connection:
        for statement in (*RUN, row.format(2, 1), row.format(3, 2)):
            connection.execute(text(statement))
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations)
    (migrations / "versions" / "9000_a_new_code.py").write_text(A_NEW_CODE.format(head=schema.head_revision()))
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    assert schema.upgrade(database)[1] == "9000"
    with reading(database) as connection:
        rows = connection.execute(text("SELECT id, reused_from FROM capture ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [(1, None), (2, 1), (3, 2)]
    with writing(database) as connection:
        connection.execute(text("UPDATE capture SET reject_code = 'too_blue', state = 'rejected' WHERE id = 3"))
    with pytest.raises(IntegrityError), writing(database) as connection:  # foreign keys hold again
        connection.execute(text("UPDATE capture SET reused_from = 99 WHERE id = 3"))


def test_a_migration_that_leaves_rows_that_refer_to_nothing_is_undone(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/x.db")
    schema.upgrade(engine)
    with writing(engine) as connection:
        for statement in RUN:
            connection.execute(text(statement))
    with pytest.raises(AssertionError, match="refer to nothing"), migrating(engine) as connection:
        connection.execute(text("DELETE FROM patient"))
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM patient")).scalar_one() == 1


def test_a_database_without_tables_is_refused_with_the_next_step(database_url: str) -> None:
    with pytest.raises(DatabaseVersionError, match="screen db upgrade"):
        schema.check(open_engine(database_url))


def test_a_database_of_a_newer_release_is_refused_and_left_alone(database: Engine) -> None:
    with writing(database) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (schema.check, schema.upgrade):
        with pytest.raises(DatabaseVersionError, match="newer"):
            refuse(database)
    with reading(database) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_failed_upgrade_leaves_nothing_behind(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(database_url)
    with monkeypatch.context() as patched:
        patched.setattr(schema, "head_revision", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            schema.upgrade(engine)
    assert inspect(engine).get_table_names() == []
    schema.upgrade(engine)
    schema.check(engine)


def test_a_database_out_of_reach_is_said_to_be(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/nowhere/screening.db", "postgresql://nobody@127.0.0.1:1/none"):
        with pytest.raises(DatabaseUnavailable, match="SCREEN_DATABASE_URL"):
            schema.check(open_engine(url))


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "not a url"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="SCREEN_DATABASE_URL"):
        open_engine(url)


def test_sqlite_runs_in_wal_with_foreign_keys(tmp_path: Path) -> None:
    with reading(open_engine(f"sqlite:///{tmp_path}/x.db")) as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_what_is_committed_while_one_reads_does_not_show(database: Engine) -> None:
    count = select(func.count()).select_from(Event)
    with reading(database) as connection:
        before = connection.execute(count).scalar_one()
        with writing(database) as other:
            other.execute(insert(Event).values(kind="submitted", actor="test", detail={}))
        assert connection.execute(count).scalar_one() == before
    with reading(database) as connection:
        assert connection.execute(count).scalar_one() == before + 1


def test_the_queries_of_the_documentation_run(database: Engine) -> None:
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(queries) >= 12
    with reading(database) as connection:
        for query in queries:
            connection.execute(text(query))


def test_a_place_where_no_database_can_be_made_is_named_with_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in ("file/screening.db", "missing/screening.db"):
        with pytest.raises(DatabaseForbids, match=r"cannot write the database .*SCREEN_DATABASE_URL=sqlite:////FOLDER"):
            schema.upgrade(open_engine(f"sqlite:///{tmp_path / place}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_file_that_may_only_be_read_is_a_mistake_to_mend_and_no_outage(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'screening.db'}")
    schema.upgrade(engine)

    def write() -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql("PRAGMA query_only=ON")
            connection.execute(insert(Event).values(kind="cancelled", actor="anna"))

    with pytest.raises(DatabaseForbids, match="right to write its file"):
        write()
