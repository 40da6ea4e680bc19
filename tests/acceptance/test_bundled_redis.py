"""The Redis of `screen run` and that of deploy/compose.yaml: they carry messages, and do nothing else."""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
import yaml
from celery import Celery

from contract.messages import celery_config
from contract.queue_check import check_queue
from producer.services import bundled_redis
from tests.support.commands import REPOSITORY
from tests.support.servers import SYSTEM_PATH, free_port, refuses_more_than_messages
from tests.support.waiting import wait_until


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


def redis_configuration(password_file: Path) -> str:
    """What the container's shell hands to Redis."""
    shell, option, script = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())["services"]["redis"][
        "command"
    ]
    script = script.replace("$$", "$").replace("/run/secrets/redis_password", str(password_file))
    for written, here in (("exec redis-server - <<END", "exec cat <<END"), ("/data", str(password_file.parent))):
        script = script.replace(written, here)
    return subprocess.run([shell, option, script], check=True, capture_output=True, text=True).stdout


def test_the_redis_of_compose_carries_messages_and_does_nothing_else(tmp_path: Path) -> None:
    server = shutil.which("redis-server", path=SYSTEM_PATH)
    if server is None:
        pytest.skip("the Redis that comes with this program is older than that of compose.yaml")
    (tmp_path / "password").write_text("Geheim7\n")
    port = free_port()
    process = subprocess.Popen([server, "-", "--bind", "127.0.0.1", "--port", str(port)], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(redis_configuration(tmp_path / "password").encode())
    nobody = redis.Redis(port=port)
    try:
        wait_until(lambda: _refuses(nobody, "PING"), 20, what="Redis to answer")
        assert _refuses(redis.Redis(port=port, password="Geheim7"), "PING"), "there is no default user"
        health = redis.Redis(port=port, username="health", password="-")
        assert health.ping()
        assert _refuses(health, "LLEN", "chunks")
        refuses_more_than_messages(redis.Redis(port=port, username="screen", password="Geheim7"))
        app = Celery("test", set_as_current=False)
        app.config_from_object(celery_config(f"redis://screen:Geheim7@127.0.0.1:{port}/0"))
        assert check_queue(app.connection_for_write(), receives=True) == []
        app.close()
    finally:
        process.terminate()
        process.wait(20)


def _refuses(client: redis.Redis, *order: str) -> bool:
    """Whether Redis answers, and refuses. False where it does not answer yet."""
    try:
        client.execute_command(*order)
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError):
        return True
    except redis.exceptions.ConnectionError:
        return False
    raise AssertionError(f"Redis has done {order}")
