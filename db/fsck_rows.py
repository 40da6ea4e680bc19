"""What rows say about how they came to be: copies, columns that a worker left empty, disks that were away, numbers.

Each finding is a kind of wrong result that no sum shows.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, false, func, or_, select
from sqlalchemy.orm import aliased

from contract.states import CaptureState, EventKind, RejectCode
from db.columns import columns_of
from db.incarnation import uuid_of
from db.models import Capture, Case, Event
from db.runs import RunRow

AWAY = (RejectCode.MISSING, RejectCode.NOT_READABLE)
"""Codes of captures that a worker did not get to see."""
MANY_AWAY = 3
"""So many captures of one patient, and more than half, are more than somebody who tidies up."""
_WRITTEN = ("quality", "marks", "excluded", "nucleated_cells", "cells", "width", "height", "engine")
"""Columns that this release's workers fill for every capture that they screen."""


class Broken(NamedTuple):
    """An invariant, the number of rows that it is about, and a query for the ids of those (`kind`) that break it."""

    invariant: str
    checked: int
    query: Select[int]
    kind: str


def of_rows(connection: Connection, run: RunRow) -> Iterator[Broken]:
    """The invariants of this run's rows, to be counted."""
    of_run = Capture.run_id == run.id
    yield _copies(run, of_run)
    yield _left_empty(connection, run, of_run)
    yield _cells(run, of_run)
    yield _disks(run)
    yield _incarnation(connection)


def _copies(run: RunRow, of_run: ColumnElement[bool]) -> Broken:
    """A screened capture is copied as it is, and names what a worker screened, never another copy. A rejected one may
    have been tried again since.
    """
    original = aliased(Capture)
    same = {"path", "size_bytes", *columns_of(Capture, compared=True)} - _WITHOUT_EQUALITY
    differ = [getattr(Capture, name).is_distinct_from(getattr(original, name)) for name in sorted(same)]
    wrong = (
        select(Capture.id)
        .join(original, original.id == Capture.reused_from)
        .where(of_run, Capture.state == CaptureState.SCREENED, original.state == CaptureState.SCREENED)
        .where(or_(original.id >= Capture.id, original.reused_from.is_not(None), *differ))
    )
    return Broken("a reused capture says what the row says that it was copied from", run.submitted, wrong, "capture")


_WITHOUT_EQUALITY = frozenset({"probabilities"})
"""PostgreSQL's type json has none; the label and its digest are compared."""


def _left_empty(connection: Connection, run: RunRow, of_run: ColumnElement[bool]) -> Broken:
    """No row is without a column that an earlier one of the run has. A run that was begun before an upgrade may have it
    from a moment on; afterwards a row without it is that of a worker that knew no such column.
    """
    by_worker = and_(
        of_run, Capture.state == CaptureState.SCREENED, Capture.chunk_id.is_not(None), Capture.reused_from.is_(None)
    )
    first = connection.execute(
        select(
            *(func.min(case((getattr(Capture, name).is_not(None), Capture.ended_at))).label(name) for name in _WRITTEN)
        ).where(by_worker)
    ).one()
    late = [
        and_(getattr(Capture, name).is_(None), Capture.ended_at > moment)
        for name, moment in first._asdict().items()
        if moment is not None
    ]
    empty = select(Capture.id).where(by_worker, or_(false(), *late))
    return Broken("no worker of an earlier release left columns empty", run.submitted, empty, "capture")


def _cells(run: RunRow, of_run: ColumnElement[bool]) -> Broken:
    """A screened capture has the number of its nucleated cells and the cells, or neither; a copy only the number."""
    by_worker = and_(of_run, Capture.state == CaptureState.SCREENED, Capture.reused_from.is_(None))
    half = select(Capture.id).where(by_worker, Capture.nucleated_cells.is_(None) != Capture.cells.is_(None))
    return Broken(
        "nucleated cells are counted where they are kept, and kept where counted", run.submitted, half, "capture"
    )


def _disks(run: RunRow) -> Broken:
    """Most captures of one patient missing or not readable: so a result looks that was made while a disk was away."""
    away = func.sum(case((Capture.reject_code.in_(AWAY), 1), else_=0))
    patients = (
        select(Capture.case_id)
        .join(Case, Case.id == Capture.case_id)
        .where(Case.run_id == run.id)
        .group_by(Capture.case_id)
        .having(and_(away >= MANY_AWAY, 2 * away > func.count()))
    )
    return Broken("no patient lost most captures at once, as when a disk is away", run.cases, patients, "case")


def _incarnation(connection: Connection) -> Broken:
    """The database has the UUID that its last restore gave it: no copy of its file was laid over it since."""
    uuid = uuid_of(connection)
    last = select(func.max(Event.id)).where(Event.kind == EventKind.RESTORED).scalar_subquery()
    other = select(Event.id).where(Event.id == last, Event.detail["database"].as_string() != uuid)
    return Broken("the database's UUID is the one that its last restore gave it", 1, other, "event")
