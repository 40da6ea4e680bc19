"""The database itself refuses to change what reviewers did: rows of `review` are written once.

A run can still be purged with all that belongs to it, along the foreign keys: by then the row's case is gone.

`db.schema.upgrade` takes the triggers away before it migrates and puts them back afterwards, like the views: SQLite
rebuilds a table that it alters, and renames none that a trigger of another one mentions.
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
    """Create the triggers, which are not there."""
    for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
        connection.execute(text(statement))


def unprotect(connection: Connection) -> None:
    """Take the triggers away, if they are there."""
    on = " ON review" if connection.dialect.name == "postgresql" else ""
    for name in _TRIGGERS:
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}{on}"))
