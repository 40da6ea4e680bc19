"""The audit cannot be changed without being noticed: the database refuses it, and where that was removed, its chains
do not fit any more.
"""

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, Engine, select, text, update
from sqlalchemy.exc import DBAPIError

from contract.bundle import Bundle
from contract.errors import UsageError
from contract.people import person
from contract.states import EventKind, ReviewAction
from db.audit import note
from db.audit_check import AuditExport, export, verify
from db.control import cancel
from db.engine import reading, writing
from db.fsck import fsck
from db.models import Event, Review, Run
from db.purge import purge
from db.results import finish_chunk
from db.review import Opinion, Reviewer, act
from producer.commands.audit import audit
from tests.support.owner import as_owner
from tests.support.runs import claimed, outcome, submitted

ANNA, BEN = Reviewer("anna", "1.2.3", "a.meier"), Reviewer("ben", "1.2.3", "b.huber")
FORGED = (
    "INSERT INTO review ({id}case_id, action, reviewer, person, verdict, result_version, bundle_digest, "
    "software_version{at}) SELECT {number}id, 'confirm', 'mallory', 'mallory', 'benign', result_version, "
    '(SELECT bundle_digest FROM run), \'1\'{time} FROM "case" WHERE id = (SELECT MIN(id) FROM "case")'
)


@pytest.fixture
def reviewed(database: Engine, bundle: Bundle) -> Engine:
    """A run with two finished cases, each with two reviews."""
    run = submitted(database, bundle, patients=2, captures=4)
    for chunk_id in run.chunk_ids:
        lease = claimed(database, chunk_id)
        finish_chunk(database, lease, outcome(lease))
    for case_id in (1, 2):
        act(database, case_id, ReviewAction.CONFIRM, BEN)
        act(database, case_id, ReviewAction.COMMENT, ANNA, comment="blasts in every field")
    return database


def problems(database: Engine, **options: object) -> list[str]:
    return [problem for chain in verify(database, **options) for problem in chain.problems]  # type: ignore[arg-type]


def tamper(database: Engine, *statements: str) -> None:
    with as_owner(database) as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_what_was_written_is_found_as_it_was_written(reviewed: Engine) -> None:
    chains = verify(reviewed)
    assert {(chain.table, chain.rows) for chain in chains if chain.run_id == 1} == {
        ("event", 1), ("review", 4), ("report_queue", 4),
    }  # fmt: skip
    assert problems(reviewed) == []
    (finding,) = [one for one in fsck(reviewed, 1, grace_s=0) if "audit" in one.invariant]
    assert (finding.holds, finding.checked) == (True, 9)
    heads = {chain.table: chain.head for chain in export(reviewed).chains if chain.run_id == 1}
    assert all(head[:16] in finding.invariant for head in heads.values())


TAMPERINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "a review is changed": (("UPDATE review SET verdict = 'benign' WHERE id = 1",), "review 1 was changed"),
    "its comment is changed": (("UPDATE review SET comment = 'none' WHERE id = 2",), "review 2 was changed"),
    "its time is changed": (("UPDATE review SET created_at = '2020-01-01 00:00:00' WHERE id = 4",), "review 4 was"),
    "a review is removed": (("DELETE FROM review WHERE id = 2",), "row 2 of the chain of review is gone"),
    "the last review is removed": (("DELETE FROM review WHERE id = 4",), "row 4 of the chain of review is gone"),
    "a case is removed with its reviews": (
        ("DELETE FROM report_queue WHERE case_id = 1", 'DELETE FROM "case" WHERE id = 1'),
        "rows 1 to 2 of the chain of review are gone",
    ),
    "an event is changed": (("UPDATE event SET actor = 'somebody'",), "event 1 was changed"),
    "an event is removed": (("DELETE FROM event",), "row 1 of the chain of event is gone"),
    "a queue row is about another case": (("UPDATE report_queue SET review_id = NULL WHERE id = 3",), "report_queue 3"),
    "a review is forged": ((FORGED.format(id="", number="", at="", time=""),), "review 5 was not written by this"),
    "a review is forged with a number and a date": (
        (FORGED.format(
            id="id, ", number="9223372036854775807, ", at=", created_at", time=", CAST('2020-01-01 00:00:00' AS {t})"
        ),),
        "review 9223372036854775807 was not written",
    ),
    "a review takes the place of another": (
        ("UPDATE review SET chain_position = 2 WHERE id = 1",), "row 1 of the chain of review is gone"
    ),
    "somebody else is said to have reviewed": (
        ("UPDATE review SET person = 'carla' WHERE id = 1",), "counted for another person"
    ),
    "a run is removed": (
        ("DELETE FROM report_queue", "DELETE FROM run"), "run 1 was removed without `screen purge`, with 4 rows"
    ),
    "the length of a chain is changed": (
        ("DELETE FROM review WHERE id = 4", "UPDATE audit_chain SET length = 3 WHERE table_name = 'review'"),
        "the chain of review ends with row 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERINGS)
def test_tampering_by_the_owner_of_the_database_is_found(reviewed: Engine, what: str) -> None:
    statements, found = TAMPERINGS[what]
    is_sqlite = reviewed.dialect.name == "sqlite"
    tamper(reviewed, *(one.replace("{t}", "TEXT" if is_sqlite else "TIMESTAMPTZ") for one in statements))
    assert any(found in problem for problem in problems(reviewed)), problems(reviewed)


def test_a_chain_that_was_forged_as_a_whole_does_not_fit_an_export(reviewed: Engine) -> None:
    """The owner removes the last review of a case and all traces of it in this database."""
    before = export(reviewed)
    with reading(reviewed) as connection:
        third = connection.execute(select(Review.chain_hash).where(Review.id == 3)).scalar_one()
    tamper(
        reviewed,
        "DELETE FROM review WHERE id = 4",
        f"UPDATE audit_chain SET length = 3, head = '{third}' WHERE table_name = 'review'",
    )
    assert problems(reviewed) == []
    assert problems(reviewed, against=before) == ["the export has 4 rows of review, now there are 3"]


def test_an_export_still_fits_when_more_was_done(reviewed: Engine) -> None:
    before = export(reviewed, rows=True)
    assert len(before.rows or ()) == 9
    act(reviewed, 1, ReviewAction.OVERRIDE, ANNA, opinion=Opinion("benign"), comment="lymphocytes")
    assert problems(reviewed, against=before) == []
    tamper(
        reviewed, "UPDATE review SET comment = 'none' WHERE id = 4", "UPDATE review SET chain_hash = 'x' WHERE id = 4"
    )
    assert any("another one than at the export" in problem for problem in problems(reviewed, against=before))


def test_an_export_of_another_database_is_refused(reviewed: Engine) -> None:
    other = export(reviewed).model_copy(update={"database": "another"})
    with pytest.raises(UsageError, match="is of database another"):
        verify(reviewed, against=other)


def test_a_purge_leaves_its_event_and_the_heads_of_what_it_removed(reviewed: Engine) -> None:
    before = export(reviewed)
    with writing(reviewed) as connection:
        connection.execute(
            update(Run).values(
                created_at=text(
                    "'2020-01-01 00:00:00+00'"
                    if connection.dialect.name == "postgresql"
                    else "'2020-01-01 00:00:00.000000'"
                )
            )
        )
    assert purge(reviewed, 1, 90, force=True, actor="anna") is not None
    assert problems(reviewed) == []
    assert problems(reviewed, against=before) == []
    with reading(reviewed) as connection:
        detail = connection.execute(select(Event.detail).where(Event.kind == EventKind.PURGED)).scalar_one()
    assert [detail["chains"][name][0] for name in ("review", "report_queue")] == [4, 4]
    tamper(reviewed, "UPDATE audit_chain SET length = 5 WHERE table_name = 'review'")
    assert problems(reviewed) == ["the purge of run 1 has seen another chain of review"]


REFUSED: dict[str, str] = {
    "change a review": "UPDATE review SET comment = 'none'",
    "remove a review": "DELETE FROM review",
    "change an event": "UPDATE event SET actor = 'x'",
    "remove an event": "DELETE FROM event",
    "change a queue row": "UPDATE report_queue SET case_id = 2 WHERE id = 1",
    "change what a queue row replaces": "UPDATE report_queue SET replaces_id = 1 WHERE id = 2",
    "remove a queue row": "DELETE FROM report_queue",
    "remove a case": 'DELETE FROM "case"',
    "remove a run": "DELETE FROM run",
    "chain a row anew": "UPDATE review SET chain_hash = 'x'",
    "remove a chain": "DELETE FROM audit_chain",
    "shorten a chain": "UPDATE audit_chain SET length = 0",
    "give a review a number": FORGED.format(id="id, ", number="9223372036854775807, ", at="", time=""),
    "give a review a number that is free": FORGED.format(id="id, ", number="0, ", at="", time=""),
    "act as nobody": FORGED.format(id="", number="", at="", time="").replace("'mallory', 'mallory'", "'mallory', NULL"),
    "give an event a number": "INSERT INTO event (id, kind, actor, detail) VALUES (77, 'x', 'x', '{}')",
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_database_refuses_to(reviewed: Engine, what: str) -> None:
    with pytest.raises(DBAPIError), writing(reviewed) as connection:
        connection.execute(text(REFUSED[what]))
    assert problems(reviewed) == []


@pytest.mark.parametrize("table", ["review", "event", "report_queue", "run", "case", "audit_chain"])
def test_postgresql_empties_no_table_of_the_audit(reviewed: Engine, table: str) -> None:
    if reviewed.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(DBAPIError), writing(reviewed) as connection:
        connection.execute(text(f'TRUNCATE "{table}" CASCADE'))


@pytest.mark.parametrize("statement", [
    "REPLACE INTO review SELECT id, case_id, action, 'mallory', verdict, subtype, result_version, comment, "
    "bundle_digest, software_version, created_at, chain_position, chain_hash, person, os_user FROM review WHERE id = 1",
    "REPLACE INTO \"case\" SELECT * FROM \"case\" WHERE id = 1",
    "INSERT OR REPLACE INTO report_queue (run_id, case_id, cause, replaces_id) SELECT 1, 1, 'recomputed', replaces_id "
    "FROM report_queue WHERE replaces_id IS NOT NULL",
])  # fmt: skip
def test_sqlite_replaces_no_row_of_the_audit(reviewed: Engine, statement: str) -> None:
    if reviewed.dialect.name != "sqlite":
        pytest.skip("only SQLite has REPLACE")
    act(reviewed, 1, ReviewAction.OVERRIDE, ANNA, opinion=Opinion("benign"), comment="lymphocytes")
    with pytest.raises(DBAPIError), writing(reviewed) as connection:
        connection.execute(text(statement))


def test_a_time_is_the_databases_own(reviewed: Engine) -> None:
    is_sqlite = reviewed.dialect.name == "sqlite"
    kind = "TEXT" if is_sqlite else "TIMESTAMPTZ"
    forged = FORGED.format(id="", number="", at=", created_at", time=f", CAST('2020-01-01 00:00:00.000000' AS {kind})")
    if is_sqlite:
        with pytest.raises(DBAPIError), writing(reviewed) as connection:
            connection.execute(text(forged))
        return
    with writing(reviewed) as connection:
        connection.execute(text(forged))
        latest = connection.execute(select(Review.created_at).order_by(Review.id.desc()).limit(1)).scalar_one()
    assert latest.year > 2020


def test_a_result_that_somebody_changes_leaves_an_event(reviewed: Engine) -> None:
    with writing(reviewed) as connection:
        connection.execute(text("UPDATE \"case\" SET verdict = 'benign', priority = 0 WHERE id = 1"))
    with reading(reviewed) as connection:
        changed = connection.execute(select(Event).where(Event.kind == EventKind.RESULT_CHANGED)).one()
    assert (changed.run_id, changed.case_id) == (1, 1)
    assert (changed.detail["before"]["verdict"], changed.detail["after"]["verdict"]) == ("all", "benign")
    assert changed.actor == (
        "sqlite" if reviewed.dialect.name == "sqlite" else connection.engine.url.username or changed.actor
    )
    assert problems(reviewed) == [], "nobody of ours has written it, and the next of ours chains it"
    act(reviewed, 2, ReviewAction.COMMENT, ANNA, comment="seen")
    with reading(reviewed) as connection:
        assert connection.execute(select(Event.chain_hash).where(Event.id == changed.id)).scalar_one()


def test_a_result_that_is_written_for_the_first_time_leaves_none(reviewed: Engine) -> None:
    with reading(reviewed) as connection:
        assert connection.execute(select(Event).where(Event.kind == EventKind.RESULT_CHANGED)).all() == []


def test_reviewers_who_act_at_once_extend_one_chain(reviewed: Engine) -> None:
    def comments(case_id: int, reviewer: Reviewer) -> None:
        for number in range(10):
            act(reviewed, case_id, ReviewAction.COMMENT, reviewer, comment=f"comment {number}")

    threads = [threading.Thread(target=comments, args=pair) for pair in ((1, ANNA), (2, BEN), (1, BEN))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [chain.rows for chain in verify(reviewed, 1) if chain.table == "review"] == [34]
    assert problems(reviewed) == []


def test_a_transaction_that_fails_leaves_nothing_to_chain_behind(reviewed: Engine) -> None:
    """The next transaction on the same connection must not look for its rows."""
    with pytest.raises(ZeroDivisionError), writing(reviewed) as connection:
        note(connection, EventKind.CANCELLED, actor="anna", run_id=1 // 0 if add_and_fail(connection) else 1)
    cancel(reviewed, 1, actor="anna")
    assert problems(reviewed) == []


def add_and_fail(connection: Connection) -> bool:
    note(connection, EventKind.CANCELLED, actor="anna", run_id=1)
    return True


SPELLINGS = ("Anna", " anna ", "ANNA", "ａｎｎａ", "an\u200bna", "anna\u00a0")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_four_eyes_are_two_people(database: Engine, bundle: Bundle, spelling: str) -> None:
    run = submitted(database, bundle, patients=1, captures=4)
    with writing(database) as connection:
        connection.execute(update(Run).values(reviewers_required=2))
    lease = claimed(database, run.chunk_ids[0])
    finish_chunk(database, lease, outcome(lease))
    act(database, 1, ReviewAction.CONFIRM, ANNA)
    try:
        same = Reviewer(spelling, "1.2.3", "a.meier")
    except UsageError:  # what cannot be printed is no name at all
        return
    again = act(database, 1, ReviewAction.CONFIRM, same)
    assert (again.state, again.agreeing) == ("partly_signed", 1)
    assert act(database, 1, ReviewAction.CONFIRM, BEN).state == "closed"


def test_a_person_is_a_name_without_its_spelling() -> None:
    assert {person(spelling) for spelling in SPELLINGS} == {"anna"}
    assert person("Anna Meier") != person("Anne Meier")


def test_who_acted_is_stored_beside_the_name(reviewed: Engine) -> None:
    with reading(reviewed) as connection:
        rows = connection.execute(select(Review.reviewer, Review.os_user).order_by(Review.id)).all()
    assert [tuple(row) for row in rows[:2]] == [("ben", "b.huber"), ("anna", "a.meier")]


def test_the_commands_export_and_verify(reviewed: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREEN_DATABASE_URL", reviewed.url.render_as_string(hide_password=False))
    file = tmp_path / "audit.json"
    assert CliRunner().invoke(audit, ["export", str(file)], standalone_mode=False).exception is None
    assert len(AuditExport.model_validate_json(file.read_bytes()).chains) == 3
    verified = CliRunner().invoke(audit, ["verify", "--against", str(file)], standalone_mode=False)
    assert (verified.return_value, "as it was written" in verified.output) == (0, True)
    tamper(reviewed, "UPDATE review SET comment = 'none' WHERE id = 1")
    verified = CliRunner().invoke(audit, ["verify", "--json"], standalone_mode=False)
    assert verified.return_value == 1
    assert [one["problems"] for one in json.loads(verified.stdout) if one["problems"]] == [
        ["review 1 was changed after it was written"]
    ]
    file.write_text("{}")
    assert "no export" in str(
        CliRunner().invoke(audit, ["verify", "--against", str(file)], standalone_mode=False).exception
    )
