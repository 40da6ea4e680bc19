"""What one worker process holds: its database connections, the engine of the bundle in use, and the chunks in hand.

Opened on first use, hence in Celery's child after the fork and never in the parent. Three threads work besides the
decoders: Celery's own asks for a chunk and waits until it is done; one runs the pipeline; one talks to the database,
where it claims chunks ahead and writes outcomes, so that the engine waits for neither.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import structlog

from contract.errors import (
    BundleError,
    EngineError,
    LeaseLost,
    OutOfMemory,
    ScreeningError,
    StorageFault,
    Unavailable,
)
from contract.novelty import read_novelty
from contract.outcomes import ChunkOutcome
from contract.pseudonyms import RealPaths, real_paths
from contract.settings import Settings, get_settings
from db.chunks import attempts_so_far, claim, claim_ahead, give_back_of, release
from db.engine import open_engine
from db.lease import Lease
from db.results import finish_chunk
from worker.bundles import find_bundle
from worker.cache import cache_folder
from worker.engines.base import EngineOptions
from worker.engines.registry import open_engine as open_inference_engine
from worker.lease_keeper import LeaseKeeper
from worker.pipeline import Pipeline, Work
from worker.recorder import FlightRecorder
from worker.tuning import tune

log = structlog.get_logger(__name__)

CLOSING_S = 30
"""How long a worker that ends waits for the batches that its engine has begun."""


ABANDONED = 75
"""Exit status of a process that had to end: EX_TEMPFAIL."""


class Stopping(Unavailable):
    """The worker is told to stop; the chunk is given back."""


class _EngineNotOpened(EngineError):
    """The engine refused before it saw a capture, so no capture is to blame."""


class Job:
    """A chunk in hand: its lease, kept alive, and how it ended."""

    def __init__(self, lease: Lease, keeper: LeaseKeeper, claim_s: float) -> None:
        self.lease = lease
        self.claim_s = claim_s
        self.keeper = keeper
        self.done = threading.Event()
        self.error: Exception | None = None


class WorkerProcess:
    """Screens chunks, one after another without a gap. `end` ends the process at once, whatever its threads do."""

    def __init__(self, settings: Settings, end: Callable[[int], object] = os._exit) -> None:
        self._settings = settings
        self._end_process = end
        self._database = open_engine(settings.database_url)
        self._recorder = _recorder(settings)
        self.name = self._recorder.name
        self._changed = threading.Condition()
        self._in_hand: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._screening: list[Job] = []
        self._alone = False
        self._more_expected = False
        self._claiming = 0
        self._chunks_ahead = 0
        self._stopping = False
        self._real_paths: dict[tuple[bytes, str], RealPaths] = {}
        self._open: tuple[str, Pipeline] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._screener = threading.Thread(target=self._screen, name="screener", daemon=True)
        self._screener.start()

    def screen_chunk(self, chunk_id: int) -> None:
        """Claim, screen and finish one chunk; do nothing where it is done or another worker's.

        While it is screened, chunks to come are claimed ahead. A chunk whose failure is not its own (archive away,
        bundle damaged, database out of reach) is given back without counting the attempt. Whatever else fails counts,
        and is raised.
        """
        job = self._in_hand.get(chunk_id) or self._claim(chunk_id)
        if job is None:
            log.debug("nothing to claim", chunk=chunk_id)
            return
        job.done.wait()
        if job.error is not None:
            raise job.error

    def close(self) -> bool:
        """Give back what is in hand, uncounted, and end the threads; False where one of them hangs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._screener.join(CLOSING_S)
        if self._screener.is_alive():
            return False
        self._writer.shutdown()
        self._close_pipeline()
        self._database.dispose()
        self._recorder.close()
        return True

    def abandon(self, reason: str) -> None:
        """Something hangs or has no memory left: give everything back, suspects apart, and end the process.

        A thread that hangs in native code cannot be stopped; a new process can go on.
        """
        suspects = self._recorder.suspects()
        log.error("the worker's process ends", reason=reason, suspects=sorted(suspects))
        try:
            give_back_of(self._database, self.name, suspects, reason=reason, count_attempt=not suspects)
            self._recorder.close()
        except Unavailable:  # whoever sweeps on this machine does it
            self._recorder.note_end(reason)
        self._end_process(ABANDONED)

    # Celery's thread

    def _claim(self, chunk_id: int) -> Job | None:
        attempts = attempts_so_far(self._database, chunk_id)
        if attempts is None:
            return None
        if attempts > 0:  # it ended its worker, perhaps: whatever it does now must hit it alone
            with self._changed:
                self._alone = True
                self._changed.wait_for(lambda: not self._in_hand and not self._claiming)
        try:
            began, settings = time.perf_counter(), self._settings
            lease = claim(
                self._database,
                chunk_id,
                worker=self.name,
                lease_seconds=settings.lease_seconds,
                max_attempts=settings.max_attempts,
            )
            if lease is None:
                return self._in_hand.get(chunk_id)  # claimed ahead meanwhile
            job = self._take(lease, began)
            if attempts > 0:
                job.done.wait()
            return job
        finally:
            self._alone = False

    def _take(self, lease: Lease, began: float) -> Job:
        job = Job(lease, LeaseKeeper(self._database, lease, self._settings.lease_seconds), time.perf_counter() - began)
        job.keeper.__enter__()
        with self._changed:
            self._in_hand[lease.chunk_id] = job
            self._queue.append(job)
            self._more_expected = True
            self._changed.notify_all()
        return job

    # The screener's thread

    def _screen(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    self._changed.wait_for(lambda: not self._claiming)  # what is just being claimed goes back too
                    jobs, self._queue = list(self._queue), deque()
                    for job in jobs:
                        self._writer.submit(self._end, job, Stopping("the worker was told to stop"))
                    return
                digest = self._queue[0].lease.bundle_digest
            try:
                pipeline = self._pipeline(self._queue[0].lease)
            except Exception as error:
                self._writer.submit(self._end, self._queue.popleft(), error)
                continue
            try:
                for work, result in pipeline.run(partial(self._next, digest)):
                    self._screening.remove(work.owner)
                    self._writer.submit(self._end, work.owner, result)
            except Exception as error:  # a fault of ours: no chunk may hang for it
                log.exception("pipeline failed")
                self._close_pipeline()
                while self._screening:
                    self._writer.submit(self._end, self._screening.pop(), error)

    def _next(self, digest: str) -> Work | None:
        """The next chunk for the bundle of this digest, if one is in hand; sees to it that one will be."""
        with self._changed:
            if self._stopping:
                return None
            job = None
            if self._queue and self._queue[0].lease.bundle_digest == digest:
                job = self._queue.popleft()
            room = 1 + self._chunks_ahead - len(self._in_hand) - self._claiming
            if room > 0 and self._more_expected and not self._alone:
                self._claiming += 1
                self._writer.submit(self._claim_ahead, digest)
        if job is None:
            return None
        self._screening.append(job)
        return Work(
            job.lease.root, job.lease.captures, lambda: self._check(job), job, partial(self._real_path, job.lease)
        )

    def _check(self, job: Job) -> None:
        if self._stopping:
            raise Stopping("the worker was told to stop")
        job.keeper.check()

    def _real_path(self, lease: Lease, path: bytes) -> bytes:
        if lease.pseudonym_key is None:
            return path
        known = (lease.root, lease.pseudonym_key)
        if known not in self._real_paths:
            self._real_paths[known] = real_paths(*known, self._settings.pseudonym_key_file)
        return self._real_paths[known](path)

    def _pipeline(self, lease: Lease) -> Pipeline:
        """The pipeline of the lease's bundle. Only one bundle is kept open: a device has one network in memory."""
        if self._open is None or self._open[0] != lease.bundle_digest:
            self._close_pipeline()
            settings = self._settings
            bundle = find_bundle(lease.bundle_digest, Path(lease.bundle_path), settings.bundle_dir)
            novelty = read_novelty(bundle)
            try:
                options = EngineOptions(
                    settings.engine, settings.precision, cache_folder(settings), settings.batch_size
                )
                engine, proof = open_inference_engine(bundle, options)
                log.info(
                    "engine open", engine=engine.name, precision=engine.precision, device=engine.device,
                    golden=proof.golden.captures, largest_difference=round(proof.golden.probability, 6),
                    hidden=proof.hidden and asdict(proof.hidden),
                )  # fmt: skip
                try:
                    tuning = tune(engine, bundle, settings)
                except BaseException:
                    engine.close()  # a device would keep its memory, and each try takes as much again
                    raise
            except EngineError as error:
                raise _EngineNotOpened(str(error)) from error
            except OSError as error:
                raise _EngineNotOpened(
                    f"the engine's cache ({error}); set SCREEN_CACHE_DIR to a folder of ours"
                ) from error
            self._chunks_ahead = tuning.chunks_ahead
            decoders = ThreadPoolExecutor(tuning.decoders, thread_name_prefix="decoder")
            self._open = (
                lease.bundle_digest,
                Pipeline(bundle.manifest, engine, decoders, tuning.batch_size, self._recorder, novelty),
            )
        return self._open[1]

    def _close_pipeline(self) -> None:
        if self._open is not None:
            pipeline = self._open[1]
            self._open = None
            pipeline.decoders.shutdown(cancel_futures=True)
            pipeline.engine.close()

    # The database's thread

    def _claim_ahead(self, digest: str) -> None:
        lease: Lease | None = None
        began = time.perf_counter()
        try:
            if not self._alone and not self._stopping:
                lease = claim_ahead(
                    self._database, digest, worker=self.name, lease_seconds=self._settings.lease_seconds
                )
                if lease is not None:
                    self._take(lease, began)
        except Unavailable as error:  # whoever is asked for a chunk will meet it too
            log.warning("no chunk claimed ahead", error=str(error))
        except Exception:
            log.exception("no chunk claimed ahead")
        finally:
            with self._changed:
                self._claiming -= 1
                self._more_expected = lease is not None
                self._changed.notify_all()

    def _end(self, job: Job, result: ChunkOutcome | Exception) -> None:
        """Write a chunk's outcome, or give it back."""
        lease = job.lease
        with structlog.contextvars.bound_contextvars(
            run=lease.run_id, chunk=lease.chunk_id, attempt=lease.attempt, bundle=lease.bundle_digest[:12]
        ):
            if isinstance(result, OutOfMemory):
                self.abandon(str(result))
            try:
                job.error = self._finish(job, result)
            except Exception as error:
                log.exception("chunk not ended")
                job.error = error
            finally:
                job.keeper.__exit__(None, None, None)
                with self._changed:
                    del self._in_hand[lease.chunk_id]
                    self._changed.notify_all()
                job.done.set()

    def _finish(self, job: Job, result: ChunkOutcome | Exception) -> Exception | None:
        """Returns the error that Celery is to hear of, if there is one."""
        lease = job.lease
        try:
            if isinstance(result, Exception):
                raise result
            began = time.perf_counter()
            finish_chunk(self._database, lease, result)
            seconds = {
                "claim": round(job.claim_s, 4), **result.seconds, "write": round(time.perf_counter() - began, 4)
            }  # fmt: skip
        except LeaseLost as error:
            log.warning("lease lost", error=str(error))
        except Stopping:
            self._release(lease, None, count_attempt=False)
        except StorageFault as error:  # counts: else one bad sector would hold the run up for ever
            self._give_back(lease, error, count_attempt=True)
        except (Unavailable, BundleError, _EngineNotOpened) as error:
            self._give_back(lease, error, count_attempt=False)
        except Exception as error:
            self._give_back(lease, error, count_attempt=True)
            return error
        else:
            log.info("chunk done", screened=len(result.screened), rejected=len(result.rejected), seconds=seconds)
        return None

    def _give_back(self, lease: Lease, error: Exception, *, count_attempt: bool) -> None:
        # The text of an error that is not our own could hold anything, a path for instance: its kind must do.
        reason = (
            str(error) if isinstance(error, ScreeningError) else f"{type(error).__name__} in the worker; see its log"
        )
        log.error("chunk given back", error=reason)
        self._release(lease, reason, count_attempt=count_attempt)

    def _release(self, lease: Lease, reason: str | None, *, count_attempt: bool) -> None:
        try:
            release(self._database, lease, reason=reason, count_attempt=count_attempt)
        except Unavailable as away:
            log.warning("chunk not given back; its lease will end by itself", error=str(away))


def _recorder(settings: Settings) -> FlightRecorder:
    try:
        return FlightRecorder(cache_folder(settings))
    except OSError as error:
        log.warning("no flight recorder: a capture that ends this process is found by halving", error=str(error))
        return FlightRecorder()


@cache
def get_process() -> WorkerProcess:
    """The process's own state, opened at the first chunk."""
    return WorkerProcess(get_settings())
