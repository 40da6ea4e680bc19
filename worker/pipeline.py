"""The path of a chunk inside the worker: read and decode in threads -> batch -> engine -> outcomes.

It knows no Celery and no SQL. Chunks follow one another without a gap: while the engine works on the last batches of
one chunk, the next is read and decoded. Decoding runs ahead only so far, so memory does not grow with the archive.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.bundle import Manifest
from contract.cells import Cell, evidence_of, find_cells, pack
from contract.decisions import decide
from contract.errors import CaptureRejected, EngineError, OutOfMemory
from contract.imaging import Decoded, RGBImage, decode
from contract.novelty import Novelty
from contract.outcomes import CaptureRef, ChunkOutcome, Rejected, Screened
from contract.predictions import Predictions
from contract.quality import measure
from contract.reading import check_archive, read_capture
from worker.engines.base import DeviceMemoryFull, Engine, Pending, infer_in_halves
from worker.recorder import FlightRecorder

log = structlog.get_logger(__name__)

LOOK_AHEAD_BATCHES = 2
"""Batches that may be decoded, or be decoding, besides those that the engine has."""

SLOW_STORAGE_S = 0.5
"""After this wait for the next capture, the engine's batches are fetched: a result does not wait for a slow archive."""


@dataclass(frozen=True)
class Work:
    """A chunk to screen: its captures below `root`. `check` is called before each batch and may raise to stop the chunk
    (for example because its lease is lost). `owner` belongs to the caller and comes back with the result. `real_path`
    gives the path on disk for a capture's stored path, and may raise to stop the chunk.
    """

    root: bytes
    captures: Sequence[CaptureRef]
    check: Callable[[], None] = lambda: None
    owner: Any = None
    real_path: Callable[[bytes], bytes] = lambda path: path


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded capture on its way into a batch."""

    capture: CaptureRef
    sha256: str
    decoded: Decoded
    cells: list[Cell]
    quality: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Read:
    """What a decoder's thread made of a capture, and the seconds that it took."""

    result: _Ready | Rejected
    read_s: float
    decode_s: float
    quality_s: float


@dataclass
class _Chunk:
    """A chunk under way. `error` is what stopped it; then none of its captures count."""

    work: Work
    began: float
    screened: list[Screened] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "decode", "quality", "wait", "infer"), 0.0)
    )
    error: Exception | None = None
    all_started: bool = False
    flying: int = 0

    @property
    def ended(self) -> bool:
        return self.all_started and self.flying == 0


@dataclass(frozen=True)
class _Batch:
    """Decoded captures of one chunk under way in the engine."""

    chunk: _Chunk
    captures: list[_Ready]
    pixels: RGBImage
    pending: Pending
    began: float
    places: list[int]
    """The places of its captures in the flight recorder."""


_Decoding = tuple[_Chunk, Future[_Read] | None]
"""A capture with its decoder, or the end of its chunk."""
Result = tuple[Work, ChunkOutcome | Exception]


@dataclass
class Pipeline:
    """Screens chunks with one engine. `decoders` is the thread pool that reads and decodes.

    `recorder` knows at every moment which captures a decoder or the engine has. Captures that needed more memory than
    there is stay in it, and their chunk ends with OutOfMemory.
    """

    manifest: Manifest
    engine: Engine
    decoders: ThreadPoolExecutor
    batch_size: int
    recorder: FlightRecorder = field(default_factory=FlightRecorder)
    novelty: Novelty | None = None

    def run(self, source: Callable[[], Work | None]) -> Iterator[Result]:
        """Screen chunks from `source` until it returns None; yields each with its outcome or the error that stopped it.

        `source` is called as soon as there is room for another capture, so the next chunk is decoded while the engine
        still works on the one before. Every capture of an outcome ends as screened or rejected, in the order given.
        An error in one chunk (ArchiveUnavailable, EngineError, an error from its `check`, ...) stops only this chunk.
        """
        flying: deque[_Batch] = deque()
        free_since = time.perf_counter()  # when the engine last finished a batch
        for step in self._batches(source):
            if step is None:
                if flying:
                    yield from self._fetch(flying.popleft(), free_since)
                    free_since = time.perf_counter()
                continue
            chunk, captures, is_last = step
            if captures and len(flying) == self.engine.depth:
                yield from self._fetch(flying.popleft(), free_since)
                free_since = time.perf_counter()
            if captures and chunk.error is None:
                if not flying:
                    chunk.seconds["wait"] += time.perf_counter() - max(free_since, chunk.began)
                self._start(flying, chunk, captures)
            chunk.all_started = is_last
            if chunk.ended:
                yield self._result(chunk)
        while flying:
            yield from self._fetch(flying.popleft(), free_since)
            free_since = time.perf_counter()

    def _batches(self, source: Callable[[], Work | None]) -> Iterator[tuple[_Chunk, list[_Ready], bool] | None]:
        """Yields batches of decoded captures, and whether each is its chunk's last. A batch holds captures of one chunk
        only; the last may be short or empty. Yields None when the next capture takes longer than SLOW_STORAGE_S.
        """
        feed: Iterator[_Decoding] = iter(())
        ahead: deque[_Decoding] = deque()
        batch: list[_Ready] = []
        while True:
            room = (LOOK_AHEAD_BATCHES + self.engine.depth) * self.batch_size - len(ahead) - len(batch)
            while room > 0:
                decoding = list(islice(feed, room))
                ahead.extend(decoding)
                room -= len(decoding)
                if room > 0:
                    work = source()
                    if work is None:
                        break
                    feed = self._feed(work)
            if not ahead:
                return
            chunk, future = ahead.popleft()
            while future is not None and chunk.error is None and not wait((future,), SLOW_STORAGE_S).done:
                yield None
            if future is not None:
                self._collect(chunk, future, batch)
            if future is None or len(batch) >= self.batch_size:
                yield chunk, batch, future is None
                batch = []

    def _feed(self, work: Work) -> Iterator[_Decoding]:
        """Hands a chunk's captures to the decoders, one by one; None marks the end."""
        chunk = _Chunk(work, time.perf_counter())
        try:
            check_archive(work.root)
        except Exception as error:
            chunk.error = error
        for capture in work.captures:
            if chunk.error is not None:
                break
            yield chunk, self.decoders.submit(self._read_and_decode, chunk, capture)
        yield chunk, None

    def _collect(self, chunk: _Chunk, future: Future[_Read], batch: list[_Ready]) -> None:
        if chunk.error is not None:
            future.cancel()
            return
        try:
            read = future.result()
        except Exception as error:
            chunk.error = error
            batch.clear()
            return
        chunk.seconds["read"] += read.read_s
        chunk.seconds["decode"] += read.decode_s
        chunk.seconds["quality"] += read.quality_s
        if isinstance(read.result, Rejected):
            chunk.rejected.append(read.result)
        else:
            batch.append(read.result)

    def _read_and_decode(self, chunk: _Chunk, capture: CaptureRef) -> _Read:
        sha256: str | None = None
        began = read_at = decoded_at = time.perf_counter()
        result: _Ready | Rejected
        places = self.recorder.begin([capture.id])
        try:
            path = chunk.work.real_path(capture.path)
            read = read_capture(chunk.work.root, path, capture.size_bytes, capture.modified_ns)
            sha256, read_at = read.sha256, time.perf_counter()
            decoded = decode(read.data, self.manifest.image)
            decoded_at = time.perf_counter()
            cells = find_cells(decoded.pixels)
            result = _Ready(capture, sha256, decoded, cells, measure(decoded.pixels, cells))
        except CaptureRejected as error:
            result = Rejected(capture.id, error.code, str(error), sha256)
            decoded_at = time.perf_counter()
        except MemoryError:
            raise OutOfMemory("decoding a capture took more memory than a worker may have") from None
        except BaseException:
            self.recorder.end(places)
            raise
        self.recorder.end(places)
        return _Read(result, read_at - began, decoded_at - read_at, time.perf_counter() - decoded_at)

    def _start(self, flying: deque[_Batch], chunk: _Chunk, captures: list[_Ready]) -> None:
        places: list[int] = []
        try:
            chunk.work.check()
            places = self.recorder.begin([ready.capture.id for ready in captures])
            began = time.perf_counter()
            pixels = np.stack([ready.decoded.pixels for ready in captures])
            try:
                pending = self.engine.start(pixels)
            except DeviceMemoryFull:
                pending = self._in_halves(pixels)
        except MemoryError:
            chunk.error = OutOfMemory("a batch took more memory than a worker may have")
        except Exception as error:
            self.recorder.end(places)
            chunk.error = error
        else:
            chunk.flying += 1
            flying.append(_Batch(chunk, captures, pixels, pending, began, places))

    def _in_halves(self, pixels: RGBImage) -> Pending:
        """For a batch that is too large for the device: split it, and make later batches smaller."""
        self.batch_size = max(1, min(self.batch_size, len(pixels) // 2))
        log.warning("device memory is full; smaller batches from here on", batch=self.batch_size)
        return lambda: infer_in_halves(self.engine, pixels)

    def _fetch(self, batch: _Batch, free_since: float) -> Iterator[Result]:
        chunk = batch.chunk
        chunk.flying -= 1
        try:
            try:
                predictions = batch.pending()
            except DeviceMemoryFull:
                predictions = self._in_halves(batch.pixels)()
            chunk.screened += self._outcomes(batch.captures, predictions)
            self.recorder.end(batch.places)
        except MemoryError:
            chunk.error = OutOfMemory("a batch took more memory than a worker may have")
        except Exception as error:
            self.recorder.end(batch.places)
            chunk.error = chunk.error or error
        chunk.seconds["infer"] += time.perf_counter() - max(batch.began, free_since)
        if chunk.ended:
            yield self._result(chunk)

    def _result(self, chunk: _Chunk) -> Result:
        if chunk.error is not None:
            return chunk.work, chunk.error
        seconds = {**chunk.seconds, "total": time.perf_counter() - chunk.began}
        return chunk.work, ChunkOutcome(
            chunk.screened,
            chunk.rejected,
            f"{self.engine.name}/{self.engine.precision}",
            {name: round(value, 4) for name, value in seconds.items()},
        )

    def _outcomes(self, batch: Sequence[_Ready], predictions: Predictions) -> list[Screened]:
        probabilities = predictions.probabilities
        if probabilities.shape != (len(batch), len(self.manifest.labels)) or not np.isfinite(probabilities).all():
            raise EngineError(f"engine {self.engine.name} gave no probabilities for a batch of {len(batch)}")
        qualities = [ready.quality for ready in batch]
        decisions = decide(self.manifest, self.novelty, probabilities, predictions.embedding, qualities)
        if not all(decision.novelty is None or math.isfinite(decision.novelty) for decision in decisions):
            raise EngineError(f"engine {self.engine.name} gave an embedding that is not a number")
        outcomes = []
        for i, (ready, decision) in enumerate(zip(batch, decisions, strict=True)):
            values = [float(probability) for probability in probabilities[i]]
            top = decision.label
            activation = None if predictions.cam is None else predictions.cam[i]
            outcomes.append(
                Screened(
                    capture_id=ready.capture.id,
                    sha256=ready.sha256,
                    label=self.manifest.labels[top],
                    probability=values[top],
                    p_all=1.0 - values[self.manifest.benign_index],
                    probabilities=values,
                    cam=None if activation is None else activation[top].astype(np.float16).tobytes(),
                    width=ready.decoded.width,
                    height=ready.decoded.height,
                    quality=ready.quality,
                    marks=decision.marks,
                    novelty=decision.novelty,
                    excluded=decision.excluded,
                    nucleated_cells=len(ready.cells),
                    cells=_stored(ready.cells, activation),
                    camera=ready.decoded.origin.camera,
                    captured_at=ready.decoded.origin.captured_at,
                )
            )
        return outcomes


def _stored(cells: Sequence[Cell], activation: NDArray[np.float32] | None) -> bytes:
    """The cells as the capture's row has them. A map with places that are no number says nothing about any cell."""
    if activation is None or not np.isfinite(activation).all():
        return pack(cells, None)
    return pack(cells, evidence_of(cells, activation))
