"""The path of one chunk inside the worker: read and decode in threads -> batch -> engine -> outcomes.

Knows no Celery and no SQL. Decoding runs ahead of the engine by a bounded number of captures, so the engine waits as
little as the decoders allow and memory does not grow with the chunk.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from contract.bundle import Manifest
from contract.errors import CaptureRejected, EngineError
from contract.imaging import Decoded, decode
from contract.outcomes import CaptureRef, ChunkOutcome, Rejected, Screened
from worker.engines.base import Engine, Predictions
from worker.reading import check_archive, read_capture

LOOK_AHEAD_BATCHES = 2
"""Batches that may lie decoded, or be decoding, while the engine works on one."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded capture on its way into a batch."""

    capture: CaptureRef
    sha256: str
    decoded: Decoded


@dataclass(frozen=True)
class Pipeline:
    """Screens chunks with one engine. `decoders` is the thread pool that reads and decodes."""

    manifest: Manifest
    engine: Engine
    decoders: ThreadPoolExecutor
    batch_size: int

    def screen(
        self, root: bytes, captures: Sequence[CaptureRef], check: Callable[[], None] = lambda: None
    ) -> ChunkOutcome:
        """Screen the captures below `root`; each ends as screened or rejected, in the order given.

        `check` is called before each batch and may raise to stop early (the lease is lost, say).

        Raises ArchiveUnavailable and EngineError: then nothing of the chunk counts as done.
        """
        check_archive(root)
        screened: list[Screened] = []
        rejected: list[Rejected] = []
        waited = inferred = 0.0
        started = mark = time.perf_counter()
        for batch, bad in self._batches(root, captures):
            waited += time.perf_counter() - mark
            check()
            mark = time.perf_counter()
            rejected += bad
            if batch:
                pixels = np.stack([one.decoded.pixels for one in batch])
                screened += self._outcomes(batch, self.engine.infer(pixels))
            inferred += time.perf_counter() - mark
            mark = time.perf_counter()
        seconds = {"wait": waited, "infer": inferred, "total": time.perf_counter() - started}
        return ChunkOutcome(
            screened,
            rejected,
            f"{self.engine.name}/{self.engine.precision}",
            {name: round(value, 4) for name, value in seconds.items()},
        )

    def _batches(self, root: bytes, captures: Sequence[CaptureRef]) -> Iterator[tuple[list[_Ready], list[Rejected]]]:
        """Full batches of decoded captures, with those rejected on the way; the last batch may be short."""
        ahead: deque[Future[_Ready | Rejected]] = deque()
        waiting = iter(captures)
        batch: list[_Ready] = []
        bad: list[Rejected] = []
        try:
            while True:
                room = (LOOK_AHEAD_BATCHES + 1) * self.batch_size - len(batch) - len(ahead)
                for capture in islice(waiting, room):
                    ahead.append(self.decoders.submit(self._read_and_decode, root, capture))
                if not ahead:
                    break
                done = ahead.popleft().result()
                if isinstance(done, Rejected):
                    bad.append(done)
                else:
                    batch.append(done)
                if len(batch) == self.batch_size:
                    yield batch, bad
                    batch, bad = [], []
            if batch or bad:
                yield batch, bad
        finally:
            for future in ahead:
                future.cancel()

    def _read_and_decode(self, root: bytes, capture: CaptureRef) -> _Ready | Rejected:
        sha256: str | None = None
        try:
            read = read_capture(root, capture.path, capture.size_bytes, capture.modified_ns)
            sha256 = read.sha256
            return _Ready(capture, read.sha256, decode(read.data, self.manifest.image))
        except CaptureRejected as error:
            return Rejected(capture.id, error.code, str(error), sha256)

    def _outcomes(self, batch: Sequence[_Ready], predictions: Predictions) -> list[Screened]:
        probabilities = predictions.probabilities
        if probabilities.shape != (len(batch), len(self.manifest.labels)) or not np.isfinite(probabilities).all():
            raise EngineError(f"engine {self.engine.name} gave no probabilities for a batch of {len(batch)}")
        outcomes = []
        for i, one in enumerate(batch):
            values = [float(p) for p in probabilities[i]]
            top = int(np.argmax(probabilities[i]))
            cam = None if predictions.cam is None else predictions.cam[i, top].astype(np.float16).tobytes()
            outcomes.append(
                Screened(
                    capture_id=one.capture.id,
                    sha256=one.sha256,
                    label=self.manifest.labels[top],
                    probability=values[top],
                    p_all=1.0 - values[self.manifest.benign_index],
                    probabilities=values,
                    cam=cam,
                    width=one.decoded.width,
                    height=one.decoded.height,
                )
            )
        return outcomes
