"""Writes an archive of synthetic captures: a folder per patient and labels.csv."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import groupby
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import cv2

from contract.errors import UsageError
from contract.files import private_folder, write_whole
from contract.shared_locks import check_shared_locks
from contract.tables import table_text
from trainer.synth import GENERATOR_VERSION
from trainer.synth.field import draw_capture
from trainer.synth.stain import label_of
from trainer.synth.truth import cells_of

LABELS_FILE = "labels.csv"
CELL_COLUMNS = ("path", "x_min", "y_min", "x_max", "y_max", "kind")
"""Columns of the list of cells: the capture's path relative to the archive, the box in px, the kind of cell."""
RECORD_FILE = ".synth.json"
JPEG_QUALITY = 90
_CHUNK = 8
"""Captures that a process draws together; they share the patient's parameters."""
_CellRow = tuple[str, int, int, int, int, str]
_T = TypeVar("_T")


class ForeignFolder(UsageError, ValueError):
    """The folder to write to holds something other than this archive."""


def patient_name(patient: int) -> str:
    """Folder name of a patient; patients count from 1."""
    return f"patient-{patient:04d}"


def capture_path(patient: int, capture: int) -> str:
    """Path of a capture relative to the archive, posix."""
    return f"{patient_name(patient)}/{capture:03d}.jpg"


def write_archive(
    out: Path,
    patients: int,
    captures: int,
    seed: int,
    *,
    processes: int | None = None,
    first_patient: int = 1,
    progress: Callable[[int], None] | None = None,
    cells: Path | None = None,
) -> Path:
    """Write `captures` captures of each of `patients` patients to `out`; returns the path of labels.csv.

    Existing captures are kept, so a killed run can continue and an archive can grow. The bytes do not depend on
    `processes` (default: one for each core). `progress` is called with the number of captures just finished. `cells` is
    a CSV to write with the nucleated cells of all captures in the archive; see `truth`. Raises ForeignFolder where
    `out` holds anything else.
    """
    _claim(out, seed)
    numbers = range(first_patient, first_patient + patients)
    chunks = []
    for patient in numbers:
        private_folder(out / patient_name(patient))
        missing = [capture for capture in range(1, captures + 1) if not (out / capture_path(patient, capture)).exists()]
        if progress is not None and len(missing) < captures:
            progress(captures - len(missing))
        chunks += [(out, seed, patient, missing[start : start + _CHUNK]) for start in range(0, len(missing), _CHUNK)]
    processes = processes or os.cpu_count() or 1
    for finished in _in_processes(draw_chunk, chunks, processes):
        if progress is not None:
            progress(finished)
    if cells is not None:
        _write_cells(cells, out, seed, processes)
    return _write_labels(out, seed)


def draw_chunk(out: Path, seed: int, patient: int, captures: list[int]) -> int:
    """Draw and write some captures of a patient; returns their number. Top level: other processes import it."""
    for capture in captures:
        pixels = cv2.cvtColor(draw_capture(seed, patient, capture), cv2.COLOR_RGB2BGR)
        _encoded, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        write_whole(out / capture_path(patient, capture), data.tobytes())
    return len(captures)


def list_cells(seed: int, patient: int, captures: list[int]) -> list[_CellRow]:
    """The nucleated cells of some captures of a patient. Top level: other processes import it."""
    return [
        (capture_path(patient, capture), cell.x_min, cell.y_min, cell.x_max, cell.y_max, cell.kind)
        for capture in captures
        for cell in cells_of(seed, patient, capture)
    ]


def _in_processes(work: Callable[..., _T], chunks: Sequence[tuple[Any, ...]], processes: int) -> Iterator[_T]:
    """Do all chunks of the work, in this process or in a pool; yields each result when it is there."""
    processes = min(processes, len(chunks))
    if processes <= 1:
        yield from (work(*chunk) for chunk in chunks)
        return
    check_shared_locks()
    with _single_threaded(), ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(work, *chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started in the block use one BLAS thread each, because there is one process for each core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _claim(out: Path, seed: int) -> None:
    """Make `out` the folder of this archive, or check that it already is. Raises ForeignFolder."""
    record = {"generator": GENERATOR_VERSION, "seed": seed}
    path = out / RECORD_FILE
    if path.exists():
        existing = _read_record(path)
        if existing != record:
            raise ForeignFolder(f"{out}: holds synthetic captures of {existing}, not {record}; name another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ForeignFolder(f"{out}: holds files that `screen synth` did not write; name a new or empty folder")
    private_folder(out)
    write_whole(path, json.dumps(record) + "\n")


def _read_record(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "an unreadable record"


def _write_labels(out: Path, seed: int) -> Path:
    """List every capture in the archive, including those of earlier runs."""
    rows = (
        (capture_path(patient, capture), patient_name(patient), label_of(seed, patient))
        for patient, capture in _captures_in(out)
    )
    path = out / LABELS_FILE
    write_whole(path, table_text(("path", "patient", "label"), rows))
    return path


def _write_cells(path: Path, out: Path, seed: int, processes: int) -> None:
    """List the nucleated cells of every capture in the archive, including those of earlier runs."""
    chunks = []
    for patient, group in groupby(_captures_in(out), key=itemgetter(0)):
        captures = [capture for _patient, capture in group]
        chunks += [(seed, patient, captures[start : start + _CHUNK]) for start in range(0, len(captures), _CHUNK)]
    rows = [row for part in _in_processes(list_cells, chunks, processes) for row in part]
    write_whole(path, table_text(CELL_COLUMNS, sorted(rows, key=itemgetter(0))))


def _captures_in(out: Path) -> list[tuple[int, int]]:
    """Patient and number of each capture in the archive, in the order of their paths."""
    files = sorted(out.glob("patient-*/*.jpg"))
    return [(int(file.parent.name.removeprefix("patient-")), int(file.stem)) for file in files]
