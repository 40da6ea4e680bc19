"""Batch size, decoding threads and chunks in hand, from a short measurement on this machine with this bundle.

Values in the settings are kept. The measurement uses the golden captures when a bundle is opened, for a second or two.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import structlog

from contract.bundle import Bundle
from contract.imaging import RGBImage, decode
from contract.quality import measure
from contract.settings import Settings
from worker.engines.base import DeviceMemoryFull, Engine, Pending, golden_batch

log = structlog.get_logger(__name__)

CPU_SIZES = (2, 4, 8)
"""One or two captures keep a core busy; larger batches only exceed its caches (docs/benchmarks.md)."""
DEVICE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 2
SECONDS_PER_SIZE = 0.25
NEARLY_BEST = 0.98
"""The smallest batch with this share of the best rate is chosen: smaller batches fill sooner and waste less at the end
of a chunk.
"""
MARGIN = 1.5
"""There are decoders for this many times the engine's rate, because captures differ in their decoding time."""
AHEAD_SECONDS = 0.5
"""Seconds of work that claimed chunks hold ready: claiming one chunk and writing another's rows take less."""
MOST_AHEAD = 8


@dataclass(frozen=True)
class Tuning:
    """The values that the pipeline works with."""

    batch_size: int
    decoders: int
    chunks_ahead: int
    captures_per_s: float
    """The engine's rate at this batch size; 0 where it was not measured."""
    decode_s: float
    """Seconds that one thread takes to decode one capture."""


def tune(engine: Engine, bundle: Bundle, settings: Settings) -> Tuning:
    """Measure, and choose the values that the settings leave open. Raises EngineError."""
    cores = len(os.sched_getaffinity(0))
    captures, _ = golden_batch(bundle)
    decode_s = decode_seconds(bundle)
    if settings.batch_size is not None:
        batch = settings.batch_size if engine.max_batch is None else min(settings.batch_size, engine.max_batch)
        rate = engine_rate(engine, captures, batch, SECONDS_PER_SIZE)
    else:
        batch, rate = best_batch(engine, captures)
    tuning = Tuning(
        batch_size=batch,
        decoders=settings.decoders or _decoders(engine, rate, decode_s, cores),
        chunks_ahead=_chunks_ahead(rate, settings) if settings.chunks_ahead is None else settings.chunks_ahead,
        captures_per_s=round(rate, 1),
        decode_s=round(decode_s, 5),
    )
    log.info("tuned", cores=cores, **asdict(tuning))
    return tuning


def _decoders(engine: Engine, rate: float, decode_s: float, cores: int) -> int:
    """One for each core where the engine computes on the same cores, and the system divides the time between them;
    otherwise as many as keep the device busy, at most one for each core.
    """
    return cores if engine.shares_cores else max(1, min(cores, math.ceil(MARGIN * rate * decode_s)))


def _chunks_ahead(rate: float, settings: Settings) -> int:
    return max(1, min(MOST_AHEAD, math.ceil(AHEAD_SECONDS * rate / settings.chunk_size)))


def best_batch(engine: Engine, captures: RGBImage) -> tuple[int, float]:
    """The smallest batch that is nearly as fast as the fastest, and its captures per second.

    Sizes take turns, and the best rate of each counts, because other work on the machine can only make it slower.
    """
    sizes = [
        size for size in (CPU_SIZES if engine.shares_cores else DEVICE_SIZES) if size <= (engine.max_batch or size)
    ]
    rates: dict[int, float] = {}
    for _ in range(ROUNDS):
        for size in list(sizes):
            try:
                rates[size] = max(rates.get(size, 0.0), engine_rate(engine, captures, size, SECONDS_PER_SIZE))
            except DeviceMemoryFull:
                sizes = [smaller for smaller in sizes if smaller < size]
                break
            if rates[size] < 0.8 * max(rates.values()):
                break
    best = max(rates.values(), default=0.0)
    chosen = next((size for size in sizes if rates.get(size, 0.0) >= NEARLY_BEST * best), 1)
    return chosen, rates.get(chosen, 0.0)


def engine_rate(engine: Engine, captures: RGBImage, batch: int, seconds: float) -> float:
    """Captures per second through the engine alone, with as many batches under way as it takes at once.

    It uses all of `captures` in turn, and repeats some to fill the last batch. Raises EngineError.
    """
    padded = math.ceil(len(captures) / batch) * batch
    batches = np.resize(captures, (padded, *captures.shape[1:])).reshape(-1, batch, *captures.shape[1:])
    engine.start(batches[0])()  # the engine prepares itself for this size
    flying: deque[Pending] = deque()
    begun, done, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds or done < 2 * engine.depth:
        if len(flying) == engine.depth:
            flying.popleft()()
            done += 1
        flying.append(engine.start(batches[begun % len(batches)]))
        begun += 1
    while flying:
        flying.popleft()()
        done += 1
    return done * batch / (time.perf_counter() - began)


def decode_seconds(bundle: Bundle, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median of the seconds that one thread takes to decode one golden capture."""
    durations = []
    for data, _ in bundle.golden() * 2:
        began = clock()
        measure(decode(data, bundle.manifest.image).pixels)
        durations.append(clock() - began)
    return float(np.median(durations))
