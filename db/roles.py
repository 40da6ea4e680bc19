"""PostgreSQL roles with the least rights: `deploy/roles.sql` is made from this, and `screen db check` says which of the
duties here the role that is connected may do.

The owner of the database needs no grant. Only the owner upgrades, purges and says that a backup was restored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from db.chain import CHAINED, CONSUMERS, OWN
from db.columns import Base, Life, columns_of
from db.engine import reading
from db.models import Capture, Case, Chunk
from db.views import VIEWS

EVERYTHING: tuple[str, ...] = ()
"""The columns of a right that is about the whole table."""
Rights = Mapping[str, Mapping[str, Sequence[str]]]
"""Table or view -> SELECT, INSERT, UPDATE or DELETE -> the columns, or EVERYTHING."""


@dataclass(frozen=True)
class Duty:
    """What a role is for: `commands` says it in words. Its role is called `screening_NAME`."""

    name: str
    commands: str
    rights: Rights

    @property
    def role(self) -> str:
        return f"screening_{self.name}"


def _together(*rights: Rights) -> Rights:
    """All of these rights; EVERYTHING includes the columns."""
    together: dict[str, dict[str, Sequence[str]]] = {}
    for one in rights:
        for table, of_table in one.items():
            for right, columns in of_table.items():
                known = together.setdefault(table, {})
                whole = right in known and known[right] == EVERYTHING
                known[right] = (
                    EVERYTHING if whole or columns == EVERYTHING else sorted({*known.get(right, ()), *columns})
                )
    return together


_VERSION = "alembic_version"
_TABLES = [_VERSION, *sorted(Base.metadata.tables)]
_READ: Rights = {name: {"SELECT": EVERYTHING} for name in (*_TABLES, *VIEWS)}
_CHAIN: Rights = {
    **{name: {"INSERT": EVERYTHING, "UPDATE": sorted(OWN)} for name in CHAINED if name != "review"},
    "audit_chain": {"INSERT": EVERYTHING, "UPDATE": ("length", "head")},
}
_RESULTS: Rights = _together(
    _CHAIN,
    {
        "case": {
            "UPDATE": (
                *columns_of(Case, Life.STATE, Life.OUTCOME), "result_version", "superseded_by", "review_holder",
                "review_held_until", "review_held_seconds",
            )
        }
    },
)  # fmt: skip
"""Whoever ends a case may correct the result of another one, and take the place of an earlier one."""
_CHUNKS: Rights = {
    "chunk": {"INSERT": EVERYTHING, "UPDATE": columns_of(Chunk, *Life), "DELETE": EVERYTHING},
    "capture": {"UPDATE": ("chunk_id", *columns_of(Capture, Life.STATE, Life.OUTCOME))},
}
_CONSUME: Rights = {"report_queue": {"UPDATE": sorted(CONSUMERS)}}
_NEW = ("bundle", "training_capture", "run", "patient", "case", "patient_without_captures", "capture")
DUTIES = (
    Duty("reader", "status, watch, report, review list and show, fsck, audit, db check", _READ),
    Duty(
        "lis", "queue",
        _together(_CONSUME, {name: {"SELECT": EVERYTHING} for name in (_VERSION, "reporting_queue", "report_queue")}),
    ),
    Duty("worker", "worker", _together(_READ, _RESULTS, _CHUNKS)),
    Duty(
        "submitter", "submit, run, cancel, resume, retry, recompute",
        _together(
            _READ, _RESULTS, _CHUNKS, {name: {"INSERT": EVERYTHING} for name in _NEW},
            {"run": {"UPDATE": EVERYTHING}, "bundle": {"UPDATE": EVERYTHING}, "patient": {"UPDATE": ("look_alike",)},
             "capture": {"UPDATE": ("inode", "changed_ns", "reused_from")}},
        ),
    ),
    Duty(
        "reviewer", "review",
        _together(
            _READ, _RESULTS,
            {"review": {"INSERT": EVERYTHING, "UPDATE": sorted(OWN)}, "settled_identity": {"INSERT": EVERYTHING}},
        ),
    ),
)  # fmt: skip


def roles_sql() -> str:
    """The text of deploy/roles.sql: for psql, as the owner of the database, after each `screen db upgrade`."""
    return "\n".join(_sql()) + "\n"


def _sql() -> Iterator[str]:
    yield "-- Made by `make docs` from db/roles.py. Roles with the least rights, for psql as the owner of the database:"
    yield "--   psql --set=ON_ERROR_STOP=1 --file=deploy/roles.sql DATABASE     after each `screen db upgrade`"
    yield "--   CREATE ROLE night_worker LOGIN PASSWORD '...' IN ROLE screening_worker;"
    yield "-- `screen db check` says what the connected role may do. Upgrading, purging and `db restored` are left"
    yield "-- to the owner."
    yield "BEGIN;"
    yield "REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
    for duty in DUTIES:
        yield f"\n-- {duty.commands}"
        yield (
            f"DO $$ BEGIN CREATE ROLE {duty.role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;\n"
            f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {duty.role};"
        )
        for table, rights in duty.rights.items():
            granted = ", ".join(
                right if columns == EVERYTHING else f"{right} ({', '.join(columns)})"
                for right, columns in rights.items()
            )
            yield f'GRANT {granted} ON "{table}" TO {duty.role};'
        numbered = [name for name in _numbered() if "INSERT" in duty.rights.get(name, {})]
        for table in numbered:
            yield f"GRANT USAGE ON SEQUENCE {table}_id_seq TO {duty.role};"
    yield "COMMIT;"


def _numbered() -> list[str]:
    """Tables whose rows are numbered by a sequence."""
    return [
        name
        for name, table in sorted(Base.metadata.tables.items())
        if "id" in table.c and table.c.id.autoincrement is not False
    ]


def duties_of(engine: Engine) -> list[tuple[Duty, list[str]]]:
    """Each duty with the rights that the connected role lacks for it: `UPDATE on case`. Nothing on SQLite."""
    if engine.dialect.name != "postgresql":
        return []
    with reading(engine) as connection:
        return [(duty, list(_lacking(connection, duty))) for duty in DUTIES]


def _lacking(connection: Connection, duty: Duty) -> Iterator[str]:
    for table, rights in duty.rights.items():
        for right, columns in rights.items():
            if columns == EVERYTHING:
                has = "SELECT has_table_privilege(:table, :right)"
            else:
                has = "SELECT bool_and(has_column_privilege(:table, c, :right)) FROM unnest(CAST(:columns AS text[])) c"
            asked = {"table": f'"{table}"', "right": right, "columns": list(columns)}
            if not connection.execute(text(has), asked).scalar():
                yield f"{right} on {table}"


def owns(engine: Engine) -> bool:
    """Whether the connected role may upgrade and purge: it owns the tables, or is a member of the role that does."""
    if engine.dialect.name != "postgresql":
        return True
    owned = "SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class WHERE oid = '\"case\"'::regclass"
    with reading(engine) as connection:
        return bool(connection.execute(text(owned)).scalar())
