"""Measures every engine, precision and batch size that this machine can run, and torch with the same weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.captures import drawings, files_of
from benchmarks.network import IMAGE, make_bundle, make_network
from benchmarks.record import console, cores, finish, json_option, rounded, table, work_folder, work_option
from contract.bundle import Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage, decode
from trainer.model import Exportable, Network
from worker.engines.base import DeviceMemoryFull, EngineOptions, NotUsable
from worker.engines.registry import ENGINES, load, open_engine
from worker.tuning import engine_rate

Measure = Callable[[RGBImage, int], float]
"""Function of captures and a batch size that returns captures per second."""

CAPTURES = 2048
"""As many as in `throughput`, so that the network is the same. Used are 32 of them, spread over the patients."""


@click.command()
@click.option("--batches", default="1,2,4,8,16,32", show_default=True, help="Batch sizes, separated by commas.")
@click.option("--seconds", default=3.0, show_default=True, help="Time for each engine and batch size.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Measure this bundle instead of the benchmark's; then without torch.",
)
@work_option
@json_option
def command(batches: str, seconds: float, bundle: Path | None, work: Path | None, json_file: Path | None) -> None:
    """Captures per second of each engine, for decoded captures in the host's memory."""
    sizes = [int(size) for size in batches.split(",")]
    with work_folder(work) as folder:
        archive = drawings(folder, CAPTURES)
        ways: dict[str, Measure] = {}
        if bundle is None:
            with console.status("making the network"):
                network = make_network(archive)
                opened = make_bundle(folder / "b3.bundle", network, archive)
            ways |= _torch(network, seconds)
        else:
            opened = Bundle.open(bundle)
        reasons: dict[str, str] = {}
        ways |= _engines(opened, folder, seconds, reasons)
        spec = opened.manifest.image
        pixels = np.stack(
            [decode(file.read_bytes(), spec).pixels for file in files_of(archive, CAPTURES)[:: CAPTURES // 32]]
        )
        rates: dict[str, dict[str, float | None]] = {name: {} for name in ways}
        for size in sizes:  # at each size, the ways take turns
            for name, way in ways.items():
                console.print(f"{name}, batch {size}")
                rates[name][str(size)] = rounded(_rate(way, pixels, size))
    best = {name: max((rate for rate in row.values() if rate), default=None) for name, row in rates.items()}
    base = best.get("torch float32")
    figures = {"image": IMAGE.size, "rates": rates, "best": best, "not_run": reasons}
    rows = [
        (name, *row.values(), rounded(best[name] / base) if base and best[name] else None)  # type: ignore[operator]
        for name, row in rates.items()
    ]
    shown = table("Captures per second, by size of batch", ("", *map(str, sizes), "times torch"), rows)
    not_run = table("Not run here", ("", "reason"), list(reasons.items()))
    finish("engines", figures, [shown, not_run] if reasons else [shown], json_file)


def _rate(way: Measure, pixels: RGBImage, size: int) -> float | None:
    try:
        return way(pixels, size)
    except DeviceMemoryFull:
        return None


def _engines(bundle: Bundle, folder: Path, seconds: float, reasons: dict[str, str]) -> dict[str, Measure]:
    ways: dict[str, Measure] = {}
    for name in ENGINES:
        try:
            cls = load(name)
            precisions = cls.precisions(bundle)
        except NotUsable as error:
            reasons[name] = str(error)
            continue
        for precision in precisions:
            label = f"{name} {precision}"
            try:
                engine, _ = open_engine(bundle, EngineOptions(name, precision, folder / "cache"))
            except EngineError as error:
                reasons[label] = str(error)
                continue
            ways[label] = lambda pixels, size, engine=engine: engine_rate(engine, pixels, size, seconds)  # type: ignore[misc]
    return ways


def _torch(network: Network, seconds: float) -> dict[str, Measure]:
    torch.set_num_threads(cores())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exportable = Exportable(network, 1.0).eval().to(device)

    def measure(model: Any, *, last: bool, half: bool) -> Measure:
        def rate(pixels: RGBImage, size: int) -> float:
            batch = torch.from_numpy(np.resize(pixels, (size, *pixels.shape[1:])))

            def infer_once() -> None:
                model(batch.to(device))[0].cpu()

            memory_format = torch.channels_last if last else torch.contiguous_format
            exportable.to(memory_format=memory_format)
            kind = torch.float16 if device.type == "cuda" else torch.bfloat16
            with torch.inference_mode(), torch.autocast(device.type, kind, enabled=half):
                infer_once()
                began, done = time.perf_counter(), 0
                while time.perf_counter() - began < seconds or done < 2:
                    infer_once()
                    done += 1
            return done * size / (time.perf_counter() - began)

        return rate

    return {
        "torch float32": measure(exportable, last=False, half=False),
        "torch float32, channels last": measure(exportable, last=True, half=False),
        "torch autocast, channels last": measure(exportable, last=True, half=True),
    }
