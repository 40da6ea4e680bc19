"""A backup that is restored in another place, as docs/operations.md says."""

import subprocess
from dataclasses import replace

from tests.support.commands import Environment
from tests.support.servers import create_database, postgresql_tools


def backed_up_and_restored(environment: Environment, admin: str | None, name: str) -> Environment:
    """The lines of docs/operations.md: back up, and restore under this name in another place.

    `admin` is the URL of PostgreSQL's maintenance database; None for SQLite.
    """
    file = environment.folder / f"{name}.backup"
    if admin is None:
        done = environment.screen("db", "backup", file)
        assert done.code == 0, done.err
        other = replace(environment, database_url=f"sqlite:///{environment.folder}/{name}.db")
        done = other.screen("db", "restore", file)
        assert done.code == 0, done.err
        return other
    tools = postgresql_tools()
    url = environment.database_url
    subprocess.run([tools / "pg_dump", "--format=custom", f"--file={file}", f"--dbname={url}"], check=True)
    other = replace(environment, database_url=create_database(admin, name))
    restoring = ["--exit-on-error", "--single-transaction", f"--dbname={other.database_url}", file]
    subprocess.run([tools / "pg_restore", *restoring], check=True)
    for step in ("upgrade", "restored"):
        assert other.screen("db", step).code == 0
    return other
