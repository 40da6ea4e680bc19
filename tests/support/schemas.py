"""Databases with this release's schema, of which each kind is migrated once: migrations take half a second."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
from sqlalchemy import Engine, update

from db import schema
from db.engine import writing
from db.models import ThisDatabase
from tests.support.servers import postgresql_tools


class MadeOnce:
    """Migrates the first database of each kind, and gives the others what came out: in `folder`, a file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def give(self, engine: Engine) -> None:
        """Bring an empty database to this release's schema. Like each database it gets a UUID of its own."""
        made = self._folder / engine.dialect.name
        if not made.exists():
            schema.upgrade(engine)
            _save(engine, made)
            return
        _load(engine, made)
        with writing(engine) as connection:
            connection.execute(update(ThisDatabase).values(uuid=str(uuid4())))


def _save(engine: Engine, file: Path) -> None:
    if engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(engine.url.database or "")) as source, closing(sqlite3.connect(file)) as copy:
            source.backup(copy)
        return
    dump = [postgresql_tools() / "pg_dump", "--inserts", "--no-owner", f"--dbname={_dsn(engine)}"]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    lines = (line for line in text.splitlines() if not line.startswith("\\"))  # psql's own commands
    file.write_text("\n".join(lines))


def _load(engine: Engine, file: Path) -> None:
    if engine.dialect.name == "sqlite":
        shutil.copyfile(file, engine.url.database or "")
        return
    with psycopg.connect(_dsn(engine), autocommit=True) as connection:
        connection.execute(file.read_text())  # type: ignore[arg-type]


def _dsn(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
