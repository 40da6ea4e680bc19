"""The clock of the database, so that leases do not depend on the clocks of the workers."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, DateTime, Dialect, func, literal, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time: always UTC, and always with a time zone in Python.

    PostgreSQL: timestamptz. SQLite: text like `2026-11-23 02:30:00.123000`, which sorts as time.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """Database time, `offset_s` seconds from now, a number or a column: `Chunk.lease_until < db_now(-60)`."""

    type = UTCDateTime()
    inherit_cache = True  # the offset is a parameter: statements that differ only in it are compiled once
    name = "db_now"

    def __init__(self, offset_s: float | ColumnElement[float] | None = None) -> None:
        if offset_s is None:
            super().__init__()
        else:
            super().__init__(offset_s if isinstance(offset_s, ColumnElement) else literal(float(offset_s)))


@compiles(db_now, "sqlite")
def _sqlite(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    # %f gives milliseconds; SQLAlchemy's DateTime reads and writes six digits, and text compares as text.
    offset = ", ".join(f"printf('%+.3f seconds', {compiler.process(clause, **kw)})" for clause in element.clauses)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{', ' + offset if offset else ''})"


@compiles(db_now)
def _postgresql(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    offset = "".join(f" + make_interval(secs => {compiler.process(clause, **kw)})" for clause in element.clauses)
    return f"(clock_timestamp(){offset})"


UNSTATED_S = 86400.0
"""The longest that something counts as taken if nobody wrote for how long it was."""


def shorten(
    connection: Connection,
    until: InstrumentedAttribute[datetime | None],
    seconds: InstrumentedAttribute[float | None],
    condition: ColumnElement[bool],
) -> None:
    """Where rows with this condition are taken `until` a time that lies further ahead than the `seconds` for which they
    were taken, the database's clock has stepped back since: then they are taken for these seconds from now on.

    Rows that another transaction has locked are left to the next call.
    """
    model = until.class_
    length = func.coalesce(seconds, UNSTATED_S)
    too_long = select(model.id).where(condition, until > db_now(length)).with_for_update(skip_locked=True)
    connection.execute(update(model).where(model.id.in_(too_long.scalar_subquery())).values({until: db_now(length)}))
