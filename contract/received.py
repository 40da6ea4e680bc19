"""Reads what lies in the queue: exactly the message that `contract.messages.chunk_message` becomes, or a refusal.

Whoever can write to Redis can put anything there. Celery would unpack it, wait for its date, call what it names besides
the task, or give it back to the queue without end. So a message is read here first, and of it only the chunk's id and
the database's UUID are used: worker/transport.py writes the envelope that Celery gets anew.

A message of ours that is refused after all, because another release of Celery wrote it, costs a minute: no chunk
depends on its message, and a worker sends it again (db.chunks.sweep).
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from contract.messages import QUEUE, SCREEN_CHUNK

MESSAGE_BYTES = 4096
"""The largest message that is read. One of ours has about 1,000 bytes; a host's name in it is the longest variable."""
LARGEST_ID = 2**63 - 1
_Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_Seconds = Annotated[int, Field(ge=1, le=3600)] | None
_Empty = Annotated[list[None] | dict[str, None], Field(max_length=0)]


class NotOurs(ValueError):
    """What was received is not our message. Its text repeats nothing of it: not even the names of its fields."""


@dataclass(frozen=True)
class ChunkMessage:
    """The chunk to screen; `database` is None in a message of an earlier release."""

    chunk: int
    database: str | None


class _Exactly(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Arguments(_Exactly):
    chunk: int = Field(ge=1, le=LARGEST_ID)
    database: _Uuid = ""


class _Embedded(_Exactly):
    """What Celery would call besides the task."""

    callbacks: None
    errbacks: None
    chain: None
    chord: None


class _Headers(_Exactly):
    task: Literal["screen.chunk"]
    lang: Literal["py"]
    id: _Uuid
    root_id: _Uuid
    parent_id: None = None
    shadow: None = None
    eta: None = None
    expires: None = None
    group: None = None
    group_index: None = None
    retries: Literal[0] = 0
    timelimit: tuple[_Seconds, _Seconds] = (None, None)
    """A worker that sends a chunk again names its own; they are not used."""
    argsrepr: str = ""
    kwargsrepr: str = ""
    origin: str = ""
    ignore_result: None = None
    replaced_task_nesting: Literal[0] = 0
    stamped_headers: None = None
    stamps: _Empty = []


class _DeliveryInfo(_Exactly):
    exchange: Literal["", "chunks"]
    routing_key: Literal["chunks"]


class _Properties(_Exactly):
    body_encoding: Literal["base64"]
    delivery_tag: _Uuid
    delivery_info: _DeliveryInfo
    correlation_id: _Uuid
    reply_to: _Uuid
    delivery_mode: Literal[2]
    priority: Literal[0]


class _Message(_Exactly):
    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties
    redelivered: Literal[True] = True
    """A worker that stops gives back what it has not begun (kombu)."""


assert (SCREEN_CHUNK, QUEUE) == ("screen.chunk", "chunks"), "the literals above are these"
_BODY: TypeAdapter[tuple[list[None], _Arguments, _Embedded]] = TypeAdapter(
    tuple[Annotated[list[None], Field(max_length=0)], _Arguments, _Embedded]
)


def read_message(raw: bytes) -> ChunkMessage:
    """The message in these bytes of the queue. Raises NotOurs, whatever they are."""
    if len(raw) > MESSAGE_BYTES:
        raise NotOurs(f"larger than {MESSAGE_BYTES} bytes")
    try:
        message = _Message.model_validate_json(raw)
        _, arguments, _ = _BODY.validate_json(base64.b64decode(message.body, validate=True), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise NotOurs(_in_words(fault["type"], fault["loc"])) from None
    except (binascii.Error, ValueError):
        raise NotOurs("the body is not base64") from None
    return ChunkMessage(arguments.chunk, arguments.database or None)


def _in_words(kind: str, place: tuple[int | str, ...]) -> str:
    """pydantic's word for the fault and the place; a place that is not ours stays unnamed, for the sender chose it."""
    known = {*_Message.model_fields, "content-type", "content-encoding", *_Headers.model_fields,
             *_Properties.model_fields, *_DeliveryInfo.model_fields, *_Arguments.model_fields,
             *_Embedded.model_fields}  # fmt: skip
    named = ".".join(str(part) for part in place if part in known)
    return f"{kind} at {named or 'the message or its body'}"
