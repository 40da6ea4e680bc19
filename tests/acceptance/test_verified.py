"""Who answers in the name of Redis or PostgreSQL: certificates are checked before a password is sent."""

import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery import Celery

from contract.bundle import Bundle
from contract.errors import BrokerForbids, ExitCode
from contract.messages import celery_config
from contract.queue_check import check_queue
from contract.redis_url import checked_redis_url
from tests.acceptance.test_worker import QUICK, is_finished
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.servers import SYSTEM_PATH, free_port, until_it_answers
from tests.support.waiting import wait_until

PASSWORD = "Geheim7"
OPENSSL = shutil.which("openssl")
SERVER = shutil.which("redis-server", path=SYSTEM_PATH)
"""Debian's package `redis-server` has TLS; the one that comes with this program has not."""


@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """An authority of the test's own, and what it signs."""

    folder: Path

    def make(self, name: str, subject: str, *, signed: bool = True) -> Certificate:
        """A certificate for `subject` ("IP:127.0.0.1" or "DNS:name"), signed by the authority or by itself."""
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        by = ("-CA", str(self.root.certificate), "-CAkey", str(self.root.key)) if signed else ()
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", *by,
                "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}",
                "-keyout", str(made.key), "-out", str(made.certificate))  # fmt: skip
        return made

    @property
    def root(self) -> Certificate:
        return Certificate(self.folder / "root.crt", self.folder / "root.key")


def openssl(*arguments: str) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.make("root", "DNS:authority", signed=False)
    return made


@contextmanager
def redis_with_tls(folder: Path, certificate: Certificate) -> Iterator[int]:
    """Redis with a password that takes nothing but TLS; yields its port."""
    if SERVER is None or "libssl" not in subprocess.run(["ldd", SERVER], capture_output=True, text=True).stdout:
        pytest.skip("no redis-server with TLS is installed")
    port = free_port()
    server = subprocess.Popen(
        [SERVER, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--tls-cert-file",
         str(certificate.certificate), "--tls-key-file", str(certificate.key), "--tls-auth-clients", "no",
         "--save", "", "--dir", str(folder), "--logfile", str(folder / "redis.log"), "--requirepass", PASSWORD],
    )  # fmt: skip
    with until_it_answers(server, lambda: _accepts(port), "Redis"):
        yield port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Impostor:
    """Answers on a port with any certificate and writes down what it is told."""

    def __init__(self, certificate: Certificate) -> None:
        self.told = b""
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with self._context.wrap_socket(line, server_side=True) as spoken:
                    spoken.settimeout(2)
                    self.told += spoken.recv(4096)
            except OSError:
                continue

    def close(self) -> None:
        self._listener.close()


def check(port: int, options: str = "", host: str = "127.0.0.1") -> list[str]:
    """Connect as every command does at its start."""
    app = Celery("test", set_as_current=False)
    app.config_from_object(celery_config(checked_redis_url(f"rediss://:{PASSWORD}@{host}:{port}/0{options}")))
    try:
        return check_queue(app.connection_for_write(), receives=True)
    finally:
        app.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_run_over_tls_with_an_authority_of_ones_own(
    environment: Environment, bundle: Bundle, authority: Authority, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=3)
    assert environment.screen("db", "upgrade").code == ExitCode.OK
    with redis_with_tls(tmp_path, authority.make("queue", "IP:127.0.0.1")) as port:
        url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={authority.root.certificate}"
        done = environment.screen("submit", archive, "--bundle", bundle.path, SCREEN_REDIS_URL=url)
        assert done.code == ExitCode.OK, done.err
        worker = environment.start("worker", log="worker.log", SCREEN_REDIS_URL=url, **QUICK)
        try:
            wait_until(is_finished(environment, 1), 60, what="the run to finish")
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
    assert PASSWORD not in (tmp_path / "worker.log").read_text()


def test_a_certificate_that_does_not_fit_is_refused(authority: Authority, tmp_path: Path) -> None:
    known = f"?ssl_ca_certs={authority.root.certificate}"
    with redis_with_tls(tmp_path, authority.make("queue", "IP:127.0.0.1")) as port:
        assert check(port, known) == []
        with pytest.raises(BrokerForbids, match="certificate of Redis does not fit"):
            check(port)  # an authority that the system does not know
        with pytest.raises(BrokerForbids, match="certificate of Redis does not fit"):
            check(port, known, host="localhost")  # another name


@pytest.mark.parametrize(("signed", "subject"), [(False, "IP:127.0.0.1"), (True, "DNS:elsewhere.lab")])
def test_an_impostor_is_told_no_password(authority: Authority, signed: bool, subject: str) -> None:
    """Its certificate is signed by itself, or is of another machine."""
    impostor = Impostor(authority.make("impostor", subject, signed=signed))
    try:
        for options in (f"?ssl_ca_certs={authority.root.certificate}", "", "?ssl_cert_reqs=optional"):
            with pytest.raises(BrokerForbids, match="certificate of Redis does not fit"):
                check(impostor.port, options)
        assert impostor.connections >= 3
        assert impostor.told == b""
    finally:
        impostor.close()


def test_a_remote_database_without_verification_is_said_once_at_the_start_of_each_command(tmp_path: Path) -> None:
    """The server is away; nothing is sent."""
    url = f"postgresql://screen:{PASSWORD}@192.0.2.1:5432/screening?connect_timeout=1"
    away = Environment(tmp_path, url, "redis://127.0.0.1:1/0")
    for command in (("status",), ("db", "check"), ("review", "list"), ("worker",)):
        done = away.screen(*command)
        assert done.code != ExitCode.OK
        assert done.err.count("does not check who answers there") == 1, done.err
        silent = away.screen(*command, SCREEN_ALLOW_UNVERIFIED_DATABASE="true")
        assert "does not check who answers there" not in silent.err
        assert PASSWORD not in done.err + done.out + silent.err
