"""URLs of database and Redis: read as they are meant, or refused with a sentence that gives no password away."""

from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from kombu import Connection

from contract.errors import ExitCode, SettingsError
from contract.messages import celery_config
from contract.redis_url import checked_redis_url
from contract.settings import read_settings
from db.engine import open_engine
from db.url import read_url, unverified

SECRET = "Geheim7"


def arguments(url: str) -> dict[str, Any]:
    """What the driver is called with to connect."""
    engine = open_engine(url)
    given: dict[str, Any] = engine.dialect.create_connect_args(engine.url)[1]
    return {name: value for name, value in given.items() if name != "context"}


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://db.lab/x", {"host": "db.lab", "dbname": "x"}),
        (" postgresql://db.lab/x\n", {"host": "db.lab", "dbname": "x"}),
        ("postgres://db.lab/x", {"host": "db.lab", "dbname": "x"}),
        ("postgresql+psycopg2://db.lab/x", {"host": "db.lab", "dbname": "x"}),
        ("postgresql://[::1]:5433/x", {"host": "::1", "port": 5433, "dbname": "x"}),
        ("postgresql://u:p%40s%3As@h/x", {"host": "h", "user": "u", "password": "p@s:s", "dbname": "x"}),
        ("postgresql://u@server:p@h/x", {"host": "h", "user": "u@server", "password": "p", "dbname": "x"}),
        ("postgresql://u:p/s@h/x", {"host": "h", "user": "u", "password": "p/s", "dbname": "x"}),
        ("postgresql://u@/x?host=/run/postgresql", {"host": "/run/postgresql", "user": "u", "dbname": "x"}),
        ("postgresql://h/x?sslmode=verify-full", {"host": "h", "dbname": "x", "sslmode": "verify-full"}),
        (
            "postgresql://a:5433,b/x",
            {"host": "a,b", "port": "5433,", "dbname": "x", "target_session_attrs": "read-write"},
        ),
        (
            "postgresql://a,b:5433/x?target_session_attrs=any",
            {"host": "a,b", "port": ",5433", "dbname": "x", "target_session_attrs": "any"},
        ),
        (
            "postgresql:///x?host=a:5433&host=b:5434",
            {"host": "a,b", "port": "5433,5434", "dbname": "x", "target_session_attrs": "read-write"},
        ),
        (
            "postgresql:///x?host=a,b&port=5433",
            {"host": "a,b", "port": "5433,5433", "dbname": "x", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_a_database_url_reaches_the_driver_as_it_is_meant(url: str, wanted: dict[str, Any]) -> None:
    assert arguments(url) == wanted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://u:{SECRET}@h:54x2/x", "port is not a whole number"),
        (f"postgresql://u:{SECRET}@h:0/x", "port is not a whole number"),
        (f"postgresql://u:{SECRET}@h:99999/x", "port is not a whole number"),
        (f"postgresql://u:{SECRET}@h/x?port=54x2", "port is not a whole number"),
        (f"postgresql://u:{SECRET}@a:5432,b:54x2/x", "port is not a whole number"),
        (f"postgresql://u:{SECRET}@a,b,c/x?port=1,2", "one port for all hosts, or one for each"),
        (f"postgresql://u:{SECRET}@h/x?host=other", "names a host twice"),
        (f"postgresql://u:{SECRET}@a:1,b:2/x?port=3", "hosts or ports twice"),
        (f"postgresql://u:{SECRET}@/x?host=a:1,b:2&port=3", "one port for all hosts, or one for each"),
        (f"postgresql://u:pa@{SECRET}@h/x", "%40 for @"),
        (f"postgresql://u:{SECRET}@h/x?sslmod=require", "perhaps sslmode is meant"),
        (f"postgresql://u:{SECRET}@a,b/x?sslmod=require", "perhaps sslmode is meant"),
        (f"postgresql://u:{SECRET}@h/x?autocommit=1", "option 1 after the question mark is unknown"),
        (f"postgresql://u:{SECRET}@h/x?sslmode=require&{SECRET}=1", "option 2 after the question mark is unknown"),
        (f"postgresql://u:{SECRET}@h/x?sslmode=requre", "sslmode must be allow or disable or prefer or require or"),
        (f"postgresql://u:{SECRET}@h/x?sslmode=allow&sslmode=require", "stands there twice"),
        (f"postgresql://u:{SECRET}@h/x?connect_timeout=soon", "connect_timeout must be a whole number"),
        (f"postgresql://u:pa#{SECRET}@h/x", "%40 for @"),
        (f"postgresql://u:{SECRET}#@h/x", "%40 for @"),
        (f"postgresql+asyncpg://u:{SECRET}@h/x", "leave out the driver"),
        ("sqlite+aiosqlite:///x.db", "leave out the driver"),
        (f"mysql://u:{SECRET}@h/x", "only SQLite and PostgreSQL"),
        (f"amqp://u:{SECRET}@h", "only SQLite and PostgreSQL"),
        (f"redis://:{SECRET}@h/0", "only SQLite and PostgreSQL"),
        (f"u:{SECRET}@h/x", "not a database URL"),
        ("/x", "not a database URL"),
        (f"host=h password={SECRET}", "not a database URL"),
        ("", "not a database URL"),
        ("screening.db", "not a database URL"),
        ("sqlite://screening.db", "three slashes"),
        ("sqlite:///screening.db?mode=ro", "no options"),
        ("sqlite:///", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_database_url_with_a_mistake_is_refused_at_start_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("SCREEN_DATABASE_URL", url)
    with pytest.raises(SettingsError) as caught:
        unverified(read_settings())  # as each command begins
    assert caught.value.exit_code is ExitCode.USAGE
    assert words in str(caught.value)
    assert str(caught.value).startswith("SCREEN_DATABASE_URL: ")
    assert SECRET not in str(caught.value)


def broker(url: str) -> dict[str, Any]:
    """What redis-py is called with to connect, as kombu makes it from our settings."""
    config = celery_config(checked_redis_url(url))
    connection = Connection(config["broker_url"], transport_options=config["broker_transport_options"])
    channel = connection.transport.Channel.__new__(connection.transport.Channel)
    channel.connection = connection.transport
    connection.transport.client = connection
    channel.connection_class = connection.transport.Channel.connection_class
    channel.connection_class_ssl = connection.transport.Channel.connection_class_ssl
    given: dict[str, Any] = channel._connparams()
    return given


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://queue.lab", {"host": "queue.lab", "port": 6379, "db": 0}),
        (" redis://queue.lab:6380/3\n", {"host": "queue.lab", "port": 6380, "db": 3}),
        ("REDIS://queue.lab/", {"host": "queue.lab", "db": 0}),
        ("redis://screen:p%2Fs%40@h/0", {"host": "h", "username": "screen", "password": "p/s@"}),
        ("redis://[::1]:6379/0", {"host": "::1", "port": 6379}),
        ("redis+socket:///run/redis.sock", {"path": "/run/redis.sock", "db": 0}),
        ("redis+socket:///run/redis.sock?virtual_host=2", {"path": "/run/redis.sock", "db": 2}),
        ("unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2}),
        ("unix://screen:p%2Fs@/run/redis.sock", {"path": "/run/redis.sock", "username": "screen", "password": "p/s"}),
    ],
)
def test_a_redis_url_reaches_the_client_as_it_is_meant(url: str, wanted: dict[str, Any]) -> None:
    given = broker(url)
    assert {name: given.get(name) for name in wanted} == wanted
    assert given["connection_class"].__name__ == ("UnixDomainSocketConnection" if "path" in wanted else "Connection")


@pytest.mark.parametrize(
    ("options", "verified"),
    [("", True), (f"?ssl_ca_certs={__file__}", True), ("?ssl_cert_reqs=none", False)],
)
def test_tls_takes_only_the_right_certificate_unless_the_url_says_otherwise(options: str, verified: bool) -> None:
    given = broker(f"rediss://queue.lab/0{options}")
    assert given["connection_class"].__name__ == "SSLConnection"
    assert (given["ssl_cert_reqs"].name == "CERT_REQUIRED") is verified


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis+sentinel://:{SECRET}@h:26379/mymaster", "Sentinel is not supported"),
        (f"sentinel://:{SECRET}@h:26379;sentinel://b:26379", "Sentinel is not supported"),
        (f"redis+cluster://:{SECRET}@h:6379", "Cluster is not supported"),
        (f"rediss+cluster://:{SECRET}@h:6379", "Cluster is not supported"),
        (f"amqp://u:{SECRET}@h", "nothing else can carry chunk ids"),
        (f"valkey://u:{SECRET}@h", "nothing else can carry chunk ids"),
        (f":{SECRET}@h:6379", "not the URL of a Redis"),
        ("/x", "not the URL of a Redis"),
        (f"postgresql://u:{SECRET}@h/x", "nothing else can carry chunk ids"),
        ("", "not the URL of a Redis"),
        ("redis:/h", "not the URL of a Redis"),
        ("redis://", "names no host"),
        ("redis:///0", "names no host"),
        (f"redis://:{SECRET}@/0", "names no host"),
        (f"redis://:{SECRET}@h:63x9/0", "port is not a whole number"),
        (f"redis://:{SECRET}@h:99999/0", "port is not a whole number"),
        (f"redis://:{SECRET}@h:/0", "host or port"),
        (f"redis://:pa/{SECRET}@h/0", "%40 for @"),
        (f"redis://:pa#{SECRET}@h/0", "%40 for @"),
        (f"redis://:pa?{SECRET}@h/0", "%40 for @"),
        (f"redis://:{SECRET}@h/abc", "number of Redis' database"),
        (f"redis://:{SECRET}@h/0?db=3", "an option after ? is unknown"),
        (f"redis://:{SECRET}@h/0?transport=amqp", "an option after ? is unknown"),
        (f"rediss://:{SECRET}@h/0?ssl_cert_reqs=CERT_NONE_", "ssl_cert_reqs must be none or optional or required"),
        (f"rediss://:{SECRET}@h/0?ssl_ca_certs=/nowhere/{SECRET}", "ssl_ca_certs names no file"),
        (f"redis://:{SECRET}@a,b/0", "several addresses"),
        (f"redis://:{SECRET}@a/0;redis://:{SECRET}@b/0", "several addresses"),
        (f"redis+socket://{SECRET}/redis.sock", "three slashes"),
        ("unix:///run/redis.sock?timeout=3", "takes one option"),
    ],
)
def test_a_redis_url_with_a_mistake_is_refused_at_start_and_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("SCREEN_REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.exit_code is ExitCode.USAGE
    assert words in str(caught.value)
    assert str(caught.value).startswith("SCREEN_REDIS_URL: ")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("read", "scheme", "fault"), [
    (checked_redis_url, "redis", ValueError), (checked_redis_url, "unix", ValueError),
    (read_url, "postgresql", SettingsError), (read_url, "sqlite", SettingsError),
])  # fmt: skip
def test_no_url_however_damaged_ends_in_another_error(
    read: Callable[[str], object], scheme: str, fault: type[Exception]
) -> None:
    parts = ("", "u", "://", ":", "/", "@", "?", "#", "[", "]", ",", ";", "%", "=", "h", "54x2")
    for first, second, third, tail in product(parts, parts, parts, ("", "//x", "@h/0")):
        with suppress(fault):
            read(f"{scheme}://{first}{second}{third}{tail}")


UNVERIFIED = "does not check who answers there"


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("postgresql://u:Geheim7@db.lab/x", {}, True),
        ("postgresql://u@192.0.2.7/x", {}, True),
        ("postgresql://u@[2001:db8::1]:5432/x", {}, True),
        ("postgresql://u@db.lab/x?sslmode=require", {}, True),
        ("postgresql://u@db.lab/x?sslmode=verify-ca", {}, True),
        ("postgresql://u@localhost,db.lab/x", {}, True),
        ("postgresql:///x?host=db.lab", {}, True),
        ("postgresql:///x?hostaddr=192.0.2.7", {}, True),
        ("postgresql:///x", {"PGHOST": "db.lab"}, True),
        ("postgresql://u@db.lab/x", {"PGSSLMODE": "require"}, True),
        ("postgresql://u@db.lab/x?sslmode=prefer", {"PGSSLMODE": "verify-full"}, True),
        ("postgresql://u@db.lab/x?sslmode=verify-full", {}, False),
        ("postgresql://u@a,b/x?sslmode=verify-full", {}, False),
        ("postgresql://u@db.lab/x?gssencmode=require", {}, False),
        ("postgresql://u@db.lab/x", {"PGSSLMODE": "verify-full"}, False),
        ("postgresql://u@db.lab/x", {"SCREEN_ALLOW_UNVERIFIED_DATABASE": "true"}, False),
        ("postgresql://u@localhost/x", {}, False),
        ("postgresql://u@127.0.0.1:5433/x", {}, False),
        ("postgresql://u@[::1]/x", {}, False),
        ("postgresql:///x?host=/run/postgresql", {}, False),
        ("postgresql:///x", {}, False),
        ("sqlite:///x.db", {}, False),
    ],
)
def test_a_remote_database_that_is_not_verified_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], said: bool
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SCREEN_DATABASE_URL": url, **environment}.items():
        monkeypatch.setenv(name, value)
    sentence = unverified(read_settings())
    assert (sentence is not None and UNVERIFIED in sentence) is said
    assert SECRET not in str(sentence)
