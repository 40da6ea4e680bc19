"""What a process had under way can be read after it has ended, however it ended."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import REPOSITORY
from tests.support.waiting import wait_until
from worker.identity import ProcessIdentity
from worker.recorder import SLOTS, STALE_S, FlightRecorder, last_records


def in_a_process_that_ends(body: Callable[[], object]) -> int:
    """Run `body` in a child that ends without any clearing up; returns the child's id."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    return pid


def crash() -> None:
    ctypes.string_at(0)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "reason", "crashed"),
    [(crash, "Segmentation fault", True), (os.abort, "Aborted", True), (killed, "killed", False)],
)
def test_the_captures_and_the_end_of_a_process_that_is_gone(
    tmp_path: Path, end: Callable[[], None], reason: str, crashed: bool
) -> None:
    def body() -> None:
        recorder = FlightRecorder(tmp_path, "db")
        through = recorder.begin([1, 2])
        recorder.begin([77])
        recorder.end(through)
        end()

    pid = in_a_process_that_ends(body)
    (record,) = last_records(tmp_path, "db")
    assert record.name.startswith(f"{socket.gethostname()}/")
    assert record.name.split("/")[3] == str(pid)
    assert record.suspects == {77}
    assert reason in record.reason
    assert record.crashed is crashed
    record.forget()
    assert list(last_records(tmp_path, "db")) == []


def test_a_reason_that_it_gave_itself_is_kept(tmp_path: Path) -> None:
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path, "db").note_end("it took too long"))
    (record,) = last_records(tmp_path, "db")
    assert "it took too long" in record.reason
    assert record.crashed


def test_a_process_that_lives_or_ended_in_peace_leaves_no_record(tmp_path: Path) -> None:
    alive = FlightRecorder(tmp_path, "db")
    alive.begin([5])
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path, "db").close())
    assert list(last_records(tmp_path, "db")) == []
    alive.close()
    assert not list((tmp_path / "workers" / "db").iterdir())


def test_each_database_has_its_own_records_in_one_cache(tmp_path: Path) -> None:
    """Who knows nothing of a process' chunks must not bury its record."""
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path, "one").begin([7]))
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path, "two").begin([8]))
    for record in last_records(tmp_path, "two"):
        assert record.suspects == {8}
        record.forget()
    assert list(last_records(tmp_path, "two")) == []
    assert [record.suspects for record in last_records(tmp_path, "one")] == [{7}]


def test_a_chunk_that_is_being_claimed_or_finished_is_recorded(tmp_path: Path) -> None:
    def body() -> None:
        recorder = FlightRecorder(tmp_path, "db")
        with recorder.at_chunk(3), recorder.at_chunk(4):
            pass
        with recorder.at_chunk(5):
            assert recorder.chunks() == {5}
            killed()

    in_a_process_that_ends(body)
    (record,) = last_records(tmp_path, "db")
    assert (record.chunks, record.suspects, record.opening) == ({5}, set(), False)


def test_processes_of_other_machines_are_theirs_to_look_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path, "db"))
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert list(last_records(tmp_path, "db")) == []


@pytest.mark.parametrize("other", [{"boot": "another"}, {"namespace": 1}, {"host": "elsewhere"}])
def test_of_a_process_that_it_cannot_see_nobody_says_that_it_has_ended(tmp_path: Path, other: dict[str, Any]) -> None:
    """Its number belongs to nobody here, as that of a process in another container does."""
    pid = in_a_process_that_ends(lambda: None)
    gone = replace(ProcessIdentity.own(), pid=pid)
    assert gone.is_gone()
    assert not replace(gone, **other).is_gone()
    folder = tmp_path / "workers" / "db" / f"{replace(gone, **other)}/token".replace("/", "+")
    folder.mkdir(parents=True)
    assert list(last_records(tmp_path, "db")) == []
    assert folder.exists()
    os.utime(folder, (0, time.time() - STALE_S - 60))
    assert list(last_records(tmp_path, "db")) == []
    assert not folder.exists(), "nobody will ever make use of it"


def test_a_process_with_the_number_of_one_that_has_ended_is_another() -> None:
    own = ProcessIdentity.own()
    assert own.started > 0
    assert not own.is_gone()
    assert replace(own, started=own.started - 1).is_gone()


def test_an_identity_can_be_read_back_and_other_names_are_refused() -> None:
    own = ProcessIdentity.own()
    assert ProcessIdentity.parse(str(own)) == own
    with pytest.raises(ValueError, match=r"not enough values|invalid literal"):
        ProcessIdentity.parse("host/17/0a1b2c3d")


RECORDER = """
import os, sys, time
from pathlib import Path
from worker.recorder import FlightRecorder
for _ in range(200):  # so that it gets a number that nobody has in the other namespace
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
if os.fork() == 0:
    recorder = FlightRecorder(Path(sys.argv[1]), "db")
    recorder.begin([7])
    Path(sys.argv[2]).write_text(str(os.getpid()))
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
LOOK = """
import sys
from pathlib import Path
from worker.recorder import last_records
print([record.name for record in last_records(Path(sys.argv[1]), "db")])
"""


def test_two_pid_namespaces_with_one_host_name_and_cache_do_not_bury_each_others_processes(tmp_path: Path) -> None:
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not make PID namespaces here")
    ready = tmp_path / "ready"
    command = [*namespace, sys.executable, "-c", RECORDER, str(tmp_path), str(ready)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY) as living:
        assert living.stdin is not None
        wait_until(lambda: ready.exists() and ready.read_text(), what="the recorder")
        look = [*namespace, sys.executable, "-c", LOOK, str(tmp_path)]
        seen = subprocess.run(look, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        assert seen.stdout.strip() == "[]"
        assert list(last_records(tmp_path, "db")) == [], "nor does this namespace, which is outside of both"
        assert len(list((tmp_path / "workers" / "db").iterdir())) == 1
        living.stdin.close()


def test_a_record_that_was_half_written_has_no_suspects(tmp_path: Path) -> None:
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path, "db"))
    (folder,) = (tmp_path / "workers" / "db").iterdir()
    (folder / "captures").unlink()
    (record,) = last_records(tmp_path, "db")
    assert record.suspects == set()


def test_more_captures_than_places_are_no_fault() -> None:
    recorder = FlightRecorder()
    places = recorder.begin(list(range(1, SLOTS + 10)))
    assert len(recorder.suspects()) == SLOTS
    assert recorder.begin([5]) == []
    recorder.end(places)
    assert recorder.suspects() == set()
    assert len(recorder.begin([5])) == 1


@pytest.mark.parametrize(("end", "crashed"), [(crash, True), (killed, False)])
def test_a_process_that_ended_while_it_opened_its_engine_says_so(
    tmp_path: Path, end: Callable[[], None], crashed: bool
) -> None:
    def body() -> None:
        with FlightRecorder(tmp_path, "db").opening_engine():
            end()

    in_a_process_that_ends(body)
    (record,) = last_records(tmp_path, "db")
    assert (record.opening, record.crashed, record.suspects) == (True, crashed, set())
    assert "while its engine was opened" in record.reason


def test_once_the_engine_is_open_captures_may_be_the_cause_again(tmp_path: Path) -> None:
    def body() -> None:
        recorder = FlightRecorder(tmp_path, "db")
        with recorder.opening_engine():
            assert recorder.is_opening
        assert not recorder.is_opening
        recorder.begin([9])
        killed()

    in_a_process_that_ends(body)
    (record,) = last_records(tmp_path, "db")
    assert (record.opening, record.suspects) == (False, {9})
