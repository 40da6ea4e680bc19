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
        return connection.execute(select(ThisDatabase.uuid)).scalar_one()


def is_incarnation(uuid: str) -> ColumnElement[bool]:
    """The condition that the database has this UUID."""
    return select(ThisDatabase.id).where(ThisDatabase.uuid == uuid).exists()


def restored(engine: Engine, *, actor: str) -> str:
    """Say that a backup was restored: draw a new UUID, which is returned, and have all waiting chunks sent again.

    The messages of the database that the backup was made of are dropped from now on.
    """
    with writing(engine) as connection:
        return renew(connection, actor=actor)


def renew(connection: Connection, *, actor: str) -> str:
    """The same, in a transaction of the caller."""
    before = connection.execute(select(ThisDatabase.uuid)).scalar_one()
    uuid = str(uuid4())
    connection.execute(update(ThisDatabase).values(uuid=uuid))
    connection.execute(update(Chunk).where(Chunk.state == ChunkState.PENDING).values(published_at=None))
    note(connection, EventKind.RESTORED, actor=actor, run_id=None, detail={"database": uuid, "before": before})
    return uuid
