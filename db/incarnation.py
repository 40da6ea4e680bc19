"""Which database this is: a UUID that ids, queue rows and messages carry, because another one gives the same numbers.

A restored backup is another database, too: it gives numbers again that were given since the backup was made. So
`screen db restored` draws a new UUID for it.
"""

from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, select, update

from contract.states import ChunkState, EventKind
from db.audit import note
from db.engine import reading, writing
from db.models import Chunk, ThisDatabase


def incarnation(engine: Engine) -> str:
    """The UUID of the database as it is now."""
    with reading(engine) as connection:
        return uuid_of(connection)


def uuid_of(connection: Connection) -> str:
    """The same, in a transaction of the caller."""
    return connection.execute(select(ThisDatabase.uuid)).scalar_one()


def is_incarnation(uuid: str) -> ColumnElement[bool]:
    """The condition that the database has this UUID."""
    return select(ThisDatabase.id).where(ThisDatabase.uuid == uuid).exists()


def restored(engine: Engine, *, actor: str) -> str:
    """Say that a backup was restored: draw a new UUID, which is returned, and have all waiting chunks sent again.

    The messages of the database that the backup was made of are dropped from now on.
    """
    uuid = str(uuid4())
    with writing(engine) as connection:
        detail = {"database": uuid, "before": uuid_of(connection)}
        connection.execute(update(ThisDatabase).values(uuid=uuid))
        connection.execute(update(Chunk).where(Chunk.state == ChunkState.PENDING).values(published_at=None))
        note(connection, EventKind.RESTORED, actor=actor, run_id=None, detail=detail)
    return uuid
