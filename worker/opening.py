"""Opens a run's bundle with an engine, before any capture is read: nothing that fails here is a capture's fault."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import structlog

from contract.bundle_signature import require_signature
from contract.errors import EngineError, ScreeningError
from contract.names import one_line
from contract.novelty import read_novelty
from contract.settings import Settings
from db.lease import Lease
from worker.bundles import find_bundle
from worker.cache import cache_folder
from worker.chunk_end import EngineNotOpened
from worker.engines.base import EngineOptions
from worker.engines.proving import prove_sizes
from worker.engines.registry import open_engine
from worker.pipeline import Pipeline
from worker.recorder import FlightRecorder
from worker.tuning import Tuning, tune

log = structlog.get_logger(__name__)

GRACE_S = 10
"""A process that cannot end itself at its time limit, because native code holds the interpreter, is ended after this.
"""


def open_pipeline(settings: Settings, lease: Lease, recorder: FlightRecorder) -> tuple[Pipeline, Tuning]:
    """The pipeline of the lease's bundle, proved and tuned. Raises BundleError, EngineNotOpened.

    The recorder knows meanwhile that the engine is being opened, in case this ends the process.
    """
    with recorder.opening_engine(settings.open_seconds + GRACE_S):
        try:
            return _opened(settings, lease, recorder)
        except EngineError as error:
            raise EngineNotOpened(one_line(error, 2000)) from error
        except ScreeningError:
            raise
        except OSError as error:
            raise EngineNotOpened(
                f"the engine cannot be opened ({error}); if that is about its cache, set SCREEN_CACHE_DIR to a folder "
                "that the worker's user may write to"
            ) from error
        except MemoryError as error:
            raise EngineNotOpened(
                f"opening the engine takes more memory than SCREEN_MEMORY_MIB={settings.memory_mib} allows"
            ) from error
        except Exception as error:
            log.exception("engine not opened")
            kind = type(error).__name__  # its text could contain anything, for example a path
            raise EngineNotOpened(f"{kind} while the engine was opened; see the worker's log") from error


def _opened(settings: Settings, lease: Lease, recorder: FlightRecorder) -> tuple[Pipeline, Tuning]:
    bundle = find_bundle(lease.bundle_digest, Path(lease.bundle_path), settings.bundle_dir)
    require_signature(bundle, settings.trusted_keys)
    novelty = read_novelty(bundle)
    options = EngineOptions(settings.engine, settings.precision, cache_folder(settings), settings.batch_size)
    engine, proof = open_engine(bundle, options)
    log.info(
        "engine open", engine=engine.name, precision=engine.precision, device=engine.device,
        golden=proof.golden.captures, largest_difference=round(proof.golden.probability, 6),
        hidden=proof.hidden and asdict(proof.hidden),
    )  # fmt: skip
    try:
        tuning = tune(engine, bundle, settings)
        prove_sizes(engine, bundle, tuning.batch_size)
    except BaseException:
        engine.close()  # otherwise each try would take as much of the device's memory again
        raise
    decoders = ThreadPoolExecutor(tuning.decoders, thread_name_prefix="decoder")
    return Pipeline(bundle.manifest, engine, decoders, tuning.batch_size, recorder, novelty), tuning
