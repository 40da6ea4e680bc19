"""Which Redis URLs are taken: refuses all others, and those with a mistake, before anything is sent to a wrong place.

The transport that reads the URL (kombu) drops what it does not know. Without this, `redis+sentinel://` and a URL
without a host would lead to 127.0.0.1, and TLS would take any certificate.

No sentence repeats a part of the URL. An unescaped character in a password moves its end into another part: into the
port, for example.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

FORMS = (
    "redis://USER:PASSWORD@HOST:6379/0, rediss://... for TLS, or redis+socket:///PATH or unix:///PATH for a Unix socket"
)
ESCAPES = "in a user's name or a password, write characters such as @ : / ? # % ; percent-encoded (%40 for @)"
ONE_REDIS = (
    "name one Redis, or an address that always leads to the one that takes writes. No capture is lost if it fails: "
    "the database has everything, and workers send lost messages again"
)
TLS_OPTIONS: Mapping[str, frozenset[str]] = {
    "ssl_cert_reqs": frozenset({"required", "optional", "none"}),
    "ssl_ca_certs": frozenset(),
    "ssl_certfile": frozenset(),
    "ssl_keyfile": frozenset(),
    "ssl_check_hostname": frozenset({"true", "false"}),
}
"""Options of `rediss://` -> the values that are taken, or none: a file. The names are those of redis-py."""
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+(%\w+)?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,4}")


def checked_redis_url(url: str) -> str:
    """The URL as the transport reads it rightly. Raises ValueError with a sentence for a URL that is not taken.

    `unix:///PATH?db=N`, redis-py's form, becomes kombu's `redis+socket:///PATH?virtual_host=N`. `rediss://` without
    `ssl_cert_reqs` gets `required`: a certificate that does not fit is refused.
    """
    url = url.strip()
    scheme, found, rest = url.partition("://")
    if not found:
        raise ValueError(f"is not the URL of a Redis; write {FORMS}")
    scheme = scheme.lower()
    url = f"{scheme}://{rest}"
    if "sentinel" in scheme:
        raise ValueError(f"Redis Sentinel is not supported; {ONE_REDIS}")
    if "cluster" in scheme:
        raise ValueError(f"Redis Cluster is not supported; {ONE_REDIS}")
    if scheme not in ("redis", "rediss", "redis+socket", "unix"):
        raise ValueError(f"its scheme is not one of Redis, and nothing else can carry chunk ids; write {FORMS}")
    if ";" in rest or "#" in rest:
        raise ValueError(f"a ; or # cannot stand in it; {ESCAPES}. If it names several addresses: {ONE_REDIS}")
    try:
        parts = urlsplit(f"http://{rest}")  # so does kombu
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        port = parts.port
    except ValueError:  # its text would repeat a part of the URL
        raise ValueError(
            f"it cannot be read, perhaps its port is not a whole number from 1 to 65535; {ESCAPES}"
        ) from None
    if scheme in ("redis+socket", "unix"):
        return _socket(parts, options)
    _check_host(parts.netloc.rpartition("@")[2], unquote(parts.hostname or ""), port)
    if parts.path.strip("/") and not _NUMBER.fullmatch(parts.path[1:]):
        raise ValueError(f"after the last / stands the number of Redis' database, mostly 0; {ESCAPES}")
    _check_tls(options)
    if scheme == "rediss" and "ssl_cert_reqs" not in dict(options):
        url += ("&" if parts.query else "?") + "ssl_cert_reqs=required"
    return url


def _check_host(address: str, host: str, port: int | None) -> None:
    if "," in address:
        raise ValueError(f"it names several addresses, which is not supported; {ONE_REDIS}")
    if not host:
        raise ValueError("it names no host; this machine is redis://127.0.0.1:6379/0")
    if not _HOST.fullmatch(host) or port == 0 or address.endswith(":"):
        raise ValueError(f"its host or port is none; {ESCAPES}")


def _check_tls(options: list[tuple[str, str]]) -> None:
    names = [name for name, _ in options]
    if len(set(names)) < len(names) or set(names) - set(TLS_OPTIONS):
        raise ValueError(
            f"an option after ? is unknown or stands there twice; these are known: {', '.join(TLS_OPTIONS)}; {ESCAPES}"
        )
    for name, value in options:
        values = TLS_OPTIONS[name]
        if values and value not in values:
            raise ValueError(f"{name} must be {' or '.join(sorted(values))}")
        if not values and not Path(value).is_file():
            raise ValueError(f"{name} names no file of this machine")


def _socket(parts: SplitResult, options: list[tuple[str, str]]) -> str:
    user, at, host = parts.netloc.rpartition("@")
    if host or parts.path.strip("/") == "":
        raise ValueError("the path of a Unix socket is absolute: three slashes, redis+socket:///run/redis/redis.sock")
    number = dict(options).get("db", dict(options).get("virtual_host"))
    known = {"db", "virtual_host"}
    if len(options) > 1 or {name for name, _ in options} - known or not _NUMBER.fullmatch(number or "0"):
        raise ValueError("a Unix socket's URL takes one option, the number of Redis' database: ?virtual_host=0")
    return f"redis+socket://{user}{at}{parts.path}" + (f"?virtual_host={number}" if number else "")
