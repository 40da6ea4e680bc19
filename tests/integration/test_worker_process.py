"""What one worker process does with a chunk, without Celery: real database, real engine, real files."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from contract.bundle import Bundle
from contract.errors import StorageFault
from contract.settings import Settings
from db.chunks import sweep
from db.engine import reading
from db.models import Capture, Chunk
from db.queries import case_results, ended_badly, progress
from db.submission import submit
from producer.archive import walk_archive
from tests.support.archives import write_archive
from tests.support.runs import request
from worker import pipeline
from worker.process import WorkerProcess


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, captures=4)


@pytest.fixture
def process(database: Engine, tmp_path: Path) -> WorkerProcess:
    url = database.url.render_as_string(hide_password=False)
    return WorkerProcess(Settings(database_url=url, cache_dir=tmp_path / "cache", max_attempts=2, decoders=2))


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
    results = {case["patient"]: (case["verdict"], case["subtype"]) for case in case_results(database, run)}
    assert results == {"P1": ("all", "Pro"), "P2": ("benign", None)}
    with reading(database) as connection:
        for row in connection.execute(select(Capture)):
            assert len(row.sha256) == 64
            assert len(row.cam) == 2 * 4 * 4  # float16, 4 x 4
            assert (row.width, row.height) == (96, 80)
            assert sum(row.probabilities) == pytest.approx(1, abs=0.02)
            assert row.p_all == pytest.approx(1 - row.probabilities[0])
            assert row.engine.startswith("openvino/")


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
    (bad,) = ended_badly(database, run)
    assert bad["path"] == "P1/002.jpg"
    assert "does not answer" in bad["reason"]


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
    codes = {one["path"]: one["reject_code"] for one in ended_badly(database, run)}
    assert codes == {"P1/000.jpg": "changed", "P1/001.jpg": "missing"}


def test_a_cache_folder_that_cannot_be_made_costs_no_attempt(
    database: Engine, bundle: Bundle, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    url = database.url.render_as_string(hide_password=False)
    run = submitted(database, bundle, archive)
    screen_all(database, WorkerProcess(Settings(database_url=url, cache_dir=tmp_path / "file" / "cache")), rounds=5)
    with reading(database) as connection:
        assert connection.execute(select(Chunk.state, Chunk.attempts)).all() == [("pending", 0)]
    screen_all(database, WorkerProcess(Settings(database_url=url, cache_dir=tmp_path / "cache")), rounds=1)
    assert progress(database, run).screened == 8
