"""kombu's transport for Redis, whose worker takes nothing from the queue but our own message (contract/received.py).

kombu reads JSON of any size and depth, unpacks bodies that say they are compressed, and hands on whatever headers a
message has. Here each message is read strictly as soon as it leaves Redis; Celery gets an envelope that this module
wrote. What is refused is gone from the queue by then, and is never put back.
"""

import json
from base64 import b64encode
from contextlib import suppress
from typing import Any
from uuid import uuid4

import redis
import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis._parsers.resp3 import _RESP3Parser
from redis._parsers.socket import SocketBuffer

from contract.messages import QUEUE, SCREEN_CHUNK, chunk_message
from contract.received import ChunkMessage, NotOurs, read_message

log = structlog.get_logger(__name__)

DROPPED = "a message in the queue is not ours, and was dropped"
MOST_BYTES = 2**20
"""What a worker takes from Redis at once. A larger message is lost with the connection, which is made anew."""


def use_strict_transport() -> None:
    """Let every Redis URL of this process lead to this transport. Call it before a connection is made."""
    for scheme in ("redis", "rediss"):  # `redis+socket` is the first of them, too
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


class _Buffer(SocketBuffer):
    """Reads no answer that is larger than any of ours, however large Redis lets values be: 512 MB, mostly."""

    def read(self, length: int, *arguments: Any, **options: Any) -> bytes:
        if length > MOST_BYTES:
            log.warning(DROPPED, why=f"larger than {MOST_BYTES} bytes: the connection is made anew", bytes=length)
            raise redis.ConnectionError(f"an answer of {length} bytes is not for us, and is not read")
        return super().read(length, *arguments, **options)


class _Parser(_RESP3Parser):
    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._buffer = _Buffer(connection._sock, self.socket_read_size, connection.socket_timeout)


class _Client(redis.Redis):
    """Gives kombu, in place of each message that it takes from the queue, an envelope of ours, or nothing."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        key, raw = answer
        try:
            return key, _envelope(read_message(raw))
        except NotOurs as error:
            log.warning(DROPPED, why=str(error), bytes=len(raw))
            return None


class Channel(kombu_redis.Channel):
    """A channel over which a worker gets our message, and no other."""

    def _get_client(self) -> type[redis.Redis]:
        super()._get_client()  # type: ignore[no-untyped-call]  # it refuses a release of redis-py that is too old
        return _Client

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return {**super()._connparams(asynchronous), "parser_class": _Parser, "protocol": 3}  # type: ignore[no-untyped-call]

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Give back a message at the end of a worker. One that is lost is sent again by a sweep."""
        with suppress(*self.connection_errors):
            super()._restore(message, leftmost)  # type: ignore[no-untyped-call]


class Transport(kombu_redis.Transport):
    """The transport of workers."""

    Channel = Channel


def _envelope(message: ChunkMessage) -> bytes:
    """The message as Celery takes it, protocol 2. Its id is new: a sender could give the same to many."""
    named = {"chunk": message.chunk} if message.database is None else chunk_message(message.chunk, message.database)
    task = str(uuid4())
    body = json.dumps([[], named, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return json.dumps(
        {
            "body": b64encode(body.encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": SCREEN_CHUNK, "lang": "py", "id": task, "root_id": task, "kwargsrepr": str(named)},
            "properties": {
                "body_encoding": "base64",
                "delivery_tag": task,
                "delivery_info": {"exchange": "", "routing_key": QUEUE},
                "correlation_id": task,
                "reply_to": task,
                "delivery_mode": 2,
                "priority": 0,
            },
        }
    ).encode()
