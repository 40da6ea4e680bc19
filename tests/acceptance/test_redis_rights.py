"""Redis as administrators set it up: users with few rights, memory policies, servers that cannot carry chunk ids."""

import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from celery import Celery
from redis import ResponseError

from contract.bundle import Bundle
from contract.errors import BrokerForbids, BrokerUnavailable, ExitCode
from contract.messages import QUEUE, celery_config
from contract.queue_check import acl_rules, check_queue
from contract.redis_url import checked_redis_url
from tests.acceptance.test_worker import PATIENTS, QUICK, REPORTED, check_invariants, is_finished
from tests.support.archives import write_archive
from tests.support.commands import REPOSITORY, Environment
from tests.support.servers import RedisServer, free_port
from tests.support.waiting import wait_until

PASSWORD = "pa/ss@1"


def user(server: RedisServer, *rules: str, database: int = 0) -> str:
    """Give the user `screen` these rights and no others; returns the URL to connect with."""
    server.client.execute_command("ACL", "SETUSER", "screen", "reset", "on", f">{PASSWORD}", *rules)
    return f"redis://screen:pa%2Fss%401@127.0.0.1:{server.port}/{database}"


def documented_rules() -> list[str]:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^redis-cli (ACL SETUSER screen (?:.*\\\n)*.*)$", page, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:5] == ["ACL", "SETUSER", "screen", "on", ">PASSWORD"]
    return words[5:]


def checked(url: str, *, receives: bool = True) -> list[str]:
    app = Celery("test", set_as_current=False)
    app.config_from_object(celery_config(url))
    try:
        return check_queue(app.connection_for_write(), receives=receives)
    finally:
        app.close()


@pytest.fixture
def alone(tmp_path: Path, redis_server: RedisServer, bundle: Bundle) -> Environment:
    """SQLite with a schema, and a Redis of the test's own."""
    environment = Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", redis_server.url)
    assert environment.screen("db", "upgrade").code == ExitCode.OK
    return environment


def test_the_documented_rights_are_those_that_are_checked() -> None:
    assert documented_rules() == acl_rules().split()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_user_with_the_documented_rights_submits_and_screens_and_is_refused_nothing(
    environment: Environment, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    """A second worker begins while messages of a killed one are still noted as taken."""
    url = user(redis_server, *documented_rules(), database=2)
    archive = write_archive(tmp_path / "archive", PATIENTS, captures=25)
    assert environment.screen("db", "upgrade").code == ExitCode.OK
    settings = {"SCREEN_CHUNK_SIZE": "4", "SCREEN_REDIS_URL": url, **REPORTED}
    done = environment.screen("submit", archive, "--bundle", bundle.path, **settings)
    assert done.code == ExitCode.OK, done.err
    log = tmp_path / "worker.log"
    for how in (signal.SIGKILL, signal.SIGTERM):
        worker = environment.start("worker", log="worker.log", SCREEN_REDIS_URL=url, **QUICK)
        before = log.read_text().count("chunk done")
        if how is signal.SIGKILL:
            wait_until(lambda before=before: log.read_text().count("chunk done") > before, 60, what="a first chunk")
        else:
            wait_until(is_finished(environment, 1), 90, what="the run to finish")
        worker.send_signal(how)
        worker.wait(60)
    check_invariants(environment, 1)
    refused = {entry["object"] for entry in redis_server.client.acl_log() if entry["username"] == "screen"}
    assert refused <= {"client"}, "the client's name and version, which it offers and need not give"
    assert "permission" not in log.read_text()
    assert log.read_text().count("Connected to redis://") <= 2, "no worker connects again and again"


@pytest.mark.parametrize("right", [rule for rule in acl_rules().split() if rule[0] in "+~" and rule != "+info"])
def test_each_missing_right_is_named(redis_server: RedisServer, right: str) -> None:
    rules = [rule for rule in acl_rules().split() if rule != right]
    database = 1 if right == "+select" else 0
    with pytest.raises(BrokerForbids) as caught:
        checked(user(redis_server, *rules, database=database))
    name = right[1:].partition("|")[0]
    assert name in str(caught.value)
    assert "ACL SETUSER" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert redis_server.client.dbsize() == 0, "the check writes nothing, whatever is allowed"


def test_all_missing_rights_are_named_at_once(redis_server: RedisServer) -> None:
    missing = ("+brpop", "+lpush", "~_kombu.binding*")
    url = user(redis_server, *(rule for rule in acl_rules().split() if rule not in missing))
    with pytest.raises(BrokerForbids, match=re.escape(" ".join(missing))):
        checked(url)


def test_who_may_do_everything_writes_nothing_either(redis_server: RedisServer) -> None:
    assert checked(redis_server.url) == []
    assert redis_server.client.dbsize() == 0


def test_who_only_submits_needs_no_right_to_take(redis_server: RedisServer) -> None:
    sending = ["~chunks", "~_kombu.binding*", "+ping", "+multi", "+exec", "+discard", "+llen", "+sadd", "+lpush"]
    assert checked(user(redis_server, *sending), receives=False) == []
    with pytest.raises(BrokerForbids, match="brpop"):
        checked(user(redis_server, *sending))


def test_commands_of_a_user_without_rights_say_so_at_their_start_and_write_nothing(
    alone: Environment, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    assert alone.screen("submit", archive, "--bundle", bundle.path).code == ExitCode.OK
    url = user(redis_server, "~*", "+@all", "-lpush")
    new = ("--bundle", bundle.path, "--all")
    for command in (("submit", archive, *new), ("run", archive, *new), ("resume", 1), ("retry", 1), ("worker",)):
        done = alone.screen(*command, SCREEN_REDIS_URL=url)
        assert done.code == ExitCode.USAGE, done.err
        assert "+lpush" in done.err
        assert "Traceback" not in done.err
    assert len(alone.screen("status", "--json").json) == 1


def test_run_does_not_begin_where_the_redis_that_it_should_use_is_away(
    alone: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    for _ in range(2):  # the second would find "nothing new", and wait without end
        done = alone.screen("run", archive, "--bundle", bundle.path, SCREEN_REDIS_URL="redis://127.0.0.1:1/0")
        assert done.code == ExitCode.UNAVAILABLE, done.err
        assert "Redis is out of reach" in done.err
    assert alone.screen("status", "--json").json == []


@pytest.mark.parametrize("password", ["", ":wrong@", "screen:wrong@"])
def test_a_wrong_password_is_a_mistake_that_one_can_correct(redis_server: RedisServer, password: str) -> None:
    redis_server.client.config_set("requirepass", "right")
    with pytest.raises(BrokerForbids, match="user or the password"):
        checked(f"redis://{password}127.0.0.1:{redis_server.port}/0")


def test_a_database_that_redis_does_not_have_is_a_mistake(redis_server: RedisServer) -> None:
    with pytest.raises(BrokerForbids, match="index"):
        checked(f"redis://127.0.0.1:{redis_server.port}/99")


@contextmanager
def another(folder: Path, *options: str) -> Iterator[RedisServer]:
    folder.mkdir()
    server = RedisServer(folder, free_port(most=55_535), options=options).start()  # a cluster's bus is 10,000 higher
    try:
        yield server
    finally:
        server.kill()


def test_a_replica_and_a_node_of_a_cluster_are_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    with another(tmp_path / "replica") as replica:
        replica.client.replicaof("127.0.0.1", redis_server.port)
        with pytest.raises(BrokerForbids, match="replica"):
            checked(replica.url)
    with another(tmp_path / "node", "--cluster-enabled", "yes") as node, pytest.raises(BrokerForbids, match="cluster"):
        checked(node.url)


def test_a_redis_that_cannot_save_is_no_mistake_of_its_user(tmp_path: Path) -> None:
    with another(tmp_path / "full") as server:
        server.client.config_set("dir", str(tmp_path / "full"))
        server.client.config_set("save", "1 1")
        shutil.rmtree(tmp_path / "full")
        server.client.set("probe", 1)
        with suppress(ResponseError):
            server.client.bgsave()
        wait_until(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == "err", 30, what="it to fail")
        with pytest.raises(BrokerUnavailable, match="MISCONF"):
            checked(server.url)


def test_a_unix_socket_leads_to_its_redis_in_either_form() -> None:
    with tempfile.TemporaryDirectory(prefix="50% #1 ") as place:  # a socket's path must be short
        folder = Path(place) / "redis"
        with another(folder, "--unixsocket", str(folder / "sock")) as server:
            server.client.config_set("requirepass", "right")
            path = quote(str(folder / "sock"))
            for url in (f"unix://:right@{path}?db=2", f"redis+socket://:right@{path}?virtual_host=2"):
                assert checked(checked_redis_url(url)) == []
            with pytest.raises(BrokerForbids, match="password"):
                checked(checked_redis_url(f"unix://:wrong@{path}"))


def test_a_redis_that_does_not_answer_is_no_mistake() -> None:
    with pytest.raises(BrokerUnavailable, match="out of reach"):
        checked(f"redis://127.0.0.1:{free_port()}/0")


@pytest.mark.parametrize(
    ("policy", "limit", "warned"),
    [
        ("allkeys-lru", "64mb", True), ("allkeys-random", "64mb", True), ("allkeys-lru", "0", False),
        ("noeviction", "64mb", False), ("volatile-lru", "64mb", False),
    ],
)  # fmt: skip
def test_a_redis_that_may_drop_messages_is_warned_of(
    redis_server: RedisServer, policy: str, limit: str, warned: bool
) -> None:
    redis_server.client.config_set("maxmemory-policy", policy)
    redis_server.client.config_set("maxmemory", limit)
    warnings = checked(redis_server.url)
    assert [policy in warning and "noeviction" in warning for warning in warnings] == [True] * warned


def test_the_warning_is_shown_by_submit_and_worker(
    alone: Environment, bundle: Bundle, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.client.config_set("maxmemory-policy", "allkeys-lfu")
    redis_server.client.config_set("maxmemory", "64mb")
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    done = alone.screen("submit", archive, "--bundle", bundle.path)
    assert done.code == ExitCode.OK
    assert "allkeys-lfu" in done.err
    worker = alone.start("worker", log="worker.log", **QUICK)
    try:
        wait_until(is_finished(alone, 1), 60, what="the run to finish")
    finally:
        worker.terminate()
        worker.wait(60)
    assert "allkeys-lfu" in (tmp_path / "worker.log").read_text()


def test_workers_open_no_channel(alone: Environment, tmp_path: Path, redis_server: RedisServer) -> None:
    """Whoever reaches Redis could stop workers over them; and they need rights on channels."""
    worker = alone.start_celery("worker.app", log="worker.log")
    try:
        wait_until(lambda: "ready" in (tmp_path / "worker.log").read_text(), 60, what="the worker to be ready")
        wait_until(lambda: any(one["cmd"] == "brpop" for one in redis_server.client.client_list()), 60)
        assert redis_server.client.pubsub_channels() == []
        assert redis_server.client.pubsub_numpat() == 0
        assert {key.decode().rpartition(".")[2] for key in redis_server.client.scan_iter()} == {QUEUE}
    finally:
        worker.terminate()
        worker.wait(60)
