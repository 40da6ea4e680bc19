"""What a process had under way can be read after it has ended, however it ended."""

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.recorder import SLOTS, FlightRecorder, last_records


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
        recorder = FlightRecorder(tmp_path)
        through = recorder.begin([1, 2])
        recorder.begin([77])
        recorder.end(through)
        end()

    pid = in_a_process_that_ends(body)
    (record,) = last_records(tmp_path)
    assert record.name.startswith(f"{socket.gethostname()}/{pid}/")
    assert record.suspects == {77}
    assert reason in record.reason
    assert record.crashed is crashed
    record.forget()
    assert list(last_records(tmp_path)) == []


def test_a_reason_that_it_gave_itself_is_kept(tmp_path: Path) -> None:
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path).note_end("it took too long"))
    (record,) = last_records(tmp_path)
    assert "it took too long" in record.reason
    assert record.crashed


def test_a_process_that_lives_or_ended_in_peace_leaves_no_record(tmp_path: Path) -> None:
    alive = FlightRecorder(tmp_path)
    alive.begin([5])
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path).close())
    assert list(last_records(tmp_path)) == []
    alive.close()
    assert not list((tmp_path / "workers").iterdir())


def test_processes_of_other_machines_are_theirs_to_look_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert list(last_records(tmp_path)) == []


def test_a_record_that_was_half_written_has_no_suspects(tmp_path: Path) -> None:
    in_a_process_that_ends(lambda: FlightRecorder(tmp_path))
    (folder,) = (tmp_path / "workers").iterdir()
    (folder / "captures").unlink()
    (record,) = last_records(tmp_path)
    assert record.suspects == set()


def test_more_captures_than_places_are_no_fault() -> None:
    recorder = FlightRecorder()
    places = recorder.begin(list(range(1, SLOTS + 10)))
    assert len(recorder.suspects()) == SLOTS
    assert recorder.begin([5]) == []
    recorder.end(places)
    assert recorder.suspects() == set()
    assert len(recorder.begin([5])) == 1
