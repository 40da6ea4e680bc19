"""Messages that nobody of ours sends: each kind is one change to a sound message, or text that is no message at all.

Whoever can write to Redis can send them. `forgeries` gives each kind its name and its bytes.
"""

import base64
import bz2
import copy
import json
import lzma
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import yaml

from contract.messages import QUEUE, SCREEN_CHUNK

LARGE = 16 * 2**20
"""Bytes that the compressed bodies have when they are unpacked: enough to see that nobody unpacks them."""
FAR = "2999-12-31T23:59:59+00:00"
Message = dict[str, Any]
Change = Callable[[Message], object]


def packed(body: object) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def arguments(message: Message) -> list[Any]:
    """Positional arguments, named arguments and Celery's embedded rest."""
    read: list[Any] = json.loads(base64.b64decode(message["body"]))
    return read


def forgeries(sound: bytes) -> Iterator[tuple[str, bytes]]:
    """`sound` is a message that `screen submit` has sent. Every kind names another task id and another delivery."""
    yield from ((f"text {name}", text) for name, text in TEXTS.items())
    for name, change in CHANGES.items():
        message = json.loads(sound)
        task = message["properties"]["delivery_tag"] = str(uuid4())
        message["headers"].update(id=task, root_id=task)
        message["properties"]["correlation_id"] = task
        changed = change(message)
        yield name, json.dumps(changed if name.startswith("whole") else message).encode()


def put(*path: str, value: object) -> Change:
    """Put a value into one place of the message."""

    def change(message: Message) -> None:
        place = message
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = copy.deepcopy(value)

    return change


def take(*path: str) -> Change:
    """Leave one place out."""

    def change(message: Message) -> None:
        place = message
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]

    return change


def named(**values: object) -> Change:
    """Change the task's named arguments."""

    def change(message: Message) -> None:
        positional, keywords, embedded = arguments(message)
        message["body"] = packed([positional, {**keywords, **values}, embedded])

    return change


def embedded(**values: object) -> Change:
    """Change what Celery calls besides the task: chains, links, chords."""

    def change(message: Message) -> None:
        positional, keywords, rest = arguments(message)
        message["body"] = packed([positional, keywords, {**rest, **values}])

    return change


def coded(unpacked: bytes, name: str) -> Change:
    """A body that is a compressed bomb, as its header says."""

    def change(message: Message) -> None:
        message["body"] = base64.b64encode(unpacked).decode()
        message["headers"]["compression"] = name

    return change


def sound_but_compressed(message: Message) -> None:
    message["body"] = base64.b64encode(zlib.compress(base64.b64decode(message["body"]))).decode()
    message["headers"]["compression"] = "application/x-gzip"


def serialized(content_type: str, encoding: str, dumped: Callable[[object], bytes]) -> Change:
    def change(message: Message) -> None:
        message["body"] = base64.b64encode(dumped(arguments(message))).decode()
        message["content-type"], message["content-encoding"] = content_type, encoding

    return change


def first_protocol(message: Message) -> None:
    """Celery's protocol 1: everything in the body, nothing in the headers."""
    task = {"task": SCREEN_CHUNK, "id": str(uuid4()), "args": [], "kwargs": arguments(message)[1], "retries": 0}
    message["headers"], message["body"] = {}, packed(task)


def hybrid(message: Message) -> None:
    message["body"] = packed({"task": SCREEN_CHUNK, "id": str(uuid4()), "args": [7], "kwargs": {}})


class Call:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("forged.pickle", "w")


TEXTS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"text",
    "not UTF-8": b"\xff\xfe",
    "UTF-16": '{"body": null}'.encode("utf-16"),
    "control characters": b"\x00\x1b[2J\r\n",
    "half a message": b'{"body": "W10=", "headers": {',
    "two messages": b"{}{}",
    "empty object": b"{}",
    "empty list": b"[]",
    "list": b"[1]",
    "number": b"7",
    "null": b"null",
    "true": b"true",
    "string": b'"chunks"',
    "NaN": b"NaN",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b"[" * 50_000 + b"]" * 50_000,
    "number of many digits": b"9" * 20_000,
    "wrong body and properties": b'{"body": 1, "properties": {}}',
    "properties null": b'{"body": "", "properties": null}',
    "large": b'{"body": "' + b"A" * 2**19 + b'"}',
    "pickle": pickle.dumps({"body": Call()}),
}
CHANGES: dict[str, Change] = {
    "whole in a list": lambda message: [message],
    "whole as a string": json.dumps,
    "body null": put("body", value=None),
    "body left out": take("body"),
    "body empty": put("body", value=""),
    "body a number": put("body", value=7),
    "body a list": put("body", value=[[], {"chunk": 1}, {}]),
    "body an object": put("body", value={"chunk": 1}),
    "body not base64": put("body", value="%%%"),
    "body JSON null": put("body", value=packed(None)),
    "body JSON number": put("body", value=packed(7)),
    "body JSON string": put("body", value=packed("chunk")),
    "body JSON object": put("body", value=packed({"chunk": 1})),
    "body JSON empty list": put("body", value=packed([])),
    "body JSON two parts": put("body", value=packed([[], {"chunk": 1}])),
    "body JSON four parts": put("body", value=packed([[], {"chunk": 1}, {}, {}])),
    "body JSON nulls": put("body", value=packed([None, None, None])),
    "body JSON deep": put("body", value=base64.b64encode(b"[" * 100_000).decode()),
    "body not JSON": put("body", value=base64.b64encode(b"text").decode()),
    "body not UTF-8": put("body", value=base64.b64encode(b"\xff\xfe").decode()),
    "body of protocol 1": first_protocol,
    "body of both protocols": hybrid,
    "arguments positional": put("body", value=packed([[7], {}, {}])),
    "arguments none": put("body", value=packed([[], {}, {}])),
    "arguments more": named(path="/etc/passwd"),
    "chunk a string": named(chunk="7"),
    "chunk null": named(chunk=None),
    "chunk true": named(chunk=True),
    "chunk a float": named(chunk=7.0),
    "chunk NaN": named(chunk=float("nan")),
    "chunk a list": named(chunk=[7]),
    "chunk an object": named(chunk={"$ref": 7}),
    "chunk zero": named(chunk=0),
    "chunk negative": named(chunk=-1),
    "chunk larger than the database gives": named(chunk=2**63),
    "chunk of many digits": named(chunk=10**4000),
    "database null": named(database=None),
    "database a number": named(database=7),
    "database no UUID": named(database="x' OR 1=1 --"),
    "database with line breaks": named(database="0b3d\n\x1b[31mERROR"),
    "chain": embedded(chain=[{"task": SCREEN_CHUNK, "args": [], "kwargs": {"chunk": 1}, "options": {}}]),
    "chain null entry": embedded(chain=[None]),
    "link": embedded(callbacks=[{"task": SCREEN_CHUNK, "args": [], "kwargs": {}, "options": {}}]),
    "link that is text": embedded(callbacks="x"),
    "error link": embedded(errbacks=[{"task": "celery.backend_cleanup", "args": [], "kwargs": {}, "options": {}}]),
    "chord": embedded(chord={"task": SCREEN_CHUNK, "kwargs": {}}),
    "chord that is a number": embedded(chord=7),
    "embedded null": lambda message: message.update(body=packed([*arguments(message)[:2], None])),
    "headers null": put("headers", value=None),
    "headers left out": take("headers"),
    "headers a list": put("headers", value=[1]),
    "headers a string": put("headers", value="task"),
    "headers empty": put("headers", value={}),
    "header more": put("headers", "x-more", value="1"),
    "task left out": take("headers", "task"),
    "task null": put("headers", "task", value=None),
    "task a list": put("headers", "task", value=["screen.chunk"]),
    "task of nobody": put("headers", "task", value="no.such.task"),
    "task of Celery": put("headers", "task", value="celery.backend_cleanup"),
    "task celery.map": put("headers", "task", value="celery.map"),
    "task celery.chord_unlock": put("headers", "task", value="celery.chord_unlock"),
    "task that is a path": put("headers", "task", value="os:system"),
    "id left out": take("headers", "id"),
    "id null": put("headers", "id", value=None),
    "id a list": put("headers", "id", value=["a"]),
    "id an object": put("headers", "id", value={"a": 1}),
    "id with escape sequences": put("headers", "id", value="\x1b]0;owned\x07\r\n2026 [error] forged"),
    "id long": put("headers", "id", value="a" * 2**16),
    "root id an object": put("headers", "root_id", value={}),
    "parent id a list": put("headers", "parent_id", value=[1]),
    "group": put("headers", "group", value="g"),
    "shadow": put("headers", "shadow", value="\x1b[31mforged\nline"),
    "shadow a list": put("headers", "shadow", value=[1]),
    "eta far": put("headers", "eta", value=FAR),
    "eta past": put("headers", "eta", value="1970-01-01T00:00:00+00:00"),
    "eta a number": put("headers", "eta", value=7),
    "eta no date": put("headers", "eta", value="soon"),
    "eta without a zone": put("headers", "eta", value="9999-12-31T23:59:59"),
    "eta an object": put("headers", "eta", value={}),
    "expires past": put("headers", "expires", value="1970-01-01T00:00:00+00:00"),
    "expires far": put("headers", "expires", value=FAR),
    "expires no date": put("headers", "expires", value="never"),
    "expires a list": put("headers", "expires", value=[]),
    "retries": put("headers", "retries", value=3),
    "retries a string": put("headers", "retries", value="many"),
    "timelimit": put("headers", "timelimit", value=[0.001, 0.001]),
    "timelimit a string": put("headers", "timelimit", value="x"),
    "timelimit one number": put("headers", "timelimit", value=[1]),
    "timelimit of a day": put("headers", "timelimit", value=[86400, 86400]),
    "timelimit negative": put("headers", "timelimit", value=[-1, -1]),
    "timelimit huge": put("headers", "timelimit", value=[1e308, 1e308]),
    "ignore result no": put("headers", "ignore_result", value=False),
    "nesting": put("headers", "replaced_task_nesting", value=10**6),
    "stamps": put("headers", "stamps", value={"a": "b"}),
    "stamped headers a number": put("headers", "stamped_headers", value=7),
    "language": put("headers", "lang", value="c"),
    "origin an object": put("headers", "origin", value={}),
    "arguments shown are a list": put("headers", "argsrepr", value=[1]),
    "already redelivered": put("headers", "redelivered", value="often"),
    "compression of sound text": sound_but_compressed,
    "compression zlib": coded(zlib.compress(bytes(LARGE)), "application/x-gzip"),
    "compression bz2": coded(bz2.compress(bytes(LARGE)), "application/x-bz2"),
    "compression lzma": coded(lzma.compress(bytes(LARGE)), "application/x-lzma"),
    "compression zstd": coded(b"(\xb5/\xfd", "application/zstd"),
    "compression brotli": coded(b"\x1b", "application/x-brotli"),
    "compression by alias": coded(zlib.compress(bytes(LARGE)), "gzip"),
    "compression unknown": coded(b"x", "application/x-none"),
    "compression a list": put("headers", "compression", value=["gzip"]),
    "content pickle": serialized("application/x-python-serialize", "binary", lambda body: pickle.dumps([body, Call()])),
    "content yaml": serialized("application/x-yaml", "utf-8", lambda body: yaml.safe_dump(body).encode()),
    "content text": put("content-type", value="text/plain"),
    "content binary": put("content-type", value="application/data"),
    "content null": put("content-type", value=None),
    "content left out": take("content-type"),
    "content a list": put("content-type", value=["application/json"]),
    "encoding binary": put("content-encoding", value="binary"),
    "encoding unknown": put("content-encoding", value="x-none"),
    "encoding null": put("content-encoding", value=None),
    "encoding a number": put("content-encoding", value=8),
    "encoding UTF-7": put("content-encoding", value="utf-7"),
    "properties null": put("properties", value=None),
    "properties left out": take("properties"),
    "properties a list": put("properties", value=[]),
    "properties empty": put("properties", value={}),
    "property more": put("properties", "expiration", value="1"),
    "delivery tag left out": take("properties", "delivery_tag"),
    "delivery tag null": put("properties", "delivery_tag", value=None),
    "delivery tag a list": put("properties", "delivery_tag", value=[1]),
    "delivery tag an object": put("properties", "delivery_tag", value={}),
    "delivery info left out": take("properties", "delivery_info"),
    "delivery info null": put("properties", "delivery_info", value=None),
    "delivery info a list": put("properties", "delivery_info", value=[]),
    "delivery info empty": put("properties", "delivery_info", value={}),
    "exchange of replies": put("properties", "delivery_info", "exchange", value="reply.celery.pidbox"),
    "exchange of workers": put("properties", "delivery_info", "exchange", value="celery.pidbox"),
    "routing key another": put("properties", "delivery_info", "routing_key", value="elsewhere"),
    "routing key a list": put("properties", "delivery_info", "routing_key", value=[QUEUE]),
    "consumer tag": put("properties", "delivery_info", "consumer_tag", value=[1]),
    "body encoding unknown": put("properties", "body_encoding", value="rot13"),
    "body encoding null": put("properties", "body_encoding", value=None),
    "body encoding a number": put("properties", "body_encoding", value=7),
    "body encoding UTF-8": put("properties", "body_encoding", value="utf-8"),
    "priority a string": put("properties", "priority", value="high"),
    "priority huge": put("properties", "priority", value=10**300),
    "priority an object": put("properties", "priority", value={}),
    "reply to a list": put("properties", "reply_to", value=[1]),
    "correlation id an object": put("properties", "correlation_id", value={}),
    "redelivered a string": put("redelivered", value="yes"),
    "place more": put("x", value=1),
}
