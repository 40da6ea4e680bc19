"""What one worker process holds: its database connections, its decoders and the engine of the bundle in use.

Opened on first use, hence in Celery's child after the fork and never in the parent.
"""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import structlog
from platformdirs import user_cache_path

from contract.errors import BundleError, EngineError, LeaseLost, ScreeningError, StorageFault, Unavailable
from contract.settings import Settings, get_settings
from db.chunks import claim, release
from db.engine import open_engine
from db.lease import Lease
from db.results import finish_chunk
from worker.bundles import find_bundle
from worker.engines.base import EngineOptions
from worker.engines.base import open_engine as open_inference_engine
from worker.lease_keeper import LeaseKeeper
from worker.pipeline import Pipeline

log = structlog.get_logger(__name__)


class WorkerProcess:
    """Screens chunks, one after another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = open_engine(settings.database_url)
        threads = settings.decoders or os.cpu_count() or 1
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decoder")
        self._pipelines: dict[str, Pipeline] = {}
        self.name = f"{socket.gethostname()}/{os.getpid()}"

    def screen_chunk(self, chunk_id: int) -> None:
        """Claim, screen and finish one chunk; do nothing where it is done or another worker's.

        A chunk whose failure is not its own (archive away, bundle damaged, database out of reach) is given back
        without counting the attempt. Whatever else fails counts, and is raised.
        """
        settings = self._settings
        lease = claim(
            self._database,
            chunk_id,
            worker=self.name,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
        )
        if lease is None:
            log.debug("nothing to claim", chunk=chunk_id)
            return
        with structlog.contextvars.bound_contextvars(
            run=lease.run_id, chunk=chunk_id, attempt=lease.attempt, bundle=lease.bundle_digest[:12]
        ):
            self._screen(lease)

    def _screen(self, lease: Lease) -> None:
        try:
            with LeaseKeeper(self._database, lease, self._settings.lease_seconds) as keeper:
                outcome = self._pipeline(lease).screen(lease.root, lease.captures, keeper.check)
            finish_chunk(self._database, lease, outcome)
        except LeaseLost as error:
            log.warning("lease lost", error=str(error))
        except StorageFault as error:  # counts: else one bad sector would hold the run up for ever
            self._give_back(lease, error, count_attempt=True)
        except (Unavailable, BundleError, _EngineNotOpened) as error:
            self._give_back(lease, error, count_attempt=False)
        except Exception as error:
            self._give_back(lease, error, count_attempt=True)
            raise
        else:
            log.info(
                "chunk done", screened=len(outcome.screened), rejected=len(outcome.rejected), seconds=outcome.seconds
            )

    def _give_back(self, lease: Lease, error: Exception, *, count_attempt: bool) -> None:
        # The text of an error that is not our own could hold anything, a path for instance: its kind must do.
        reason = (
            str(error) if isinstance(error, ScreeningError) else f"{type(error).__name__} in the worker; see its log"
        )
        log.error("chunk given back", error=reason)
        try:
            release(self._database, lease, reason=reason, count_attempt=count_attempt)
        except Unavailable as away:
            log.warning("chunk not given back; its lease will end by itself", error=str(away))

    def _pipeline(self, lease: Lease) -> Pipeline:
        """The pipeline of the lease's bundle. Only one bundle is kept open: a device has one network in memory."""
        if lease.bundle_digest not in self._pipelines:
            self._pipelines.clear()
            bundle = find_bundle(lease.bundle_digest, Path(lease.bundle_path), self._settings.bundle_dir)
            try:
                options = EngineOptions(self._settings.engine, self._settings.precision, cache_folder(self._settings))
                engine = open_inference_engine(bundle, options)
            except EngineError as error:
                raise _EngineNotOpened(str(error)) from error
            except OSError as error:
                raise _EngineNotOpened(
                    f"the engine's cache ({error}); set SCREEN_CACHE_DIR to a folder of ours"
                ) from error
            log.info("engine open", engine=engine.name, precision=engine.precision)
            self._pipelines[lease.bundle_digest] = Pipeline(
                bundle.manifest, engine, self._decoders, self._settings.batch_size
            )
        return self._pipelines[lease.bundle_digest]


class _EngineNotOpened(EngineError):
    """The engine refused before it saw a capture, so no capture is to blame."""


def cache_folder(settings: Settings) -> Path:
    """Where compiled engines are kept; created for this user alone."""
    folder = settings.cache_dir or user_cache_path("slide-screen", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@cache
def get_process() -> WorkerProcess:
    """The process's own state, opened at the first chunk."""
    return WorkerProcess(get_settings())
