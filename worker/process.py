"""What one worker process holds: its database connections, the engine of the bundle in use, and the chunks in hand.

It is opened on first use, so in Celery's child after the fork and never in the parent. Three threads work besides the
decoders: Celery's own thread asks for a chunk and waits until it is done; the second runs the pipeline; the third talks
to the database. It claims chunks ahead and writes outcomes, so the engine never waits for the database.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import structlog
from sqlalchemy import Engine

from contract.errors import OutOfMemory
from contract.outcomes import ChunkOutcome
from contract.pseudonyms import RealPaths, real_paths
from contract.settings import Settings, get_settings
from db.chunks import HOPELESS, attempts_so_far, claim, claim_ahead
from db.engine import open_engine, reading
from db.held import give_back_of
from db.incarnation import uuid_of
from db.lease import Lease
from worker.cache import cache_folder
from worker.chunk_end import NOT_THE_CHUNKS, Owed, Stopping, end_chunk, in_words, settle
from worker.lease_keeper import LeaseKeeper
from worker.opening import open_pipeline
from worker.pipeline import Pipeline, Work
from worker.recorder import WHILE_OPENING, FlightRecorder

log = structlog.get_logger(__name__)

CLOSING_S = 30
"""Seconds that a worker waits, when it ends, for the batches that its engine has begun."""

ABANDONED = 75
"""Exit status of a process that had to end: EX_TEMPFAIL."""


class Job:
    """A chunk in hand: its lease, the thread that keeps the lease alive, and how the chunk ended."""

    def __init__(self, lease: Lease, keeper: LeaseKeeper, claim_s: float) -> None:
        self.lease = lease
        self.claim_s = claim_s
        self.keeper = keeper
        self.done = threading.Event()
        self.error: Exception | None = None


class WorkerProcess:
    """Screens chunks, one after another without a gap. `end` ends the process at once, even while its threads work."""

    def __init__(self, settings: Settings, end: Callable[[int], object] = os._exit) -> None:
        self._settings = settings
        self._end_process = end
        self._database = open_engine(settings.database_url)
        self._recorder = _recorder(settings, self._database)
        self.name = self._recorder.name
        self._changed = threading.Condition()
        self._in_hand: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._owed: list[Owed] = []
        self._screening: list[Job] = []
        self._alone = False
        self._more_expected = False
        self._claiming = 0
        self._chunks_ahead = 0
        self._stopping = False
        self._real_paths: dict[tuple[bytes, str, int], RealPaths] = {}
        self._open: tuple[str, Pipeline] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._screener = threading.Thread(target=self._screen, name="screener", daemon=True)
        self._screener.start()

    def screen_chunk(self, chunk_id: int, incarnation: str | None = None) -> None:
        """Claim, screen and finish one chunk; do nothing where it is done or another worker has it, or where the
        database is not of this `incarnation` (None: not known), so that another of its chunks has the id.

        While it is screened, the next chunks are claimed ahead. If a chunk fails for a reason outside it (archive not
        mounted, bundle damaged, database out of reach), it is given back without counting the attempt. Every other
        failure counts, and is raised.
        """
        job = self._in_hand.get(chunk_id) or self._claim(chunk_id, incarnation)
        if job is None:
            log.debug("nothing to claim", chunk=chunk_id)
            return
        job.done.wait()
        if job.error is not None:
            raise job.error

    def close(self) -> bool:
        """Give back all chunks in hand without counting the attempt, and end the threads; False where one hangs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._screener.join(CLOSING_S)
        if self._screener.is_alive():
            return False
        self._writer.shutdown()
        settle(self._database, self._owed)
        self._close_pipeline()
        self._database.dispose()
        self._recorder.close()
        return True

    def abandon(self, reason: str, *, blame: bool = True) -> None:
        """After a hang or without memory: give all chunks back, suspects to be screened alone, and end the process.

        A thread that hangs in native code cannot be stopped; a new process can continue. Without `blame` no capture can
        be the cause: none is a suspect, no attempt counts, and the reason is shown to people who watch the run.
        """
        suspects, opening = self._recorder.suspects() if blame else set(), self._recorder.is_opening
        show = (opening or not blame) and not self._stopping
        if show and opening:
            reason += f", {WHILE_OPENING}; `screen bundle compile` opens it before, without a time limit{HOPELESS}"
        log.error("the worker's process ends", reason=reason, suspects=sorted(suspects))
        try:
            give_back_of(
                self._database, self.name, suspects, reason=reason, max_deaths=self._settings.max_attempts,
                at=self._recorder.chunks() if blame else (), blame=blame and not opening, show=show,
            )  # fmt: skip
            self._recorder.close()
        except NOT_THE_CHUNKS:  # a sweeper on this machine will give them back
            self._recorder.note_end(reason)
        self._end_process(ABANDONED)

    # Celery's thread

    def _claim(self, chunk_id: int, incarnation: str | None) -> Job | None:
        settle(self._database, self._owed)
        attempts = attempts_so_far(self._database, chunk_id, incarnation)
        if attempts is None:
            return None
        if attempts > 0:  # perhaps it ended its worker: if that happens again, no other chunk may be in hand
            with self._changed:
                self._alone = True
                self._changed.wait_for(lambda: not self._in_hand and not self._claiming)
        try:
            began, settings = time.perf_counter(), self._settings
            with self._recorder.at_chunk(chunk_id):
                lease = claim(
                    self._database,
                    chunk_id,
                    worker=self.name,
                    lease_seconds=settings.lease_seconds,
                    max_attempts=settings.max_attempts,
                    incarnation=incarnation,
                )
                if lease is None:
                    return self._in_hand.get(chunk_id)  # our database thread may have claimed it ahead
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
                    self._changed.wait_for(lambda: not self._claiming)  # a chunk that is being claimed goes back too
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
            except Exception as error:  # a bug of ours must not leave a chunk waiting for ever
                log.exception("pipeline failed")
                self._close_pipeline()
                while self._screening:
                    self._writer.submit(self._end, self._screening.pop(), error)

    def _next(self, digest: str) -> Work | None:
        """The next chunk for the bundle of this digest, if one is in hand; has further chunks claimed ahead."""
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
        archive = (lease.root, lease.pseudonym_key, lease.patient_depth)
        if archive not in self._real_paths:
            self._real_paths[archive] = real_paths(
                lease.root, lease.pseudonym_key, self._settings.pseudonym_key_file, lease.patient_depth
            )
        return self._real_paths[archive](path)

    def _pipeline(self, lease: Lease) -> Pipeline:
        """The pipeline of the lease's bundle. Only one bundle is kept open, so a device has one network in memory."""
        if self._open is None or self._open[0] != lease.bundle_digest:
            self._close_pipeline()
            limit = threading.Timer(self._settings.open_seconds, self._opens_too_long)
            limit.daemon = True
            limit.start()
            try:
                pipeline, tuning = open_pipeline(self._settings, lease, self._recorder)
            finally:
                limit.cancel()
            self._chunks_ahead = tuning.chunks_ahead
            self._open = lease.bundle_digest, pipeline
        return self._open[1]

    def _opens_too_long(self) -> None:
        if self._recorder.is_opening:
            self.abandon(f"this took longer than SCREEN_OPEN_SECONDS={self._settings.open_seconds} allows")

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
        except NOT_THE_CHUNKS as error:  # the next claim will meet it too and report it
            log.warning("no chunk claimed ahead", error=in_words(error))
        except Exception:
            log.exception("no chunk claimed ahead")
        finally:
            with self._changed:
                self._claiming -= 1
                self._more_expected = lease is not None
                self._changed.notify_all()

    def _end(self, job: Job, result: ChunkOutcome | Exception) -> None:
        """Write a chunk's outcome or give it back, and wake the thread that waits for it."""
        lease = job.lease
        with structlog.contextvars.bound_contextvars(
            run=lease.run_id, chunk=lease.chunk_id, attempt=lease.attempt, bundle=lease.bundle_digest[:12]
        ):
            if isinstance(result, OutOfMemory):
                self.abandon(str(result))
            try:
                with self._recorder.at_chunk(lease.chunk_id):
                    job.error = end_chunk(
                        self._database, lease, result, partial(self._real_path, lease), job.claim_s, self._owed
                    )
            except Exception as error:
                log.exception("chunk not ended")
                job.error = error
            finally:
                job.keeper.__exit__(None, None, None)
                with self._changed:
                    del self._in_hand[lease.chunk_id]
                    self._changed.notify_all()
                job.done.set()


def _recorder(settings: Settings, database: Engine) -> FlightRecorder:
    """Raises DatabaseUnavailable: then nothing was claimed, and the next message tries again."""
    cache = cache_folder(settings)
    if cache is None:
        return FlightRecorder()
    with reading(database) as connection:
        uuid = uuid_of(connection)
    try:
        return FlightRecorder(cache, uuid)
    except OSError as error:
        log.warning("no flight recorder: a capture that ends this process is found by halving", error=str(error))
        return FlightRecorder()


@cache
def get_process() -> WorkerProcess:
    """The state of this process, opened at its first chunk."""
    return WorkerProcess(get_settings())
