"""Reads SCREEN_DATABASE_URL and refuses a URL with a mistake, before a connection is tried.

No sentence repeats a part of the URL. An unescaped character in a password moves its end into another part: into the
port or the host, for example.
"""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from contract.database_url import ESCAPES, FORMS, checked_database_url
from contract.errors import SettingsError
from contract.settings import Settings

DRIVER = "postgresql+psycopg"
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+(%\w+)?|[/@].*")
"""A name, an IPv6 address, or a Unix socket: its folder, or @ and an abstract name."""
_VALUES: Mapping[str, frozenset[str]] = {
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}),
    "sslnegotiation": frozenset({"postgres", "direct"}),
    "sslcertmode": frozenset({"disable", "allow", "require"}),
    "gssencmode": frozenset({"disable", "prefer", "require"}),
    "channel_binding": frozenset({"disable", "prefer", "require"}),
    "load_balance_hosts": frozenset({"disable", "random"}),
    "target_session_attrs": frozenset({"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}),
}
"""Options of libpq that take one of a few words (PostgreSQL 18, section 34.1.2). libpq looks at them only when it
connects, and then a wrong word reads as if the server were out of reach."""
_NUMBERS = frozenset(
    {"connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
)


def read_url(text: str) -> URL:
    """The URL of a SQLite file or of a PostgreSQL database, with the driver that is installed.

    PostgreSQL may have several hosts, as libpq writes them: `HOST:PORT,HOST:PORT`. Without `target_session_attrs` the
    first that takes writes is used. Raises SettingsError with a sentence.
    """
    try:
        text = checked_database_url(text)
    except ValueError as error:
        raise _fault(str(error)) from None
    scheme, _, rest = text.partition("://")
    return make_url(f"sqlite://{rest}") if scheme.lower().startswith("sqlite") else _postgresql(rest)


def unverified(settings: Settings) -> str | None:
    """A sentence where passwords and patients' names go to whoever answers in the name of a remote PostgreSQL server.

    None for SQLite, for a server on this machine, and where SCREEN_ALLOW_UNVERIFIED_DATABASE says that it is meant.
    Raises SettingsError for a URL with a mistake.
    """
    url = read_url(settings.database_url)
    if settings.allow_unverified_database or url.get_backend_name() == "sqlite":
        return None
    mode = url.query.get("sslmode") or os.environ.get("PGSSLMODE")
    if mode == "verify-full" or url.query.get("gssencmode") == "require" or not any(map(_is_remote, _hosts(url))):
        return None
    return (
        "the connection to PostgreSQL on another machine does not check who answers there, and may be read on the "
        "way; add ?sslmode=verify-full&sslrootcert=FILE to SCREEN_DATABASE_URL, or set "
        "SCREEN_ALLOW_UNVERIFIED_DATABASE=true where the network is trusted"
    )


def _hosts(url: URL) -> list[str]:
    """Where libpq will connect to: the URL's hosts, or else those of its own environment variables."""
    named = [host for host, _ in _addresses(url)] or os.environ.get("PGHOST", "").split(",")
    by_number = url.query.get("hostaddr") or os.environ.get("PGHOSTADDR") or ""
    return [*named, *str(by_number).split(",")]


def _is_remote(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return False
    try:
        return not ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return True


def _fault(sentence: str) -> SettingsError:
    return SettingsError(f"SCREEN_DATABASE_URL: {sentence}")


def _postgresql(rest: str) -> URL:
    try:
        url = make_url(f"{DRIVER}://{rest}")
    except ArgumentError:
        raise _fault(f"it cannot be read; {FORMS}") from None
    except ValueError:  # the port is not a number: one of several hosts', or a mistake
        url = _several_hosts(rest)
    if "," in (url.host or ""):  # SQLAlchemy would give the last host's port to all of them
        url = _several_hosts(rest)
    _check_options(url)
    addresses = _addresses(url)
    if not all(_HOST.fullmatch(host) for host, _ in addresses):
        raise _fault(f"a host in it cannot be one; {ESCAPES}")
    if len(addresses) < 2:
        return url
    hosts, ports = (",".join(parts) for parts in zip(*addresses, strict=True))
    options = {"target_session_attrs": "read-write", **url.query, "host": hosts, "port": ports}
    return url._replace(host=None, port=None).set(query=options)


def _bad_port() -> SettingsError:
    return _fault(f"its port is not a whole number from 1 to 65535; {ESCAPES}")


def _several_hosts(rest: str) -> URL:
    """Read `HOST:PORT,HOST:PORT` with libpq's own parser; SQLAlchemy wants these as options."""
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    addresses, _, options = rest.partition("?")
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{addresses}").items()}
    except Error:  # its text would repeat a part of the URL
        raise _bad_port() from None
    if "," not in parts.get("host", ""):
        raise _bad_port()
    if not parts.get("port", "").strip(","):
        parts.pop("port", None)
    more = make_url(f"{DRIVER}:///?{options}").query
    if more.keys() & parts.keys() & {"host", "port"}:
        raise _fault("it names hosts or ports twice, once in an option")
    user, password, database = (parts.pop(name, None) for name in ("user", "password", "dbname"))
    return URL.create(DRIVER, user, password, database=database, query={**more, **parts})


def _addresses(url: URL) -> list[tuple[str, str]]:
    """Hosts and their ports ("": the usual one), from the URL or from its options `host` and `port`."""
    named = url.query.get("host", ())
    hosts = [one for value in ((named,) if isinstance(named, str) else named) for one in value.split(",")]
    if url.host and hosts:
        raise _fault("it names a host twice, once in the option host")
    addresses = [_address(one) for one in hosts] or ([(url.host, "")] if url.host else [])
    ports = str(url.query.get("port", "" if url.port is None else url.port)).split(",")
    if ports != [""]:
        if len(ports) not in (1, len(addresses)) or any(port for _, port in addresses):
            raise _fault("it must name one port for all hosts, or one for each")
        addresses = [
            (host, port) for (host, _), port in zip(addresses, ports * (len(addresses) // len(ports)), strict=True)
        ]
    for port in (*ports, *(port for _, port in addresses)):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise _bad_port()
    return addresses


def _address(text: str) -> tuple[str, str]:
    """SQLAlchemy takes HOST:PORT in the option `host`; a Unix socket's folder and an IPv6 address stay whole."""
    if text.startswith(("/", "@")) or text.count(":") != 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def _check_options(url: URL) -> None:
    from psycopg import pq

    known = sorted({option.keyword.decode() for option in pq.Conninfo.get_defaults()})
    for number, (name, value) in enumerate(url.query.items(), start=1):
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"perhaps {near[0]} is meant" if near else "PostgreSQL's documentation of libpq lists them"
            raise _fault(f"option {number} after the question mark is unknown; {meant}. Otherwise: {ESCAPES}")
        if not isinstance(value, str):
            if name == "host":
                continue
            raise _fault(f"the option {name} stands there twice")
        words = _VALUES.get(name)
        if (words and value not in words) or (name in _NUMBERS and not value.isdigit()):
            raise _fault(f"the option {name} must be {' or '.join(sorted(words)) if words else 'a whole number'}")
