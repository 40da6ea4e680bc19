"""Unchanged captures: the row of a later run is a copy that leaves its largest columns with the original.

`reused_from` names the original, which a worker wrote, and never another copy.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy.orm import aliased

from db.many import update_many
from db.models import Capture

LEFT_WITH_ORIGINAL = ("cam", "quality", "cells")
"""Columns that are empty in a copy: few read them, and they are nearly half of a row."""
ORIGINAL = aliased(Capture, name="original")
"""For statements that read such a column: `.outerjoin(ORIGINAL, ORIGINAL.id == Capture.reused_from)`."""


def of_original(name: str) -> ColumnElement[Any]:
    """A column that is left with the original, for statements on Capture that join ORIGINAL."""
    return func.coalesce(getattr(Capture, name), getattr(ORIGINAL, name)).label(name)


def hand_over(connection: Connection, run_id: int) -> None:
    """Make originals of copies whose original is of this run, which goes: the earliest copy of each takes over what was
    left with the original, and all others name that one.
    """
    copies = connection.execute(
        select(Capture.id, Capture.reused_from)
        .join(ORIGINAL, ORIGINAL.id == Capture.reused_from)
        .where(ORIGINAL.run_id == run_id, Capture.run_id != run_id)
        .order_by(Capture.id)
    ).all()
    heirs: dict[int, int] = {}
    for copy in copies:
        heirs.setdefault(copy.reused_from, copy.id)
    if not heirs:
        return
    left = {
        name: select(getattr(ORIGINAL, name)).where(ORIGINAL.id == bindparam("original_")).scalar_subquery()
        for name in LEFT_WITH_ORIGINAL
    }
    connection.execute(
        update(Capture)
        .where(Capture.id == bindparam("heir_"))
        .values(reused_from=None, **{name: func.coalesce(getattr(Capture, name), left[name]) for name in left}),
        [{"heir_": heir, "original_": original} for original, heir in heirs.items()],
    )
    others = [
        {"id": copy.id, "reused_from": heirs[copy.reused_from]} for copy in copies if heirs[copy.reused_from] != copy.id
    ]
    update_many(connection, Capture, others)
