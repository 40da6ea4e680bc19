"""Whether the audit is as it was written: its chains are computed again, and compared with what was exported before."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Engine, select

from contract.errors import UsageError
from contract.people import person
from contract.states import EventKind
from db.chain import CHAINED, NO_RUN, Key, Link, first_hash, heads, links_of
from db.engine import reading
from db.incarnation import uuid_of
from db.models import Event, Run
from db.runs import require_run

SHORT = 16
"""So many characters of a head are printed for people: 64 bits."""


@dataclass(frozen=True)
class CheckedChain:
    """The rows of one table and run (0: events that are about no run), and what is wrong with them."""

    table: str
    run_id: int
    rows: int
    head: str
    problems: list[str] = field(default_factory=list)

    @property
    def named(self) -> str:
        return f"{self.rows} in {self.table}, {self.head[:SHORT]}"


class ExportedChain(BaseModel):
    """A chain at the time of an export."""

    model_config = ConfigDict(extra="forbid")

    table: str
    run_id: int
    rows: int
    head: str


class AuditExport(BaseModel):
    """What `screen audit export` writes: the heads of all chains, and their rows if those were asked for."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    database: str
    chains: list[ExportedChain]
    rows: list[dict[str, Any]] | None = None


def export(engine: Engine, run_id: int | None = None, *, rows: bool = False) -> AuditExport:
    """The chains of one run, or of all, as they are stored; with `rows`, also what every row says. Raises NoSuchRun."""
    with reading(engine) as connection:
        stored = heads(connection, run_id)
        keys = _keys(connection, run_id, stored)
        chains = [
            ExportedChain(table=table, run_id=of_run, rows=length, head=head)
            for (table, of_run), (length, head) in stored.items()
        ]
        said = [_exported(link) for key in keys for link in links_of(connection, key)] if rows else None
        return AuditExport(database=uuid_of(connection), chains=chains, rows=said)


def _exported(link: Link) -> dict[str, Any]:
    table, run_id = link.key
    return {"table": table, "of_run": run_id, "position": link.position, "hash": link.hash} | link.plain()


def verify(engine: Engine, run_id: int | None = None, *, against: AuditExport | None = None) -> list[CheckedChain]:
    """Compute the chains of one run, or of all, again from their rows; with `against`, compare them with an export too.

    Raises NoSuchRun, and UsageError if the export is of another database.
    """
    with reading(engine) as connection:
        if against is not None:
            _refuse_other_database(connection, against)
        checked = checked_chains(connection, run_id)
        if against is None:
            return checked
        before = {(one.table, one.run_id): one for one in against.chains if run_id in (None, one.run_id)}
        now = {(one.table, one.run_id): one for one in checked}
        for key, exported in before.items():
            chain = now.setdefault(key, CheckedChain(*key, 0, first_hash(key)))
            chain.problems.extend(_since(connection, exported, chain))
        return list(now.values())


def checked_chains(connection: Connection, run_id: int | None = None) -> list[CheckedChain]:
    """The chains of one run, or of all, computed again from their rows."""
    stored = heads(connection, run_id)
    keys = _keys(connection, run_id, stored)
    purges = _purges(connection)
    unlinked = {int(row): before for purge in purges.values() for row, before in purge.get("replaced", {}).items()}
    there = {NO_RUN, *connection.execute(select(Run.id)).scalars()}
    checked = []
    for key in keys:
        table, of_run = key
        length, head = stored.get(key, (0, first_hash(key)))
        if of_run in there or table == "event":
            problems = list(_problems(links_of(connection, key), key, length, head, unlinked))
        else:
            problems = list(_gone(key, length, head, purges.get(of_run)))
        checked.append(CheckedChain(table, of_run, length, head, problems))
    return checked


def _keys(connection: Connection, run_id: int | None, stored: Collection[Key]) -> list[Key]:
    """The chains that there are or should be, those of one run or all."""
    if run_id is not None:
        if ("event", run_id) not in stored:  # a run that was purged has its events
            require_run(connection, run_id)
        return [(table, run_id) for table in CHAINED]
    runs = {NO_RUN, *connection.execute(select(Run.id)).scalars()}
    runs |= {of_run or NO_RUN for of_run in connection.execute(select(Event.run_id).distinct()).scalars()}
    return sorted({(table, of_run) for table in CHAINED for of_run in runs if of_run or table == "event"} | {*stored})


def _purges(connection: Connection) -> dict[int, Mapping[str, Any]]:
    """The detail of each `purged` event, by run."""
    events = select(Event.run_id, Event.detail).where(Event.kind == EventKind.PURGED, Event.run_id.is_not(None))
    return dict(connection.execute(events).all())


def _problems(links: Sequence[Link], key: Key, length: int, head: str, unlinked: Mapping[int, int]) -> Iterator[str]:
    """What is wrong with the rows of a chain, which should have this length and head. `unlinked` says which row of the
    queue replaced one that a purge has removed since.
    """
    table, _ = key
    for link in links:
        if link.hash is None and link.says.get("kind") != EventKind.RESULT_CHANGED:
            yield f"{table} {link.id} was not written by this system"
        if table == "review" and link.says["person"] != person(link.says["reviewer"]):
            yield f"review {link.id} is counted for another person than its reviewer"
    chained = sorted((link for link in links if link.hash is not None), key=lambda link: (link.position or 0, link.id))
    position, before = 0, first_hash(key)
    for link in chained:
        assert link.hash is not None
        if link.position == position + 1:
            purged = {"replaces_id": unlinked[link.id]} if table == "report_queue" and link.id in unlinked else {}
            if link.hash_after(before, link.position, **purged) != link.hash:
                yield f"{table} {link.id} was changed after it was written"
        elif link.position is not None and link.position > position + 1:
            yield _missing(table, position + 1, link.position - 1)
        else:
            yield f"{table} {link.id} was slipped in: another row has its place {link.position}"
            continue
        position, before = link.position, link.hash
    if position < length:
        yield _missing(table, position + 1, length)
    elif (position, before) != (length, head):
        yield f"the chain of {table} ends with row {position}, {before[:SHORT]}, not as audit_chain says"


def _missing(table: str, first: int, last: int) -> str:
    return (
        f"row {first} of the chain of {table} is gone"
        if first == last
        else (f"rows {first} to {last} of the chain of {table} are gone")
    )


def _gone(key: Key, length: int, head: str, purge: Mapping[str, Any] | None) -> Iterator[str]:
    """What is wrong with the chain of a run that is no longer there."""
    table, run_id = key
    if purge is None:
        yield f"run {run_id} was removed without `screen purge`, with {length} rows of {table}"
    elif "chains" in purge and tuple(purge["chains"].get(table, (0, first_hash(key)))) != (length, head):
        yield f"the purge of run {run_id} has seen another chain of {table}"


def _since(connection: Connection, exported: ExportedChain, chain: CheckedChain) -> Iterator[str]:
    """How a chain of now contradicts an export of before."""
    key = (exported.table, exported.run_id)
    if chain.rows < exported.rows:
        yield f"the export has {exported.rows} rows of {exported.table}, now there are {chain.rows}"
    elif chain.rows == exported.rows:
        if chain.head != exported.head:
            yield f"the chain of {exported.table} ended with {exported.head[:SHORT]} at the export"
    else:
        then = [link.hash for link in links_of(connection, key) if link.position == exported.rows]
        if exported.rows and then and then != [exported.head]:
            yield f"row {exported.rows} of the chain of {exported.table} is another one than at the export"


def _refuse_other_database(connection: Connection, against: AuditExport) -> None:
    restored = select(Event.detail).where(Event.kind == EventKind.RESTORED)
    known = {uuid_of(connection), *(detail.get("before") for detail in connection.execute(restored).scalars())}
    if against.database not in known:
        raise UsageError(
            f"the export is of database {against.database}, this one is {uuid_of(connection)}; name the database that "
            "it was made of in SCREEN_DATABASE_URL"
        )
