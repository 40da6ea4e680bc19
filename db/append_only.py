"""What the database itself refuses, whoever writes: the audit is only added to, and it says when a result changes.

- Rows of the audit are written once. What may change later in them is named below (`free`).
- The database gives them their numbers and times.
- They are deleted only along the foreign keys, with the run; and a run only after the event that says so was written.
- A case that gets another result leaves an event, also where nobody of ours changed it.

These rules protect against mistakes and against roles that may write rows. The owner of the database can remove them:
then `screen audit verify` finds what was done (db/chain.py).

`db.schema.upgrade` removes the triggers before it migrates and creates them again afterwards, like the views: SQLite
rebuilds a table to alter it, and cannot rename a table that a trigger of another one mentions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from contract.states import CaseState, EventKind
from db.chain import CONSUMERS, OWN
from db.columns import Base, columns_of
from db.models import Case

WITHIN_S = 60
"""A time is the database's if it is no further from now: a statement that adds many rows takes a while."""


@dataclass(frozen=True)
class _Rule:
    """A table of the audit. `stays` is so as long as a row must stay; `free` columns may change; `instead` says what to
    do instead of changing a row.
    """

    table: str
    time: str
    stays: str
    instead: str
    free: frozenset[str] = frozenset()
    unique: tuple[str, ...] = ()
    """A column that no two rows share, which SQLite's REPLACE would make room for."""

    @property
    def frozen(self) -> str:
        return ", ".join(one.name for one in Base.metadata.tables[self.table].c if one.name not in self.free)

    @property
    def message(self) -> str:
        return self.said(self.instead)

    def said(self, instead: str) -> str:
        return f"{self.table} is append-only: {instead}"


_WITH_CASE = 'EXISTS (SELECT 1 FROM "case" WHERE id = OLD.case_id)'
_WITH_CASE_AND_RUN = f"{_WITH_CASE} AND EXISTS (SELECT 1 FROM run WHERE id = OLD.run_id)"
_WITH_PATIENTS = (
    "EXISTS (SELECT 1 FROM patient WHERE id = OLD.patient_id) "
    "AND EXISTS (SELECT 1 FROM patient WHERE id = OLD.other_patient_id)"
)
_RULES = (
    _Rule("review", "created_at", _WITH_CASE, "add a row instead, with `screen review`", OWN),
    _Rule("settled_identity", "created_at", _WITH_PATIENTS, "add a row instead, with `screen review`"),
    _Rule("event", "at", "1 = 1", "it says what happened", OWN),
    _Rule(
        "report_queue", "created_at", _WITH_CASE_AND_RUN, "only its consumers write to it, with `screen queue`",
        OWN | CONSUMERS | {"replaces_id"}, ("replaces_id",),
    ),
)  # fmt: skip
_RUN_STAYS = f"NOT EXISTS (SELECT 1 FROM event WHERE run_id = OLD.id AND kind = '{EventKind.PURGED}')"
_DELETED_WITH = {
    "run": (_RUN_STAYS, "a run is removed by `screen purge`, which leaves an event"),
    "case": ("EXISTS (SELECT 1 FROM run WHERE id = OLD.run_id)", "a case is removed with its run, by `screen purge`"),
    "audit_chain": ("1 = 1", "audit_chain says how long the chains of the audit are"),
}
"""Tables that are no part of the audit, whose rows take rows of it with them."""
_RESULT = (*columns_of(Case, compared=True), "identity_conflict")
"""What counts as a result of a case, when it changes."""


def protect(connection: Connection) -> None:
    """Create the triggers; they must not exist yet."""
    for statement in _postgresql() if connection.dialect.name == "postgresql" else _sqlite():
        connection.execute(text(statement))


def unprotect(connection: Connection) -> None:
    """Remove the triggers, and PostgreSQL's functions for them, that this or an earlier release has made."""
    if connection.dialect.name == "postgresql":
        made = text(
            "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace "
            "AND t.tgname LIKE '%\\_is\\_%'"
        )
        for trigger, table in connection.execute(made).all():
            connection.execute(text(f'DROP TRIGGER {trigger} ON "{table}"'))
        functions = text(
            "SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace "
            "AND prorettype = 'trigger'::regtype AND (proname LIKE 'refuse\\_%' OR proname LIKE 'note\\_%')"
        )
        for function in connection.execute(functions).scalars().all():
            connection.execute(text(f"DROP FUNCTION {function}()"))
        return
    made = text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%\\_is\\_%' ESCAPE '\\'")
    for trigger in connection.execute(made).scalars().all():
        connection.execute(text(f"DROP TRIGGER {trigger}"))


def _given(column: str) -> str:
    return f"its {column} is given by the database"


def _result(side: str) -> str:
    """What a case's result is on one side of its change, as the arguments of a function that makes JSON."""
    return ", ".join(f"'{name}', {side}.{name}" for name in _RESULT)


_NEW_PERSON = "a reviewer acts by `screen review`, which says who it is"
_CHANGED = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in _RESULT)


def _sqlite() -> Iterator[str]:
    def refuse(message: str) -> str:
        return f"BEGIN SELECT RAISE(ABORT, '{message}'); END"

    for rule in _RULES:
        table, message = rule.table, rule.message
        yield f"CREATE TRIGGER {table}_is_not_updated BEFORE UPDATE OF {rule.frozen} ON {table} {refuse(message)}"
        yield f"CREATE TRIGGER {table}_is_not_deleted BEFORE DELETE ON {table} WHEN {rule.stays} {refuse(message)}"
        # What an INSERT gives is known only afterwards; sqlite_sequence has the number from before the statement.
        number = (
            f"1 + MAX(COALESCE((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0), "
            f"COALESCE((SELECT MAX(id) FROM {table} WHERE id < NEW.id), 0))"
        )
        yield (
            f"CREATE TRIGGER {table}_is_numbered AFTER INSERT ON {table} "
            f"WHEN NEW.id <> {number} {refuse(rule.said(_given('id')))}"
        )
        limits = (f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{sign}{WITHIN_S} seconds')" for sign in "-+")
        yield (
            f"CREATE TRIGGER {table}_is_timed AFTER INSERT ON {table} "
            f"WHEN NEW.{rule.time} NOT BETWEEN {' AND '.join(limits)} {refuse(rule.said(_given(rule.time)))}"
        )
        for column in rule.unique:  # else REPLACE deletes the other row, and asks no trigger
            yield (
                f"CREATE TRIGGER {table}_is_not_replaced BEFORE INSERT ON {table} "
                f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {column} = NEW.{column}) {refuse(message)}"
            )
            yield (
                f"CREATE TRIGGER {table}_is_not_relinked BEFORE UPDATE OF {column} ON {table} "
                f"WHEN NEW.{column} IS NOT NULL {refuse(message)}"
            )
        if rule.free >= OWN:
            yield (
                f"CREATE TRIGGER {table}_is_chained_once BEFORE UPDATE OF {', '.join(sorted(OWN))} ON {table} "
                f"WHEN OLD.chain_hash IS NOT NULL {refuse(message)}"
            )
    yield (
        f"CREATE TRIGGER review_is_of_a_person BEFORE INSERT ON review WHEN NEW.person IS NULL {refuse(_NEW_PERSON)}"
    )
    for table, (stays, message) in _DELETED_WITH.items():
        yield f'CREATE TRIGGER {table}_is_not_deleted BEFORE DELETE ON "{table}" WHEN {stays} {refuse(message)}'
        if table != "audit_chain":  # REPLACE would delete the row, and what belongs to it, and ask no trigger
            yield (
                f'CREATE TRIGGER {table}_is_not_replaced BEFORE INSERT ON "{table}" '
                f'WHEN EXISTS (SELECT 1 FROM "{table}" WHERE id = NEW.id) {refuse(message)}'
            )
    yield (
        "CREATE TRIGGER audit_chain_is_not_shortened BEFORE UPDATE ON audit_chain "
        f"WHEN NEW.length < OLD.length {refuse(_DELETED_WITH['audit_chain'][1])}"
    )
    changed = _CHANGED.replace("IS DISTINCT FROM", "IS NOT")
    yield (
        f'CREATE TRIGGER case_is_another_one AFTER UPDATE OF {", ".join(_RESULT)} ON "case" '
        f"WHEN OLD.state = '{CaseState.AGGREGATED}' AND ({changed}) BEGIN "
        f"INSERT INTO event (kind, run_id, case_id, actor, detail) VALUES ('{EventKind.RESULT_CHANGED}', NEW.run_id, "
        f"NEW.id, 'sqlite', json_object('before', json_object({_result('OLD')}), "
        f"'after', json_object({_result('NEW')}))); END"
    )


def _postgresql() -> Iterator[str]:
    def refuse(message: str) -> str:
        return f"RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation';"

    def function(name: str, body: str) -> str:
        return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"

    def trigger(table: str, what: str, when: str, calls: str, condition: str = "", each: str = "ROW") -> str:
        only = f"WHEN ({condition}) " if condition else ""
        return f'CREATE TRIGGER {table}_is_{what} {when} ON "{table}" FOR EACH {each} {only}EXECUTE FUNCTION {calls}()'

    for rule in _RULES:
        table = rule.table
        refusal = f"refuse_change_of_{table}"
        yield function(refusal, refuse(rule.message))
        yield trigger(table, "not_updated", f"BEFORE UPDATE OF {rule.frozen}", refusal)
        yield trigger(table, "not_emptied", "BEFORE TRUNCATE", refusal, each="STATEMENT")
        deletion = f"refuse_deletion_of_{table}"
        yield function(deletion, f"IF {rule.stays} THEN {refuse(rule.message)} END IF; RETURN OLD;")
        yield trigger(table, "not_deleted", "BEFORE DELETE", deletion)
        number = f"currval(pg_get_serial_sequence('{table}', 'id'))"
        person = f"IF NEW.person IS NULL THEN {refuse(_NEW_PERSON)} END IF;" if table == "review" else ""
        yield function(
            f"refuse_number_of_{table}",
            f"IF NEW.id IS DISTINCT FROM {number} THEN {refuse(rule.said(_given('id')))} END IF; {person} "
            f"NEW.{rule.time} := clock_timestamp(); RETURN NEW;",
        )
        yield trigger(table, "numbered", "BEFORE INSERT", f"refuse_number_of_{table}")
        for column in rule.unique:
            yield trigger(table, "not_relinked", f"BEFORE UPDATE OF {column}", refusal, f"NEW.{column} IS NOT NULL")
        if rule.free >= OWN:
            own = ", ".join(sorted(OWN))
            yield trigger(table, "chained_once", f"BEFORE UPDATE OF {own}", refusal, "OLD.chain_hash IS NOT NULL")
    for table, (stays, message) in _DELETED_WITH.items():
        deletion = f"refuse_deletion_of_{table}"
        yield function(deletion, f"IF {stays} THEN {refuse(message)} END IF; RETURN OLD;")
        yield trigger(table, "not_deleted", "BEFORE DELETE", deletion)
        yield function(f"refuse_emptying_of_{table}", refuse(message))
        yield trigger(table, "not_emptied", "BEFORE TRUNCATE", f"refuse_emptying_of_{table}", each="STATEMENT")
    yield trigger(
        "audit_chain", "not_shortened", "BEFORE UPDATE", "refuse_emptying_of_audit_chain", "NEW.length < OLD.length"
    )
    yield function(
        "note_result_of_case",
        "INSERT INTO event (kind, run_id, case_id, actor, detail) VALUES "
        f"('{EventKind.RESULT_CHANGED}', NEW.run_id, NEW.id, session_user, json_build_object("
        f"'before', json_build_object({_result('OLD')}), 'after', json_build_object({_result('NEW')}))); RETURN NEW;",
    )
    yield trigger(
        "case", "another_one", f"AFTER UPDATE OF {', '.join(_RESULT)}", "note_result_of_case",
        f"OLD.state = '{CaseState.AGGREGATED}' AND ({_CHANGED})",
    )  # fmt: skip
