"""The database itself refuses to change what reviewers did: rows of `review` and `settled_identity` are written once.

A run can still be purged with all its rows, along the foreign keys: the row's case is deleted before the row, and so is
one of the two patients of what was settled.

`db.schema.upgrade` removes the triggers before it migrates and creates them again afterwards, like the views: SQLite
rebuilds a table to alter it, and cannot rename a table that a trigger of another one mentions.
"""

from sqlalchemy import Connection, text

_REFUSAL = "{table} is append-only: add a row instead, with `screen review`"
_TABLES = {
    "review": 'EXISTS (SELECT 1 FROM "case" WHERE id = OLD.case_id)',
    "settled_identity": (
        "EXISTS (SELECT 1 FROM patient WHERE id = OLD.patient_id) "
        "AND EXISTS (SELECT 1 FROM patient WHERE id = OLD.other_patient_id)"
    ),
}
"""Table -> what is so as long as its row must stay."""
_SQLITE = (
    f"CREATE TRIGGER {{table}}_is_not_updated BEFORE UPDATE ON {{table}} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    f"""CREATE TRIGGER {{table}}_is_not_deleted BEFORE DELETE ON {{table}}
        WHEN {{stays}} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",
)
_POSTGRESQL = (
    f"""CREATE OR REPLACE FUNCTION refuse_change_of_{{table}}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                IF NOT ({{stays}}) THEN RETURN OLD; END IF;
            END IF;
            RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'integrity_constraint_violation';
        END $$""",
    """CREATE TRIGGER {table}_is_not_updated BEFORE UPDATE OR TRUNCATE ON {table}
       FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_{table}()""",
    """CREATE TRIGGER {table}_is_not_deleted BEFORE DELETE ON {table}
       FOR EACH ROW EXECUTE FUNCTION refuse_change_of_{table}()""",
)


def protect(connection: Connection) -> None:
    """Create the triggers; they must not exist yet."""
    for table, stays in _TABLES.items():
        for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
            connection.execute(text(statement.format(table=table, stays=stays)))


def unprotect(connection: Connection) -> None:
    """Remove the triggers if they exist."""
    for table in _TABLES:
        on = f" ON {table}" if connection.dialect.name == "postgresql" else ""
        for what in ("updated", "deleted"):
            connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_is_not_{what}{on}"))
