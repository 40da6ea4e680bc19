"""Looks, before work begins, whether a Redis can carry chunk ids: rights of its user, kind of server, memory policy.

Without this a worker whose user lacks a right connects again and again without end, and says so only in its log.

Producer and worker pass the connection that Celery made from `contract.messages.celery_config`; nothing of Celery or
Redis is imported here. Each command is really sent. Those that would write are queued in a MULTI that is dropped:
Redis checks rights when it queues. So this works for users who may not ask about their own rights.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from contract.errors import BrokerForbids, BrokerUnavailable
from contract.messages import QUEUE

_Command = tuple[str, ...]
_BINDINGS = (f"_kombu.binding.{QUEUE}", f"_kombu.binding_permanent.{QUEUE}")
KEYS = (QUEUE, "_kombu.binding*")
"""Patterns of all keys that kombu uses for our queue (kombu.transport.redis)."""

SENDING: tuple[_Command, ...] = (("PING",), ("EXEC",), ("LLEN", QUEUE))
SENDING_WRITES: tuple[_Command, ...] = (*(("SADD", key, "") for key in _BINDINGS), ("LPUSH", QUEUE, ""))
"""What `submit` and a worker's sweep send. EXEC without a MULTI is an error that does no harm."""

RECEIVING_WRITES: tuple[_Command, ...] = (("BRPOP", QUEUE, "1"),)
"""What a worker sends besides. It notes nothing in Redis: the database knows which chunks are in hand."""

RIGHTS = "docs/operations.md, section Redis, has the command that gives them (ACL SETUSER)"
_CLUSTER = frozenset({"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"})
_PASSING = frozenset({"LOADING", "MASTERDOWN", "TRYAGAIN", "MISCONF", "OOM", "BUSY", "NOREPLICAS"})
"""What passes by itself, or with room on Redis' disk or in its memory: its user has nothing to correct."""


def acl_rules() -> str:
    """The rights that a user of `screen` needs, as `ACL SETUSER` takes them. A test compares docs/operations.md."""
    commands = [*SENDING, *SENDING_WRITES, *RECEIVING_WRITES]
    names = sorted({_right_of(command) for command in commands} | {"+multi", "+discard", "+select", "+info"})
    return " ".join([*(f"~{key}" for key in KEYS), "resetchannels", "-@all", *names])


def check_queue(connection: Any, *, receives: bool) -> list[str]:
    """Look at the Redis of this kombu connection, which is opened for it. `receives`: it is for a worker.

    Returns sentences that warn. Raises BrokerForbids where its user lacks rights, or where it cannot carry chunk ids
    (a replica, a cluster, an old release); BrokerUnavailable where it does not answer.
    """
    try:
        client = connection.channel().client
        line = client.connection_pool.get_connection()
        try:
            _check_rights(line, receives)
            return _warnings(line)
        finally:
            line.disconnect()  # drops the MULTI too
    except (BrokerForbids, BrokerUnavailable):
        raise
    except (*connection.connection_errors, *connection.channel_errors) as error:
        raise _translated(error) from error
    finally:
        connection.release()


def _translated(error: BaseException) -> BrokerForbids | BrokerUnavailable:
    reason = " ".join(str(error).split())[:200]
    code = _code_of(error)
    if code in ("NOAUTH", "WRONGPASS") or "AUTH" in reason.upper().split():
        return BrokerForbids(f"Redis refuses the user or the password of SCREEN_REDIS_URL ({reason})")
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return BrokerForbids(
            f"the certificate of Redis does not fit ({reason}); name the authority that signed it in SCREEN_REDIS_URL, "
            "?ssl_ca_certs=FILE"
        )
    if code == "NOPERM":
        return BrokerForbids(f"the user of SCREEN_REDIS_URL lacks rights ({reason}); {RIGHTS}")
    if code in _PASSING:
        return BrokerUnavailable(f"Redis takes no messages now ({reason}); see that its disk and memory have room")
    if isinstance(error, OSError) or _is_out_of_reach(error):
        return BrokerUnavailable(f"Redis is out of reach ({reason}); check SCREEN_REDIS_URL and that it is up")
    return BrokerForbids(f"this Redis cannot be used ({reason}); check SCREEN_REDIS_URL and the server's settings")


def _code_of(error: BaseException | None) -> str | None:
    """The first word of Redis' answer. redis-py cuts off those that it knows; the others still lead the text."""
    known: str | None = getattr(error, "status_code", None)
    first = str(error).partition(" ")[0]
    return known or (first if first.isupper() else None)


def _is_out_of_reach(error: BaseException) -> bool:
    return any(kind.__name__ in ("ConnectionError", "TimeoutError") for kind in type(error).__mro__)


def _check_rights(line: Any, receives: bool) -> None:
    missing = _refused(line, SENDING)
    if _answer(line, ("MULTI",)) is not None:  # then what follows would not be queued, but done
        missing.append("+multi")
    else:
        missing += _refused(line, (*SENDING_WRITES, *(RECEIVING_WRITES if receives else ())))
        missing += _refused(line, (("DISCARD",),))
    if missing:
        raise BrokerForbids(
            f"the user of SCREEN_REDIS_URL lacks these rights in Redis: {' '.join(sorted(set(missing)))}; {RIGHTS}"
        )


def _refused(line: Any, commands: Sequence[_Command]) -> list[str]:
    """The rights that are missing for these commands, as ACL rules. Raises BrokerForbids for a wrong kind of server."""
    missing: list[str] = []
    for command in commands:
        error = _answer(line, command)
        code = _code_of(error)
        if code == "EXECABORT":  # so Redis answers EXEC, in the words that it has for a missing right
            code = "NOPERM"
        if code in _CLUSTER:
            raise BrokerForbids("this Redis is a node of a cluster, which is not supported; name one that stands alone")
        if code == "READONLY":
            raise BrokerForbids("this Redis is a replica and takes no writes; name its primary in SCREEN_REDIS_URL")
        if code == "NOPERM" and "key" in str(error) and "command" not in str(error):
            missing += {f"~{key}" for key in KEYS for word in command[1:] if fnmatchcase(word, key)}
        elif code == "NOPERM" or "unknown command" in str(error):
            missing.append(_right_of(command))
    return missing


def _answer(line: Any, command: _Command) -> Exception | None:
    """Send a command; returns the error that Redis answered. Raises what redis-py raises where the line is broken."""
    line.send_command(*command)
    try:
        line.read_response()
    except OSError:
        raise
    except Exception as error:
        if _is_out_of_reach(error):
            raise
        return error
    return None


def _right_of(command: _Command) -> str:
    return f"+{command[0].lower()}"


def _warnings(line: Any) -> list[str]:
    """What its INFO gives away; a user who may not ask is not warned."""
    line.send_command("INFO", "memory")
    try:
        answer = line.read_response()
    except OSError:
        raise
    except Exception:
        return []
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    info = dict(row.split(":", 1) for row in text.splitlines() if ":" in row)
    if info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy", "").startswith("allkeys-"):
        return [
            f"Redis drops messages when its memory is full (maxmemory-policy {info['maxmemory_policy']}): no capture "
            "is lost, but runs wait until workers send them again, after SCREEN_REPUBLISH_SECONDS; set "
            "`maxmemory-policy noeviction`"
        ]
    return []
