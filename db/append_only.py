"""The database itself refuses to change what reviewers did: rows of `review` are written once.

A run can still be purged with all its rows, along the foreign keys: the row's case is deleted before the row.

`db.schema.upgrade` removes the triggers before it migrates and creates them again afterwards, like the views: SQLite
rebuilds a table to alter it, and cannot rename a table that a trigger of another one mentions.
"""

from sqlalchemy import Connection, text

_REFUSAL = "review is append-only: add a row instead, with `screen review`"
_TRIGGERS = ("review_is_not_updated", "review_is_not_deleted")
_SQLITE = (
    f"CREATE TRIGGER review_is_not_updated BEFORE UPDATE ON review BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    f"""CREATE TRIGGER review_is_not_deleted BEFORE DELETE ON review
        WHEN EXISTS (SELECT 1 FROM "case" WHERE id = OLD.case_id) BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",  # noqa: S608 - text of our own
)
_POSTGRESQL = (
    f"""CREATE OR REPLACE FUNCTION refuse_change_of_review() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                IF NOT EXISTS (SELECT 1 FROM "case" WHERE id = OLD.case_id) THEN RETURN OLD; END IF;
            END IF;
            RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'integrity_constraint_violation';
        END $$""",  # noqa: S608 - text of our own
    """CREATE TRIGGER review_is_not_updated BEFORE UPDATE OR TRUNCATE ON review
       FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_review()""",
    """CREATE TRIGGER review_is_not_deleted BEFORE DELETE ON review
       FOR EACH ROW EXECUTE FUNCTION refuse_change_of_review()""",
)


def protect(connection: Connection) -> None:
    """Create the triggers; they must not exist yet."""
    for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
        connection.execute(text(statement))


def unprotect(connection: Connection) -> None:
    """Remove the triggers if they exist."""
    on = " ON review" if connection.dialect.name == "postgresql" else ""
    for name in _TRIGGERS:
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}{on}"))
