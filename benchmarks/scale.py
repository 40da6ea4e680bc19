"""Sends thousands to a million captures through submit and workers, with tiny files and an engine that takes no time.

The remaining time is that of the system itself. A capture's overhead in the worker is the total time minus the time of
the pipeline alone, with the same engine and files, in one process: claims, rows, aggregation and messages.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from benchmarks import fake_worker
from benchmarks.captures import chunks_of, tiny
from benchmarks.record import (
    console,
    cores,
    databases_option,
    finish,
    json_option,
    rounded,
    table,
    work_folder,
    work_option,
)
from benchmarks.system import SCREEN, database, running_system
from contract.bundle import Bundle
from worker.engines.base import EngineOptions
from worker.pipeline import Pipeline

SIZES = (1_000, 10_000, 100_000)
MILLION = 1_000_000
BATCH, CHUNKS_AHEAD = 32, 2
WORKER = (*SCREEN[:2], "benchmarks.fake_worker", "0")
PIPELINE_CAPTURES = 20_000


@click.command()
@click.option("--million", is_flag=True, help="Also a million captures: about 20 minutes, 2 GB.")
@click.option("--sizes", help="Other numbers of captures, separated by commas.")
@databases_option
@work_option
@json_option
def command(
    million: bool, sizes: str | None, databases: tuple[str, ...], work: Path | None, json_file: Path | None
) -> None:
    """Measure captures per second through submit and through a worker, memory, and the size of the database."""
    numbers = [int(size) for size in sizes.split(",")] if sizes else [*SIZES, *([MILLION] if million else [])]
    with work_folder(work) as folder:
        capture = next(tiny(folder, 100).rglob("*.jpg")).read_bytes()
        bundle = fake_worker.fake_bundle(folder / "fake.bundle", capture)
        rows: list[dict[str, Any]] = []
        for size in numbers:
            archive = tiny(folder, size)
            pipeline_s = _pipeline_alone(archive, bundle)
            for kind in databases:
                rows.append({"captures": size, "database": kind, **_measured(kind, archive, bundle, size, pipeline_s)})
                console.print(rows[-1])
    figures = {"rows": rows, "flat": {kind: _flat(rows, kind) for kind in databases}}
    columns = ("captures", "submit_per_s", "worker_per_s", "overhead_ms", "database_ms", "submit_mib", "worker_mib",
               "database_bytes_per_capture")  # fmt: skip
    tables = [
        table(kind, columns, [[row[name] for name in columns] for row in rows if row["database"] == kind])
        for kind in databases
    ]
    finish("scale", figures, tables, json_file)


def _measured(kind: str, archive: Path, bundle: Bundle, size: int, pipeline_s: float) -> dict[str, Any]:
    settings = {"SCREEN_BATCH_SIZE": BATCH, "SCREEN_CHUNKS_AHEAD": CHUNKS_AHEAD, "SCREEN_DECODERS": cores()}
    with database(kind) as url, running_system(url, command=WORKER, settings=settings) as system:
        warm_up_run, _ = system.submit(tiny(archive.parent, 100), bundle.path)
        system.wait(warm_up_run)
        began = time.perf_counter()
        run, submit_mib = system.submit(archive, bundle.path)
        submitted = time.perf_counter()
        system.wait(run)
        ended = time.perf_counter()
        assert system.screened(run) == size
        logged = system.logged(run)
        screening_s = (ended - submitted) / size
        return {
            "submit_per_s": rounded(size / (submitted - began)),
            "worker_per_s": rounded(1 / screening_s),
            "ms_per_capture": rounded(1e3 * screening_s),
            "pipeline_ms": rounded(1e3 * pipeline_s),
            "overhead_ms": rounded(1e3 * max(0.0, screening_s - pipeline_s)),
            "database_ms": rounded(1e3 * (logged["claim"] + logged["write"]) / size),
            "submit_mib": rounded(submit_mib),
            "worker_mib": rounded(system.peak_memory_mib()),
            "database_bytes_per_capture": round(system.database_mib() * 2**20 / size),
        }


def _pipeline_alone(archive: Path, bundle: Bundle) -> float:
    """Seconds per capture of the pipeline in this process, over the first captures of the archive."""
    files = [
        file for folder in sorted(archive.iterdir())[: PIPELINE_CAPTURES // 100] for file in sorted(folder.iterdir())
    ]
    chunks = chunks_of(archive, files)
    engine = fake_worker.FakeEngine(bundle, "float32", EngineOptions("fake", "float32", archive))
    with ThreadPoolExecutor(cores()) as decoders:
        began = time.perf_counter()
        for _ in Pipeline(bundle.manifest, engine, decoders, BATCH).run(lambda: chunks.pop() if chunks else None):
            pass
        return (time.perf_counter() - began) / len(files)


def _flat(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Milliseconds per capture at the largest number of captures, as a multiple of those at 10,000."""
    by_size: Mapping[int, dict[str, Any]] = {row["captures"]: row for row in rows if row["database"] == kind}
    base, last = by_size.get(10_000), by_size[max(by_size)]
    return {
        "largest": max(by_size),
        "times": rounded(last["ms_per_capture"] / base["ms_per_capture"]) if base else None,
    }
