"""The audit's chains: the rows of `event`, `review` and `report_queue` of a run, each hashed with the one before it.

Whoever changes, removes or slips in a row afterwards breaks its chain, and `audit_chain` says how long it was and how
it ended. Somebody who may write all of this can forge it as a whole. So the heads are printed by `screen fsck` and
written by `screen audit export`: what is kept outside of the database proves what was in it.

Rows are chained at the end of the transaction that adds them. Then the locks of the chains, taken in their order, are
the last locks that a transaction takes, and nobody who waits for them has anything that the holder could still want.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, literal, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from contract.states import EventKind
from db.columns import Base
from db.many import update_many
from db.models import AuditChain, Case, Event, ReportQueue, Review

NO_RUN = 0
"""The `run_id` of the chain of events that are about no run."""
CHAINED: dict[str, type[Base]] = {model.__tablename__: model for model in (Event, ReportQueue, Review)}
OWN = frozenset({"chain_position", "chain_hash"})
"""Columns that a row gets when it is chained."""
CONSUMERS = frozenset({"taken_by", "taken_until", "taken_seconds", "acknowledged_at"})
"""Columns of the reporting queue that its consumers write; they are not part of what a row says."""
_FRESH = "rows to chain"


def add(connection: Connection, model: type[Base], rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Insert rows into a chained table, in their order; returns their ids. The end of `writing` chains them."""
    if not rows:
        return []
    new = insert(model).returning(model.__table__.c["id"], sort_by_parameter_order=True)
    ids = list(connection.execute(new, rows).scalars())
    connection.info.setdefault(_FRESH, defaultdict(list))[model.__tablename__] += ids
    return ids


def begin(connection: Connection) -> None:
    """Forget what a transaction before this one, which was rolled back, has added on this connection."""
    connection.info.pop(_FRESH, None)


def end(connection: Connection) -> None:
    """Chain the rows that this transaction has added, and what the database has added by itself. The last thing before
    the commit.
    """
    fresh: dict[str, list[int]] | None = connection.info.pop(_FRESH, None)
    if fresh is None:
        return
    by_itself = select(Event.id).where(Event.chain_hash.is_(None), Event.kind == EventKind.RESULT_CHANGED)
    of_database = connection.execute(by_itself.with_for_update(skip_locked=True)).scalars()
    fresh["event"] = sorted({*fresh.get("event", ()), *of_database})
    _chain(
        connection,
        (
            link
            for table, ids in fresh.items()
            for start in range(0, len(ids), 500)
            for link in _links(connection, table, CHAINED[table].__table__.c["id"].in_(ids[start : start + 500]))
        ),
    )


def chain_all(connection: Connection) -> None:
    """Chain every row that is in no chain yet, as an upgrade does with those of earlier releases."""
    for table, model in CHAINED.items():
        _chain(connection, _links(connection, table, model.__table__.c["chain_hash"].is_(None)))


Key = tuple[str, int]
"""Table and run of a chain."""


@dataclass(frozen=True)
class Link:
    """A row of a chain: what it says, and its place as it is stored."""

    key: Key
    id: int
    says: Mapping[str, Any]
    position: int | None
    hash: str | None

    def hash_after(self, before: str, position: int, **other: Any) -> str:
        """sha256, hexadecimal, of this row in this place, after the row with the hash `before`. `other` replaces what
        it says.
        """
        text = json.dumps(
            [before, position, *self.key, self.plain() | other],
            sort_keys=True,
            ensure_ascii=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """What the row says, as JSON can hold it."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in self.says.items()}


def first_hash(key: Key) -> str:
    """What stands before the first row of a chain."""
    table, run_id = key
    return hashlib.sha256(f"slide-screen: {table} of run {run_id}".encode()).hexdigest()


def said_columns(table: str) -> list[str]:
    """The columns of a chained table that its rows are hashed with."""
    return [column.name for column in CHAINED[table].__table__.c if column.name not in OWN | CONSUMERS]


def _links(connection: Connection, table: str, condition: ColumnElement[bool]) -> Iterable[Link]:
    """The rows of a table with this condition, in the order of their ids."""
    columns = CHAINED[table].__table__.c
    said = said_columns(table)
    run_id = Case.run_id if table == "review" else func.coalesce(columns["run_id"], literal(NO_RUN))
    statement: Select[Any] = select(run_id.label("of_run"), *columns).where(condition).order_by(columns["id"])
    if table == "review":
        statement = statement.join(Case, Case.id == columns["case_id"])
    for row in connection.execute(statement).mappings():
        says = {name: row[name] for name in said}
        yield Link((table, row["of_run"]), row["id"], says, row["chain_position"], row["chain_hash"])


def links_of(connection: Connection, key: Key) -> list[Link]:
    """All rows of one table and run, in the order of their ids."""
    table, run_id = key
    columns = CHAINED[table].__table__.c
    if table == "review":
        return list(_links(connection, table, Case.run_id == run_id))
    of_run = columns["run_id"].is_(None) if run_id == NO_RUN else columns["run_id"] == run_id
    return list(_links(connection, table, of_run))


def heads(connection: Connection, run_id: int | None = None) -> dict[Key, tuple[int, str]]:
    """Length and head of each chain, as they are stored; of one run, or of all."""
    stored = select(AuditChain).order_by(AuditChain.run_id, AuditChain.table_name)
    if run_id is not None:
        stored = stored.where(AuditChain.run_id == run_id)
    return _heads(connection, stored)


def _heads(connection: Connection, stored: Select[AuditChain]) -> dict[Key, tuple[int, str]]:
    return {(row.table_name, row.run_id): (row.length, row.head) for row in connection.execute(stored)}


def _chain(connection: Connection, links: Iterable[Link]) -> None:
    """Append these rows to their chains, whose heads are locked until the commit, always in the same order: a
    transaction calls this once.
    """
    rows: dict[Key, list[Link]] = defaultdict(list)
    for link in links:
        rows[link.key].append(link)
    if not rows:
        return
    keys = sorted(rows)
    insert_new = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(
        insert_new(AuditChain).on_conflict_do_nothing(),
        [{"table_name": key[0], "run_id": key[1], "length": 0, "head": first_hash(key)} for key in keys],
    )
    locked = (
        select(AuditChain)
        .where(tuple_(AuditChain.table_name, AuditChain.run_id).in_(keys))
        .order_by(AuditChain.table_name, AuditChain.run_id)
        .with_for_update()
    )
    known = _heads(connection, locked)
    places: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in keys:
        length, head = known[key]
        for link in rows[key]:
            length += 1
            head = link.hash_after(head, length)
            places[key[0]].append({"id": link.id, "chain_position": length, "chain_hash": head})
        is_this = (AuditChain.table_name == key[0]) & (AuditChain.run_id == key[1])
        connection.execute(update(AuditChain).where(is_this).values(length=length, head=head))
    for table, of_table in places.items():
        update_many(connection, CHAINED[table], of_table)
