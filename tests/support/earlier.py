"""A database of an earlier schema, with a run in it."""

import re
from collections.abc import Sequence

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from db import schema

RUN_OF_0001 = (
    "INSERT INTO bundle (digest, name, path, manifest) VALUES ('d', 'b', '/b', '{}')",
    "INSERT INTO run (id, bundle_digest, root, root_text, submitted, cases, skipped, software_version)"
    " VALUES (1, 'd', '/a', '/a', 1, 1, 0, 'test')",
    "INSERT INTO patient (id, external_id, pseudonymous) VALUES (1, 'P1', FALSE)",
    'INSERT INTO "case" (id, run_id, patient_id, state, submitted, screened, rejected, quarantined, verdict, score)'
    " VALUES (1, 1, 1, 'aggregated', 1, 1, 0, 0, 'all', 0.9)",
    "INSERT INTO capture (id, run_id, case_id, path, path_text, size_bytes, modified_ns, sha256, state, probabilities)"
    " VALUES (1, 1, 1, '/a/1.jpg', '/a/1.jpg', 9, 9, 'same', 'screened', '[0.1, 0, 0, 0.9]')",
)


ADDED = {"patient": ("root", "'/a'"), "case": ("result_version", "1")}
"""Columns that every row has since then."""


def _of_today(statement: str) -> str:
    for table, (column, value) in ADDED.items():
        statement = re.sub(rf'(INTO "?{table}"? \(id, )(.* VALUES \(1, )', rf"\g<1>{column}, \g<2>{value}, ", statement)
    return statement


RUN = tuple(map(_of_today, RUN_OF_0001))
"""The same, as this release would write it."""


def write_at(connection: Connection, revision: str, statements: Sequence[str] = RUN_OF_0001) -> None:
    """Make the schema of that revision, and a run in it: of 0001, or by other `statements` that fit this schema."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    for statement in statements:
        connection.execute(text(statement))
