"""Runs one to eight workers whose engine sleeps instead of computing, to find the limits of the database and queue.

Each worker's engine takes the same time per capture, as if it had its own device; everything else is shared.
"""

import time
from pathlib import Path
from typing import Any

import click

from benchmarks import fake_worker
from benchmarks.captures import tiny
from benchmarks.record import console, databases_option, finish, json_option, rounded, table, work_folder, work_option
from benchmarks.system import SCREEN, database, running_system
from contract.bundle import Bundle

BATCH, CHUNKS_AHEAD = 32, 1


@click.command()
@click.option("--counts", default="1,2,4,8", show_default=True, help="Numbers of workers, separated by commas.")
@click.option("--milliseconds", default=10.0, show_default=True, help="The engine's time per capture.")
@click.option("--seconds", default=30.0, show_default=True, help="About how long each measurement takes.")
@databases_option
@work_option
@json_option
def command(
    counts: str, milliseconds: float, seconds: float, databases: tuple[str, ...], work: Path | None,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Measure captures per second by number of workers, and the speed-up per worker."""
    rows: list[dict[str, Any]] = []
    with work_folder(work) as folder:
        capture = next(tiny(folder, 100).rglob("*.jpg")).read_bytes()
        bundle = fake_worker.fake_bundle(folder / "fake.bundle", capture)
        for kind in databases:
            for count in map(int, counts.split(",")):
                size = round(count * seconds / milliseconds * 1e3 / 100) * 100
                rate = _rate(kind, count, milliseconds, tiny(folder, size), bundle, size)
                ideal = count / milliseconds * 1e3
                rows.append({
                    "database": kind, "workers": count, "captures": size, "captures_per_s": rounded(rate),
                    "of_the_engines": rounded(rate / ideal),
                })  # fmt: skip
                console.print(rows[-1])
    for row in rows:
        base = next(other for other in rows if other["database"] == row["database"])
        row["speed_up_per_worker"] = rounded(row["captures_per_s"] / base["captures_per_s"] / row["workers"])
    columns = ("workers", "captures_per_s", "of_the_engines", "speed_up_per_worker")
    tables = [
        table(kind, columns, [[row[name] for name in columns] for row in rows if row["database"] == kind])
        for kind in databases
    ]
    finish("workers", {"milliseconds": milliseconds, "rows": rows}, tables, json_file)


def _rate(kind: str, count: int, milliseconds: float, archive: Path, bundle: Bundle, size: int) -> float:
    """Captures per second from the end of submit to the last result, after every worker has opened its engine."""
    command = (*SCREEN[:2], "benchmarks.fake_worker", str(milliseconds))
    # Chunks are small here, so that the last ones, which not all workers share, matter as little as in a long night.
    settings = {"SCREEN_BATCH_SIZE": BATCH, "SCREEN_CHUNKS_AHEAD": CHUNKS_AHEAD, "SCREEN_DECODERS": 1,
                "SCREEN_CHUNK_SIZE": 64}  # fmt: skip
    with database(kind) as url, running_system(url, workers=count, command=command, settings=settings) as system:
        warm_up_run, _ = system.submit(tiny(archive.parent, 100 * 4 * count), bundle.path)
        system.wait(warm_up_run)
        run, _ = system.submit(archive, bundle.path)
        submitted = time.perf_counter()
        system.wait(run)
        rate = size / (time.perf_counter() - submitted)
        assert system.screened(run) == size
        return rate
