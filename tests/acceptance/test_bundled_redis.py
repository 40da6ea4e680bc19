"""The Redis that `screen run` and `make demo` bring: other users cannot reach it, and it carries messages only."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis

from producer.services import bundled_redis
from tests.support.servers import refuses_more_than_messages


def test_it_listens_on_a_socket_of_ones_own_and_refuses_all_but_messages() -> None:
    with bundled_redis() as running:
        path = Path(unquote(urlsplit(running.url).path))
        assert path.parent.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_uid == os.geteuid()
        assert path.stat().st_mode & 0o077 == 0
        sockets = {os.readlink(file) for file in Path(f"/proc/{running.child.process.pid}/fd").iterdir()}  # noqa: PTH115
        listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert not {f"socket:[{line[9]}]" for line in listening if line[3] == "0A"} & sockets, "no TCP"
        client = redis.Redis(unix_socket_path=str(path))
        refuses_more_than_messages(client)
        with pytest.raises(redis.exceptions.RedisError):
            client.lpush("chunks", b"x" * (2 * 2**20))
        assert client.llen("chunks") == 0
    assert not path.exists()
