"""What one worker process does with a chunk, without Celery: real database, real engine, real files."""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from PIL import Image
from sqlalchemy import Engine, func, select

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.cells import unpack
from contract.errors import EngineError, StorageFault
from contract.settings import Settings
from db.chunks import claim, claim_ahead, release, sweep
from db.control import take_up
from db.engine import reading
from db.fsck import fsck
from db.models import Capture, Chunk
from db.progress import progress
from db.run_report import read_run
from db.submission import submit
from tests.support.archives import write_archive
from tests.support.bundles import colour_bundle
from tests.support.fields import SIDE, field
from tests.support.runs import request
from tests.support.waiting import wait_until
from worker import pipeline, tasks
from worker.engines.openvino import OpenVINOEngine
from worker.process import ABANDONED, WorkerProcess


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=4)


@pytest.fixture
def ended() -> list[int]:
    """The statuses that `process` would have ended with."""
    return []


@pytest.fixture
def process(database: Engine, tmp_path: Path, ended: list[int]) -> Iterator[WorkerProcess]:
    url = database.url.render_as_string(hide_password=False)
    settings = Settings(database_url=url, cache_dir=tmp_path / "cache", max_attempts=2, decoders=2, chunks_ahead=1)
    made = WorkerProcess(settings, end=ended.append)
    yield made
    made.close()


def submitted(database: Engine, bundle: Bundle, archive: Path) -> int:
    found = walk_archive(archive)
    run = submit(database, request(bundle, found.captures, chunk_size=8, root=found.root)).run_id
    assert run is not None
    return run


def screen_all(database: Engine, process: WorkerProcess, *, rounds: int = 30) -> None:
    for _ in range(rounds):
        for chunk_id in sweep(database, waiting_messages=0, republish_seconds=0):
            process.screen_chunk(chunk_id)


def test_each_capture_is_called_by_its_colour_with_its_evidence(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess
) -> None:
    run = submitted(database, bundle, archive)
    screen_all(database, process, rounds=1)
    results = {case.patient: (case.verdict, case.subtype) for case in read_run(database, run).cases}
    assert results == {"P1": ("all", "Pro"), "P2": ("benign", None)}
    with reading(database) as connection:
        for row in connection.execute(select(Capture)):
            assert len(row.sha256) == 64
            assert len(row.cam) == 2 * 4 * 4  # float16, 4 x 4
            assert (row.width, row.height) == (96, 80)
            assert sum(row.probabilities) == pytest.approx(1, abs=0.02)
            assert row.p_all == pytest.approx(1 - row.probabilities[0])
            assert row.engine.startswith("openvino/")


def test_the_nucleated_cells_of_a_drawing_are_in_its_row(
    database: Engine, bundle: Bundle, tmp_path: Path, process: WorkerProcess
) -> None:
    patient = tmp_path / "drawn" / "P1"
    patient.mkdir(parents=True)
    for cells in range(3):
        Image.fromarray(field(cells=cells)).save(patient / f"{cells}.png")
    run = submitted(database, bundle, tmp_path / "drawn")
    screen_all(database, process, rounds=1)
    with reading(database) as connection:
        rows = connection.execute(select(Capture).order_by(Capture.path_text)).all()
    assert [row.nucleated_cells for row in rows] == [0, 1, 2]
    assert [[mark["code"] for mark in row.marks] for row in rows] == [["no_nucleated_cell"], [], []]
    assert rows[0].cells == b"\x01\x04", "the layout, four labels, no cell"
    stored = sorted(unpack(rows[2].cells), key=lambda cell: cell.left)
    middles = [((cell.left + cell.right) / 2, (cell.top + cell.bottom) / 2) for cell in stored]
    assert middles == [pytest.approx((x / SIDE, 0.5), abs=0.02) for x in (60, 130)]
    assert all(sum(cell.shares) == pytest.approx(1, abs=0.02) for cell in stored)
    (case,) = read_run(database, run).cases
    assert (case.counting, case.nucleated_cells, case.cells_at_least) == (3, 3, False)
    assert all(finding.holds for finding in fsck(database, run, grace_s=0))


def test_one_file_on_a_bad_sector_is_quarantined_and_the_rest_screened_simulated(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submitted(database, bundle, archive)
    real = pipeline.read_capture

    def read(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> object:
        if path == b"P1/002.jpg":
            raise StorageFault("the storage of a capture does not answer (Input/output error)")
        return real(root, path, size_bytes, modified_ns)

    monkeypatch.setattr(pipeline, "read_capture", read)
    screen_all(database, process)
    now = progress(database, run)
    assert (now.screened, now.quarantined, now.finished) == (7, 1, True)
    (bad,) = read_run(database, run).ended_badly
    assert bad.path == "P1/002.jpg"
    assert "does not answer" in bad.reason


def test_an_archive_that_goes_away_costs_no_attempt_and_the_run_goes_on_when_it_is_back(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess
) -> None:
    run = submitted(database, bundle, archive)
    away = archive.rename(archive.with_name("away"))
    screen_all(database, process, rounds=5)
    with reading(database) as connection:
        assert connection.execute(select(Chunk.state, Chunk.attempts)).all() == [("pending", 0)]
    trouble = progress(database, run).trouble
    assert trouble is not None
    assert "mount it again" in trouble
    away.rename(archive)
    screen_all(database, process, rounds=1)
    now = progress(database, run)
    assert (now.screened, now.rejected, now.finished, now.trouble) == (8, 0, True, None)


def test_a_capture_changed_or_removed_after_submit_is_rejected_and_never_screened_as_something_else(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess
) -> None:
    run = submitted(database, bundle, archive)
    (archive / "P1" / "000.jpg").write_bytes((archive / "P2" / "000.jpg").read_bytes() + b"\0")
    (archive / "P1" / "001.jpg").unlink()
    screen_all(database, process, rounds=1)
    codes = {one.path: one.reject_code for one in read_run(database, run).ended_badly}
    assert codes == {"P1/000.jpg": "changed", "P1/001.jpg": "missing"}


def renamed_away(archive: Path) -> Path:
    """All patients' folders moved out of the archive; what is left is no empty mount point."""
    away = archive.with_name("away")
    away.mkdir()
    for folder in archive.iterdir():
        folder.rename(away / folder.name)
    (archive / "lost+found").mkdir()
    return away


def test_a_mount_point_that_is_not_empty_makes_no_capture_missing(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess
) -> None:
    run = submitted(database, bundle, archive)
    away = renamed_away(archive)
    screen_all(database, process, rounds=4)
    now = progress(database, run)
    assert (now.ended, now.cases_finished) == (0, 0)
    assert "is a disk not mounted?" in str(now.trouble)
    for folder in away.iterdir():
        folder.rename(archive / folder.name)
    screen_all(database, process, rounds=1)
    now = progress(database, run)
    assert (now.screened, now.rejected, now.trouble) == (8, 0, None)


def test_one_patients_disk_that_is_away_holds_up_nobody_else(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess
) -> None:
    """In its place is the folder that it was mounted on, with another inode."""
    run = submitted(database, bundle, archive)
    away = (archive / "P1").rename(archive.with_name("away"))
    (archive / "P1").mkdir()
    screen_all(database, process, rounds=4)
    cases = {case.patient: case.verdict for case in read_run(database, run).cases}
    assert cases == {"P1": None, "P2": "benign"}
    with reading(database) as connection:
        waiting = connection.execute(select(Chunk.captures, Chunk.attempts).where(Chunk.state == "pending")).all()
        assert waiting == [(4, 0)], "the captures of P1 in a chunk of their own, no attempt counted"
    assert all(finding.holds for finding in fsck(database, run, grace_s=0))
    (archive / "P1").rmdir()
    away.rename(archive / "P1")
    screen_all(database, process, rounds=1)
    assert progress(database, run).screened == 8
    assert all(finding.holds for finding in fsck(database, run, grace_s=0))


@pytest.mark.parametrize("removed", ["all files", "the folder"])
def test_captures_that_were_removed_from_an_archive_that_is_there_are_missing(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, removed: str
) -> None:
    run = submitted(database, bundle, archive)
    for file in (archive / "P1").iterdir():
        file.unlink()
    if removed == "the folder":
        (archive / "P1").rmdir()
    screen_all(database, process, rounds=1)
    now = progress(database, run)
    assert (now.screened, now.rejected, now.finished) == (4, 4, True)
    assert {one.reject_code for one in read_run(database, run).ended_badly} == {"missing"}


def test_a_worker_that_may_not_read_a_patients_captures_leaves_them_to_others_simulated(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root nothing is refused, so `open` refuses what lies in one folder, and one file of another."""
    run = submitted(database, bundle, archive)
    real = os.open

    def refusing(path: Any, *arguments: Any, **more: Any) -> int:
        if isinstance(path, bytes):
            folder = str(Path(f"/proc/self/fd/{more['dir_fd']}").readlink()) if "dir_fd" in more else ""
            full = os.fsencode(f"{folder}/") + path
            if b"/P1/" in full or full.endswith(b"P2/000.jpg"):
                raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        screen_all(database, process, rounds=4)
    now = progress(database, run)
    assert (now.screened, now.rejected, now.quarantined, now.finished) == (3, 1, 0, False)
    assert "may read neither" in str(now.trouble)
    screen_all(database, process, rounds=1)
    now = progress(database, run)
    assert (now.screened, now.rejected, now.finished) == (7, 1, True)
    assert [one.path for one in read_run(database, run).ended_badly] == ["P2/000.jpg"]


@pytest.mark.parametrize("temporary", ["usable", "not usable"])
def test_a_cache_folder_that_cannot_be_made_stops_nothing(
    database: Engine, bundle: Bundle, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("tmp" if temporary == "usable" else "file")))
    url = database.url.render_as_string(hide_password=False)
    run = submitted(database, bundle, archive)
    worker = WorkerProcess(Settings(database_url=url, cache_dir=tmp_path / "file" / "cache", decoders=2))
    screen_all(database, worker, rounds=1)
    worker.close()
    assert progress(database, run).screened == 8
    assert any((tmp_path / "tmp").iterdir()) is (temporary == "usable")


def test_a_cache_of_another_user_is_left_alone_and_the_models_are_compiled_each_time(
    database: Engine, bundle: Bundle, archive: Path, tmp_path: Path, process: WorkerProcess
) -> None:
    theirs = tmp_path / "cache" / "openvino"
    theirs.mkdir(parents=True)
    theirs.chmod(0o777)
    run = submitted(database, bundle, archive)
    screen_all(database, process, rounds=1)
    assert progress(database, run).screened == 8
    assert list(theirs.iterdir()) == []


FAILURES = [RuntimeError("of a driver"), MemoryError(), EngineError("no device"), OSError(5, "I/O")]


@pytest.mark.parametrize("error", FAILURES)
def test_what_fails_before_the_engine_is_open_blames_no_capture_and_says_that_trying_again_is_useless(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("worker.opening.open_engine", refuse)
    run = submitted(database, bundle, archive)
    screen_all(database, process, rounds=4)
    with reading(database) as connection:
        assert connection.execute(select(Chunk.state, Chunk.attempts)).all() == [("pending", 0)]
    assert progress(database, run).hopeless
    assert take_up(database, run, actor="t") == sweep(database, waiting_messages=0, republish_seconds=0)
    assert progress(database, run).trouble is None, "forgotten: the run begins anew"


def test_without_memory_for_the_results_the_chunk_goes_back_uncounted_and_celery_sees_nothing(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's parent ends for a MemoryError, and each later worker would end at the same chunk."""

    def finish(*_: object) -> None:
        raise MemoryError

    run = submitted(database, bundle, archive)
    with monkeypatch.context() as patched:
        patched.setattr("worker.chunk_end.finish_chunk", finish)
        screen_all(database, process, rounds=4)
    with reading(database) as connection:
        assert connection.execute(select(Chunk.state, Chunk.attempts)).all() == [("pending", 0)]
    now = progress(database, run)
    assert now.hopeless
    assert now.trouble is not None
    assert "give it more with SCREEN_MEMORY_MIB" in now.trouble
    screen_all(database, process, rounds=1)
    now = progress(database, run)
    assert (now.screened, now.quarantined, now.trouble) == (8, 0, None)


def test_a_process_abandoned_without_blame_makes_nobody_a_suspect_and_says_why(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, ended: list[int]
) -> None:
    run = submitted(database, bundle, archive)
    with reading(database) as connection:
        chunk = connection.execute(select(Chunk.id)).scalar_one()
        captures = connection.execute(select(Capture.id)).scalars().all()
    assert claim(database, chunk, worker=process.name, lease_seconds=60, max_attempts=2) is not None
    process._recorder.begin(captures[:1])
    process.abandon("a worker ran out of memory", blame=False)
    assert ended == [ABANDONED]
    with reading(database) as connection:
        assert connection.execute(select(Chunk.id, Chunk.state, Chunk.attempts)).all() == [(chunk, "pending", 0)]
    assert progress(database, run).trouble == "a worker ran out of memory"


def test_a_process_that_hangs_while_it_opens_its_engine_blames_no_capture(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, ended: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hanging, let_go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hanging.set()
        let_go.wait(60)
        raise EngineError("let go")

    monkeypatch.setattr("worker.opening.open_engine", hang)
    run = submitted(database, bundle, archive)
    (chunk,) = sweep(database, waiting_messages=0, republish_seconds=0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(process.screen_chunk, chunk)
        assert hanging.wait(60)
        process.abandon("it took too long")
        now = progress(database, run)
        with reading(database) as connection:
            assert connection.execute(select(Chunk.state, Chunk.attempts)).all() == [("pending", 0)]
        let_go.set()
    assert ended == [ABANDONED]
    assert now.hopeless
    assert "it took too long, while its engine was opened; `screen bundle compile`" in str(now.trouble)


def test_an_engine_that_cannot_be_tuned_is_closed_each_time(
    database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    close = OpenVINOEngine.close

    def closing(engine: OpenVINOEngine) -> None:
        closed.append(engine.precision)
        close(engine)

    def untunable(*_: object) -> None:
        raise EngineError("no batch fits into the device's memory")

    monkeypatch.setattr(OpenVINOEngine, "close", closing)
    monkeypatch.setattr("worker.opening.tune", untunable)
    run = submitted(database, bundle, archive)
    screen_all(database, process, rounds=3)
    assert progress(database, run).trouble is not None
    assert closed.count("float32") >= 3


# Chunks in hand


@pytest.fixture
def many(database: Engine, bundle: Bundle, tmp_path: Path) -> int:
    """A run of 6 chunks of 4 captures."""
    archive = write_archive(tmp_path / "many", {f"P{n}": "Pro" for n in range(6)}, captures=4)
    found = walk_archive(archive)
    run = submit(database, request(bundle, found.captures, chunk_size=4, root=found.root)).run_id
    assert run is not None
    return run


def chunks(database: Engine, run: int) -> list[tuple[int, str, int, str | None]]:
    """Id, state, attempts and what was last wrong, in the order of ids."""
    with reading(database) as connection:
        columns = (Chunk.id, Chunk.state, Chunk.attempts, Chunk.last_error)
        return [
            tuple(row) for row in connection.execute(select(*columns).where(Chunk.run_id == run).order_by(Chunk.id))
        ]


def leased(database: Engine, run: int) -> int:
    return [row[1] for row in chunks(database, run)].count("leased")


class Gate:
    """Holds the pipeline in the decoding of chosen captures until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        self.held = b""
        real = pipeline.read_capture

        def read(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> object:
            if self.held and self.held in path:
                self.reached.set()
                assert self.opened.wait(60)
            return real(root, path, size_bytes, modified_ns)

        monkeypatch.setattr(pipeline, "read_capture", read)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


@pytest.fixture
def asked(process: WorkerProcess, gate: Gate) -> Iterator[Callable[[int], Future[None]]]:
    """Asks for a chunk as Celery's thread does, in a thread of the test's. Ends after the gate has been opened."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda chunk_id: pool.submit(process.screen_chunk, chunk_id)
        gate.opened.set()


def test_while_one_chunk_is_screened_the_next_is_claimed_and_no_more(
    database: Engine, many: int, gate: Gate, asked: Callable[[int], Future[None]]
) -> None:
    first, *_ = [row[0] for row in chunks(database, many)]
    gate.held = b"P0/"
    done = asked(first)
    assert gate.reached.wait(60)
    wait_until(lambda: leased(database, many) == 2, what="the next chunk's lease")
    with pytest.raises(AssertionError, match="in vain"):
        wait_until(lambda: leased(database, many) > 2, 1)
    gate.opened.set()
    done.result(60)
    assert chunks(database, many)[0][1] == "done"


def test_asked_for_one_chunk_after_another_every_capture_is_screened_once(
    database: Engine, many: int, process: WorkerProcess
) -> None:
    for row in chunks(database, many):
        process.screen_chunk(row[0])
    process.close()
    assert [(state, attempts) for _, state, attempts, _ in chunks(database, many)] == [("done", 1)] * 6
    now = progress(database, many)
    assert (now.screened, now.finished) == (24, True)


def test_a_chunk_that_was_tried_before_is_screened_alone(
    database: Engine, many: int, gate: Gate, process: WorkerProcess, asked: Callable[[int], Future[None]]
) -> None:
    ids = [row[0] for row in chunks(database, many)]
    lease = claim(database, ids[3], worker="killed", lease_seconds=60, max_attempts=3)
    assert lease is not None
    release(database, lease, reason=None, count_attempt=True)
    process.screen_chunk(ids[0])
    gate.held = b"P3/"
    done = asked(ids[3])
    assert gate.reached.wait(60)
    rows = chunks(database, many)
    assert [row[0] for row in rows if row[1] == "leased"] == [ids[3]], "nothing else may be in hand"
    gate.opened.set()
    done.result(60)
    assert chunks(database, many)[3][1:3] == ("done", 2)


def test_a_worker_that_stops_gives_back_what_it_has_in_hand_uncounted(
    database: Engine, many: int, gate: Gate, process: WorkerProcess, asked: Callable[[int], Future[None]]
) -> None:
    ids = [row[0] for row in chunks(database, many)]
    gate.held = b"P1/"
    asked(ids[0]).result(60)
    assert gate.reached.wait(60), "the second chunk is in hand, nobody asked for it"
    closing = threading.Thread(target=process.close)
    closing.start()
    gate.opened.set()
    closing.join(60)
    assert chunks(database, many)[0][1:3] == ("done", 1)
    assert [row[1:] for row in chunks(database, many)[1:]] == [("pending", 0, None)] * 5


def test_a_chunk_that_is_just_being_claimed_when_the_worker_stops_goes_back_too(
    database: Engine, many: int, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, closing_began = threading.Event(), threading.Event()

    def slow(*args: object, **more: object) -> object:
        lease = claim_ahead(*args, **more)  # type: ignore[arg-type]
        claimed.set()
        closing_began.wait(60)
        process._screener.join(1)  # a screener that does not wait for this claim has time to end
        return lease

    monkeypatch.setattr("worker.process.claim_ahead", slow)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(process.screen_chunk, chunks(database, many)[0][0])
        assert claimed.wait(60)
        closing = pool.submit(process.close)
        wait_until(lambda: process._stopping, what="the worker to be told")
        closing_began.set()
        assert closing.result(60)
    assert leased(database, many) == 0


def test_what_was_given_back_is_not_claimed_ahead_over_and_over(
    database: Engine, bundle: Bundle, many: int, process: WorkerProcess, tmp_path: Path
) -> None:
    (tmp_path / "many").rename(tmp_path / "away")
    process.screen_chunk(chunks(database, many)[0][0])
    wait_until(lambda: not process._in_hand, what="all to be given back")
    given_back = [row for row in chunks(database, many) if row[3] is not None]
    assert 1 <= len(given_back) <= 6
    assert all(row[1:3] == ("pending", 0) for row in chunks(database, many))
    assert claim_ahead(database, bundle.digest, worker="w", lease_seconds=60) is None or len(given_back) < 6


def test_runs_with_different_bundles_take_turns(
    database: Engine, bundle: Bundle, many: int, process: WorkerProcess, tmp_path: Path
) -> None:
    other = colour_bundle(tmp_path / "other.bundle", name="other")
    found = walk_archive(tmp_path / "many")
    second = submit(database, request(other, found.captures, chunk_size=4, root=found.root)).run_id
    assert second is not None
    for one, two in zip(chunks(database, many), chunks(database, second), strict=True):
        process.screen_chunk(one[0])
        process.screen_chunk(two[0])
    process.close()
    for run in (many, second):
        assert (progress(database, run).screened, progress(database, run).finished) == (24, True)


def test_what_hangs_is_screened_alone_from_then_on_and_no_other_capture_is_blamed(
    database: Engine, many: int, gate: Gate, process: WorkerProcess, asked: Callable[[int], Future[None]],
    ended: list[int],
) -> None:  # fmt: skip
    first = chunks(database, many)[0][0]
    gate.held = b"P0/002"
    asked(first)
    assert gate.reached.wait(60)
    wait_until(lambda: leased(database, many) == 2, what="the next chunk's lease")
    wait_until(lambda: len(process._recorder.suspects()) == 1, what="all others to be decoded")
    process.abandon("it took too long")
    assert ended == [ABANDONED]
    rows = chunks(database, many)
    assert rows[0][1:] == ("pending", 0, None)
    assert rows[1][1:] == ("pending", 0, None)
    assert rows[-1][1:] == ("pending", 1, "it took too long")
    with reading(database) as connection:
        alone = connection.execute(select(Capture.path_text).where(Capture.chunk_id == rows[-1][0])).scalars().all()
    assert alone == ["P0/002.jpg"]
    gate.opened.set()


def test_a_capture_that_wants_more_memory_than_there_is_ends_the_process_and_is_screened_alone(
    database: Engine, many: int, process: WorkerProcess, asked: Callable[[int], Future[None]], ended: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = pipeline.read_capture

    def read(root: bytes, path: bytes, size_bytes: int, modified_ns: int) -> object:
        if path == b"P1/003.jpg":
            raise MemoryError
        return real(root, path, size_bytes, modified_ns)

    monkeypatch.setattr(pipeline, "read_capture", read)
    second = chunks(database, many)[1][0]
    asked(second)
    wait_until(lambda: ended, what="the end of the process")
    with reading(database) as connection:
        of_guilty = select(Capture.chunk_id).where(Capture.run_id == many, Capture.path == b"P1/003.jpg")
        alone = connection.execute(of_guilty).scalar_one()
        assert connection.execute(select(func.count()).where(Capture.chunk_id == alone)).scalar() == 1
    # Who was under way at that moment shares its fate once; how many those are is a matter of microseconds.
    blamed = {row[0]: row for row in chunks(database, many) if row[3] is not None}
    assert blamed[alone][1:] == ("pending", 1, "decoding a capture took more memory than a worker may have")
    assert {row[1:] for row in blamed.values()} == {blamed[alone][1:]}


def test_after_the_time_limit_the_process_is_abandoned_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Hanging:
        def screen_chunk(self, chunk: int, database: str | None) -> None:
            raise SoftTimeLimitExceeded

        def abandon(self, reason: str) -> None:
            said.append(reason)

    monkeypatch.setattr(tasks, "get_process", Hanging)
    tasks.screen_chunk(1)
    assert said == ["screening took longer than the time limit of 300 s"]


@pytest.mark.parametrize(("opened", "wanted"), [(1, ["a worker ran out of memory outside decoding"]), (0, [])])
def test_a_memory_error_never_reaches_celery_simulated(
    monkeypatch: pytest.MonkeyPatch, opened: int, wanted: list[str]
) -> None:
    """With a process that is open, or not even that."""
    said: list[str] = []

    class Full:
        @staticmethod
        def cache_info() -> SimpleNamespace:
            return SimpleNamespace(currsize=opened)

        def screen_chunk(self, chunk: int, database: str | None) -> None:
            raise MemoryError

        def abandon(self, reason: str, *, blame: bool) -> None:
            assert not blame
            said.append(reason)

    monkeypatch.setattr(tasks, "get_process", Full)
    tasks.screen_chunk(1)
    assert said == wanted
