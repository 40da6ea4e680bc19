"""Harm that only the database's owner can do, because its triggers refuse it to everybody else."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from db import append_only
from db.engine import writing


@contextmanager
def as_owner(database: Engine) -> Iterator[Connection]:
    """A transaction without the triggers that protect the audit; they are there again afterwards."""
    with writing(database) as connection:
        append_only.unprotect(connection)
        yield connection
        append_only.protect(connection)
