"""Writing many rows at once, in each database's fastest way."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, bindparam, column, func, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import OperationalError

from db.columns import Base


def insert_many(
    connection: Connection, table: FromClause, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Insert rows of plain values: by COPY on PostgreSQL, else by one prepared statement."""
    names = ", ".join(columns)
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - names of our own
        connection.exec_driver_sql(statement, list(map(tuple, rows)))
        return
    statement = f"COPY {table} ({names}) FROM STDIN"
    psycopg: Any = connection.dialect.dbapi
    cursor: Any = connection.connection.cursor()
    try:
        with cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.OperationalError as error:  # the driver was called directly, so SQLAlchemy did not wrap it
        raise OperationalError(statement, None, error) from error


def update_many(
    connection: Connection, model: type[Base], rows: Sequence[Mapping[str, Any]], *conditions: ColumnElement[bool],
    **same: Any,
) -> int:  # fmt: skip
    """Give each row whose `id` is in `rows` the other values there, and the values `same`, if it fulfils the
    `conditions`; returns how many did. All `rows` have the same keys.

    On PostgreSQL it is one statement with an array for each column: a statement for each row costs an answer of the
    server each, and sending all of them before the first answer is no choice (db.engine, `do_executemany`).
    """
    if not rows:
        return 0
    names = [name for name in rows[0] if name != "id"]
    key = model.__table__.c["id"]
    types = {name: model.__table__.c[name].type for name in ("id", *names)}
    changes = update(model).where(*conditions)
    if connection.dialect.name != "postgresql":
        of_each = {name: bindparam(f"{name}_", type_=types[name]) for name in names}
        statement = changes.where(key == bindparam("id_")).values(**of_each, **same)
        values = [{f"{name}_": value for name, value in row.items()} for row in rows]
        return connection.execute(statement, values).rowcount
    arrays = [bindparam(f"{name}_", type_=ARRAY(type_, dimensions=1)) for name, type_ in types.items()]
    columns = [column(name, type_) for name, type_ in types.items()]
    new = func.unnest(*arrays).table_valued(*columns, name="new").render_derived()
    statement = changes.where(key == new.c.id).values(**{name: new.c[name] for name in names}, **same)
    return connection.execute(statement, {f"{name}_": [row[name] for row in rows] for name in types}).rowcount
