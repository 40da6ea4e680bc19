"""A database that grows older: night after night of one archive, and many patients, without files and an engine.

Submit and finishing are the functions that the command and the worker call. What they write is as long as real rows.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from sqlalchemy import Engine, func, select, text

from benchmarks.captures import tiny
from benchmarks.fake_worker import ANSWER, CAM, fake_bundle
from benchmarks.record import (
    console,
    databases_option,
    finish,
    json_option,
    median,
    rounded,
    table,
    work_folder,
    work_option,
)
from benchmarks.system import database
from contract.archive import FoundCapture
from contract.bundle import Bundle
from contract.outcomes import ChunkOutcome, Screened
from contract.quality import MEASURES
from db import schema
from db.chunks import claim
from db.engine import open_engine, reading
from db.lease import Lease
from db.models import Capture
from db.results import finish_chunk
from db.submission import Submission, submit
from db.submit_plan import SubmitRequest

PATIENTS_OF_A_NIGHT, CHUNK = 10, 256
KEPT = 30
"""Captures of a patient whose oldest one goes when a new one comes."""
TENTH = 10
PARTS = {
    "latest cases": "db.submit_plan.latest_cases",
    "history": "db.submit_plan.history_of",
    "copies": "db.submission._RunWriter._insert_reused",
    "captures": "db.results._write_captures",
    "touches others": "db.aggregation._to_finish_alone",
    "supersede": "db.aggregation.supersede",
    "counts": "db.aggregation.case_counts",
    "rows": "db.aggregation._screened_captures",
    "case rule": "db.aggregation.judge_rows",
    "shared digests": "db.aggregation.under_several_patients",
    "queue": "db.aggregation.queue_results",
}
"""The parts of submit and finishing whose own time is shown; what none of them takes is `other`."""


class Parts:
    """The time that each part took since the last `taken`, without that of parts that it calls itself."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._within: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            self._within.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                took = time.perf_counter() - began
                self._seconds[name] = self._seconds.get(name, 0.0) + took - self._within.pop()
                if self._within:
                    self._within[-1] += took

        return wrapper

    def taken(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, {}
        return seconds


@contextmanager
def _parts() -> Iterator[Parts]:
    """Times every one of PARTS while it is open."""
    parts = Parts()
    with ExitStack() as stack:
        for name, path in PARTS.items():
            owner, attribute = path.rsplit(".", 1)
            try:
                place: Any = importlib.import_module(owner)
            except ModuleNotFoundError:
                module, owner = owner.rsplit(".", 1)
                place = getattr(importlib.import_module(module), owner)
            stack.enter_context(patch.object(place, attribute, parts.timed(name, getattr(place, attribute))))
        yield parts


@click.command()
@click.option("--nights", default=300, show_default=True, help="Nights; in each, ten patients get a new capture.")
@click.option("--patients", default=10_000, show_default=True, help="Patients with one capture each.")
@databases_option
@work_option
@json_option
def command(nights: int, patients: int, databases: tuple[str, ...], work: Path | None, json_file: Path | None) -> None:
    """Measure what a night and what a case costs, in a young database and in an old one."""
    rows: list[dict[str, Any]] = []
    with work_folder(work) as folder:
        bundle = fake_bundle(folder / "fake.bundle", next(tiny(folder, 100).rglob("*.jpg")).read_bytes())
        for kind in databases:
            with _empty(kind, folder) as engine:
                aged = _nights(engine, bundle, nights)
            with _empty(kind, folder) as engine:
                steady = _nights(engine, bundle, nights, kept=KEPT)
            with _empty(kind, folder) as engine:
                crowded = _patients(engine, bundle, patients)
            rows.append({"database": kind, "nights": aged, "steady": steady, "patients": crowded})
            console.print(rows[-1])
    tables = []
    for row in rows:
        steps = ("submit", "finish")
        columns = ("step", "first tenth, ms", "last tenth, ms", "times")
        shown = [[name, *row["nights"][name].values()] for name in steps]
        for name in steps:
            shown += [[f"{name}: {part}", *values.values()] for part, values in row["nights"]["parts"][name].items()]
        tables.append(table(f"{row['database']}: {nights} nights", columns, shown))
        as_large = [[name, *row["steady"][name].values()] for name in steps]
        tables.append(table(f"{row['database']}: {nights} nights, {KEPT} captures of each patient", columns, as_large))
        held = ("files", "captures", "bytes", "bytes_per_capture", "ms_per_unchanged_capture")
        tables.append(table(f"{row['database']}: the database", held, [[row["nights"][name] for name in held]]))
        cases = [[name, *values.values()] for name, values in row["patients"]["ms_per_case"].items()]
        tables.append(table(f"{row['database']}: finishing one of {patients} patients, ms per case", columns, cases))
    finish("age", {"rows": rows}, tables, json_file)


@contextmanager
def _empty(kind: str, folder: Path) -> Iterator[Engine]:
    with database(kind) as url:
        file = folder / "age.db"
        for part in folder.glob("age.db*"):
            part.unlink()
        engine = open_engine(url or f"sqlite:///{file}")
        try:
            schema.upgrade(engine)
            yield engine
        finally:
            engine.dispose()


def _nights(engine: Engine, bundle: Bundle, nights: int, *, kept: int | None = None) -> dict[str, Any]:
    """Each night every patient gets a capture. If `kept`, they have so many, and the oldest one goes."""
    times: dict[str, list[float]] = {"submit": [], "finish": []}
    parts_of: dict[str, list[dict[str, float]]] = {"submit": [], "finish": []}
    with _parts() as parts:
        for night in range(nights):
            there = range(night + 1) if kept is None else range(night, night + kept)
            files = [_file(patient, capture) for patient in range(PATIENTS_OF_A_NIGHT) for capture in there]
            for step, seconds in _screened(engine, bundle, files):
                times[step].append(sum(seconds))
                taken = parts.taken()
                parts_of[step].append(taken | {"other": times[step][-1] - sum(taken.values())})
    with reading(engine) as connection:
        captures = connection.execute(select(func.count()).select_from(Capture)).scalar_one()
    size, archived = _bytes(engine), PATIENTS_OF_A_NIGHT * nights
    unchanged = archived * (TENTH - 1) / TENTH  # more captures of the same patients in the last tenth than in the first
    ends = [_first_and_last(taken) for taken in times.values()]
    per_unchanged = 1e3 * sum(last - first for first, last in ends) / unchanged
    return {
        "nights": nights, "files": archived, "ms_per_unchanged_capture": rounded(per_unchanged),
        **{step: _grown(times[step], scale=1e3) for step in times},
        "parts": {
            step: {name: _grown([one.get(name, 0.0) for one in parts_of[step]], scale=1e3) for name in names}
            for step in times
            for names in [sorted({name for one in parts_of[step] for name in one})]
        },
        "captures": captures, "bytes": size, "bytes_per_capture": round(size / captures),
    }  # fmt: skip


def _patients(engine: Engine, bundle: Bundle, patients: int) -> dict[str, Any]:
    """The first screening of each patient, and the second one, which takes the first one's place."""
    figures = {}
    files = [_file(patient, 0) for patient in range(patients)]
    for name, everything in (("first screening", False), ("screened again", True)):
        per_case = [
            one / CHUNK
            for step, seconds in _screened(engine, bundle, files, everything=everything)
            if step == "finish"
            for one in seconds
        ]
        figures[name] = _grown(per_case[: patients // CHUNK], scale=1e3)
    return {"patients": patients, "ms_per_case": figures}


def _file(patient: int, capture: int) -> FoundCapture:
    name = f"P{patient:05d}".encode()
    return FoundCapture(name + f"/2026-11-23_slide-1_{capture:05d}.jpg".encode(), name, 250_000, 10**18 + capture)


def _screened(
    engine: Engine, bundle: Bundle, files: Sequence[FoundCapture], *, everything: bool = False
) -> Iterator[tuple[str, list[float]]]:
    """Screen the archive; yields each step with the seconds that it took, finishing with those of each chunk."""
    request = SubmitRequest(
        b"/archive", bundle, files, {}, CHUNK, "benchmark", everything, report_at_sign_off=True
    )  # as by default
    began = time.perf_counter()
    submission: Submission = submit(engine, request)
    yield "submit", [time.perf_counter() - began]
    seconds = []
    for chunk_id in submission.chunk_ids:
        lease = claim(engine, chunk_id, worker="benchmark", lease_seconds=600, max_attempts=3)
        assert lease is not None
        outcome = _outcome(lease)
        began = time.perf_counter()
        finish_chunk(engine, lease, outcome)
        seconds.append(time.perf_counter() - began)
    yield "finish", seconds


def _outcome(lease: Lease) -> ChunkOutcome:
    quality = dict.fromkeys(MEASURES, 0.123456789)
    return ChunkOutcome(
        [
            Screened(one.id, sha256(one.path).hexdigest(), "Benign", ANSWER[0], 1 - ANSWER[0], list(ANSWER),
                     bytes(2 * CAM * CAM), 2592, 1944, quality)
            for one in lease.captures
        ],
        [], "fake/float32", {"total": 0.0},
    )  # fmt: skip


def _grown(values: Sequence[float], *, scale: float) -> dict[str, float | None]:
    """The median over the first and the last tenth, and how many times the first the last is."""
    first, last = _first_and_last(values)
    times = rounded(last / first) if first else None
    return {"first": rounded(scale * first), "last": rounded(scale * last), "times": times}


def _first_and_last(values: Sequence[float]) -> tuple[float, float]:
    """The medians over the first and the last tenth."""
    tenth = max(1, len(values) // TENTH)
    return median(values[:tenth]) or 0.0, median(values[-tenth:]) or 0.0


def _bytes(engine: Engine) -> int:
    """Bytes of the database on the disk."""
    with reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        return int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())
