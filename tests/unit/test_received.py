"""What a worker takes from the queue: our own message, and nothing that anybody else could put there."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import QUEUE, SCREEN_CHUNK
from contract.received import MESSAGE_BYTES, ChunkMessage, NotOurs, read_message
from tests.support.forged import forgeries

UUID = "3b1b6a3c-0000-4000-8000-000000000000"
SOUND = json.dumps(
    {
        "body": base64.b64encode(
            json.dumps([[], {"chunk": 5, "database": UUID}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))])
            .encode()
        ).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py", "task": SCREEN_CHUNK, "id": UUID, "shadow": None, "eta": None, "expires": None, "group": None,
            "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": UUID, "parent_id": None,
            "argsrepr": "()", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": None,
            "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        },
        "properties": {
            "correlation_id": UUID, "reply_to": UUID, "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": QUEUE}, "delivery_tag": UUID,
        },
    }
).encode()  # fmt: skip
FORGED = dict(forgeries(SOUND))


def test_a_longer_name_of_the_host_is_read() -> None:
    message = json.loads(SOUND)
    message["headers"]["origin"] = f"gen1@{'h' * 253}"
    assert read_message(json.dumps(message).encode()) == ChunkMessage(5, UUID)
    assert 2 * len(SOUND) < MESSAGE_BYTES


def test_what_a_worker_gives_back_at_its_end_is_read_again() -> None:
    assert read_message(json.dumps(json.loads(SOUND) | {"redelivered": True}).encode()) == ChunkMessage(5, UUID)


@pytest.mark.parametrize("name", FORGED)
def test_nothing_else_is_and_no_word_of_it_is_repeated(name: str) -> None:
    with pytest.raises(NotOurs) as caught:
        read_message(FORGED[name])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 100
    assert not {"forged", "x-more", "gzip", "$ref"} & set(str(caught.value).replace(".", " ").split())


@given(st.binary(max_size=2 * MESSAGE_BYTES))
def test_no_bytes_end_in_another_error(raw: bytes) -> None:
    with pytest.raises(NotOurs):
        read_message(raw)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
       st.sampled_from(["body", "headers", "properties", "content-type"]))  # fmt: skip
def test_no_value_in_a_place_of_the_message_ends_in_another_error(value: object, place: str) -> None:
    raw = json.dumps(json.loads(SOUND) | {place: value}).encode()
    try:
        assert read_message(raw).chunk == 5
        assert value in ("application/json", json.loads(SOUND)[place])
    except NotOurs:
        pass


def test_the_envelope_that_celery_gets_is_a_message_of_ours() -> None:
    """A worker that ends gives it back to the queue; and no field of the sender is left in it."""
    from worker.transport import _envelope

    assert read_message(_envelope(ChunkMessage(5, UUID))) == ChunkMessage(5, UUID)
    assert read_message(_envelope(ChunkMessage(5, None))) == ChunkMessage(5, None)
    assert json.loads(_envelope(read_message(SOUND)))["headers"]["id"] != UUID
