"""Measures captures per second of engine, decoding, pipeline, whole system, and the tools that people use today.

All use the same captures, weights and cores in one run. They take turns in each repetition, so that other load on the
machine affects all equally. Figures are medians; ratios are medians of the ratios within a repetition.

The ceiling is the rate that engine and decoding together allow on this machine. On shared cores, no order of work can
be faster than cores / (decode + infer seconds of a core per capture), which is 1 / (1/decode + 1/engine) of the rates
with all cores. Where the engine has its own device, the ceiling is the slower of the two rates.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.captures import chunks_of, drawings, files_of
from benchmarks.network import make_bundle, make_network
from benchmarks.peers import peers
from benchmarks.record import console, cores, finish, json_option, median, rounded, table, work_folder, work_option
from benchmarks.system import running_system, timed_run
from contract.bundle import Bundle
from contract.imaging import RGBImage, decode
from contract.outcomes import ChunkOutcome
from contract.settings import Settings
from worker.engines.base import Engine, EngineOptions, infer_all
from worker.engines.close_calls import Doubt
from worker.engines.registry import open_engine
from worker.pipeline import Pipeline
from worker.tuning import Tuning, engine_rate, tune

OURS = ("engine", "decode", "ceiling", "pipeline", "system")
PEERS = ("fastai_predict", "fastai_batch", "torch_loader", "torch_compile")
ENGINE_SECONDS = 5.0
SAMPLE = 256
"""Number of captures for measuring the engine alone."""


@click.command()
@click.option("--captures", default=2048, show_default=True, help="Captures through pipeline and system.")
@click.option("--peer-captures", default=128, show_default=True, help="Captures through each peer; peers are slower.")
@click.option("--repetitions", default=3, show_default=True)
@click.option("--database-url", help="PostgreSQL database for the system; default: SQLite.")
@click.option("--peers/--no-peers", "with_peers", default=True, show_default=True)
@work_option
@json_option
def command(
    captures: int, peer_captures: int, repetitions: int, database_url: str | None, with_peers: bool,
    work: Path | None, json_file: Path | None,
) -> None:  # fmt: skip
    """Compare engine, decoding, ceiling, pipeline and system with fastai, timm with a DataLoader, and torch.compile."""
    with work_folder(work) as folder:
        archive = drawings(folder, captures)
        with console.status("making the network"):
            network = make_network(archive)
            bundle = make_bundle(folder / "b3.bundle", network, archive)
        files = files_of(archive, captures)
        measured_peers = peers(network, files_of(archive, peer_captures)) if with_peers else {}
        engine, _ = open_engine(bundle, EngineOptions("auto", "auto", folder / "cache"))
        tuning = tune(engine, bundle, Settings())
        rows = []
        with running_system(database_url) as system:
            timed_run(system, drawings(folder, 64), bundle)  # the worker opens its engine and tunes itself
            for number in range(repetitions):
                console.print(f"repetition {number + 1} of {repetitions}")
                row: dict[str, float | None] = {
                    "engine": _engine(engine, bundle, tuning, files),
                    "decode": _decode(bundle, files),
                }
                row["ceiling"] = _ceiling(engine, row)
                row["pipeline"] = _pipeline(engine, bundle, tuning, archive, files)
                seconds, run = timed_run(system, archive, bundle)
                row["system"] = system.screened(run) / seconds
                row |= {name: peer() if peer else None for name, peer in measured_peers.items()}
                rows.append(row)
                console.print({name: rounded(value) for name, value in row.items()})
            seconds_by_work = system.seconds_of(run)
    figures = _figures(rows)
    figures |= {
        "captures": len(files), "peer_captures": peer_captures, "repetitions": repetitions,
        "engine_used": f"{engine.name}/{engine.precision} on {engine.device}",
        "close_calls": _close_calls(engine, bundle, tuning, files),
        "database": "postgresql" if database_url else "sqlite",
        "batch_size": tuning.batch_size, "decoders": tuning.decoders, "chunks_ahead": tuning.chunks_ahead,
        "worker_seconds_per_capture": {name: rounded(value / len(files)) for name, value in seconds_by_work.items()},
        "all": [{name: rounded(value) for name, value in row.items()} for row in rows],
    }  # fmt: skip
    shown = [(name, figures[name], _share(figures[name], figures["ceiling"])) for name in OURS]
    shown += [(name, value, _share(value, figures["ceiling"])) for name, value in figures["peers"].items()]
    rates = table("Captures per second", ("", "captures/s", "of the ceiling"), shown)
    finish("throughput", figures, [rates, table("Ratios", ("", "times"), list(figures["ratios"].items()))], json_file)


def _share(value: float | None, ceiling: float) -> str | None:
    return None if value is None else f"{value / ceiling:.0%}"


def _figures(rows: list[dict[str, float | None]]) -> dict[str, Any]:
    def ratio(name: str) -> float | None:
        pairs = [(row["system"], row.get(name)) for row in rows]
        return rounded(median([ours / theirs if ours and theirs else None for ours, theirs in pairs]))

    figures: dict[str, Any] = {name: rounded(median([row[name] for row in rows])) for name in OURS}
    figures["peers"] = {name: rounded(median([row.get(name) for row in rows])) for name in PEERS}
    figures["ratios"] = {f"system_to_{name}": ratio(name) for name in ("ceiling", *PEERS)}
    return figures


def _engine(engine: Engine, bundle: Bundle, tuning: Tuning, files: list[Path]) -> float:
    return engine_rate(engine, _pixels(bundle, files), tuning.batch_size, ENGINE_SECONDS)


def _close_calls(engine: Engine, bundle: Bundle, tuning: Tuning, files: list[Path]) -> float | None:
    """Share of captures that are computed again in float32."""
    if engine.precision == "float32":
        return None
    pixels, doubt = _pixels(bundle, files), Doubt.of(bundle, engine.precision)
    return rounded(len(doubt.rows(infer_all(engine, pixels, tuning.batch_size))) / len(pixels))


def _pixels(bundle: Bundle, files: list[Path]) -> RGBImage:
    return np.stack([decode(file.read_bytes(), bundle.manifest.image).pixels for file in files[:SAMPLE]])


def _decode(bundle: Bundle, files: list[Path]) -> float:
    """Captures per second that all cores decode from memory."""
    data = [file.read_bytes() for file in files[:512]]
    with ThreadPoolExecutor(cores()) as pool:
        began = time.perf_counter()
        for _ in pool.map(lambda content: decode(content, bundle.manifest.image), data * 2):
            pass
        return 2 * len(data) / (time.perf_counter() - began)


def _ceiling(engine: Engine, row: dict[str, float | None]) -> float:
    assert row["engine"] is not None
    assert row["decode"] is not None
    if engine.shares_cores:
        return 1 / (1 / row["engine"] + 1 / row["decode"])
    return min(row["engine"], row["decode"])


def _pipeline(engine: Engine, bundle: Bundle, tuning: Tuning, archive: Path, files: list[Path]) -> float:
    """Captures per second of the pipeline in this process, with default chunks, without Redis and database."""
    chunks = chunks_of(archive, files)
    with ThreadPoolExecutor(tuning.decoders) as decoders:
        pipeline = Pipeline(bundle.manifest, engine, decoders, tuning.batch_size)
        began = time.perf_counter()
        screened = 0
        for _, outcome in pipeline.run(lambda: chunks.pop() if chunks else None):
            assert isinstance(outcome, ChunkOutcome)
            screened += len(outcome.screened)
        assert screened == len(files)
        return screened / (time.perf_counter() - began)
