"""The folder where the workers of one user on this machine keep compiled engines and flight records."""

from functools import cache
from pathlib import Path

import structlog

from contract.caches import find_cache
from contract.settings import Settings

log = structlog.get_logger(__name__)


def cache_folder(settings: Settings) -> Path | None:
    """The cache folder; None where there is none, and nothing is kept. If it is not the one that was meant, the log
    says so, once for a worker: its processes are forked after its parent has asked.
    """
    return _found(settings.cache_dir)


@cache
def _found(chosen: Path | None) -> Path | None:
    found = find_cache(chosen)
    if found.problem is not None:
        log.warning(f"{found.problem}; SCREEN_CACHE_DIR names another")
    return found.folder
