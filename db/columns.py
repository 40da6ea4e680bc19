"""The parts of every table's declaration: the base class, keys that count up, and the life of a column."""

from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import JSON, BigInteger, Enum, Integer, MetaData
from sqlalchemy.orm import DeclarativeBase, mapped_column

from db.clock import UTCDateTime

BigId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts up by itself on SQLite
NUMBERS_ONCE = {"sqlite_autoincrement": True}
"""For `__table_args__`: the number of a row that is gone is never given to another. SQLite would give the highest one
again, and other systems would take the new row for the old one.
"""


def one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def coded(codes: type[StrEnum]) -> Enum:
    """The type of a view's column that holds one of these codes, for rows in which it is a member of `codes`."""
    return Enum(codes, native_enum=False, values_callable=lambda members: [code.value for code in members])


class Life(StrEnum):
    """When a column of a case, a chunk or a capture gets its value, and when it loses it again.

    Code that copies rows, opens them again or gives them back gets its lists of columns from this (`columns_of`).
    """

    KEY = "which row it is, and where it belongs"
    SEALED = "written by submit, and by nobody else; a copied row keeps it"
    STATE = "where the row stands"
    OUTCOME = "what became of it; a copied row keeps it, and trying again empties it"
    LEASE = "which worker has it; empty in a row that waits"
    HISTORY = "what has happened to it so far, in any state"


_LIFE, _COMPARED = "life", "compared"


def _column(life: Life, *arguments: Any, compared: bool = False, **options: Any) -> Any:
    """A column with this life. `compared`: `screen fsck --against` checks that two runs agree on it."""
    return mapped_column(*arguments, info={_LIFE: life, _COMPARED: compared}, **options)


key = partial(_column, Life.KEY)
sealed = partial(_column, Life.SEALED)
standing = partial(_column, Life.STATE, compared=True)
outcome = partial(_column, Life.OUTCOME)
lease = partial(_column, Life.LEASE)
history = partial(_column, Life.HISTORY)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UTCDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


def columns_of(model: type[Base], *lives: Life, compared: bool = False) -> tuple[str, ...]:
    """Names of the columns with one of these lives, or of those that are `compared`, in the order of the table."""
    return tuple(
        name
        for name, column in model.__table__.c.items()
        if (column.info.get(_COMPARED, False) if compared else column.info.get(_LIFE) in lives)
    )
