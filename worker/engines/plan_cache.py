"""A cache of compiled engines, called plans; a plan is loaded only where every condition matches.

A plan is code for one kind of device. It is read only from a folder that belongs to the worker's user and that no other
user can write to. Its head names everything that it was built from and for, and its digest. A plan that differs in
anything, even in a single bit, is built again.
"""

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from contract.errors import EngineError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class PlanKey:
    """Everything that a plan depends on.

    `graph` is the digest of the bundle's file that it computes. `target` is the device: for TensorRT its compute
    capability and, with the library `tensorrt`, also its name; for OpenVINO the processor.
    """

    bundle: str
    graph: str
    library: str
    version: str
    target: str
    precision: str
    max_batch: int
    settings: str = ""
    """Other settings of the build that change its predictions."""

    @property
    def file_name(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        target = re.sub(r"\W+", "-", self.target.split("/")[0]).strip("-")
        return f"{self.bundle[:12]}-{target}-{self.precision}-{self.max_batch}-{digest[:16]}.plan"


def plan_folder(cache_dir: Path, library: str) -> Path:
    """The folder of a library's plans, made for this user only. Raises EngineError where others could write to it."""
    folder = cache_dir / library
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(folder, folder.lstat(), stat.S_ISDIR)
    return folder


def _refuse_foreign(path: Path, status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EngineError(
            f"{path}: a plan is code, and this does not belong to the worker's user or others can write to it; "
            f"remove it, or set SCREEN_CACHE_DIR to a folder of user {os.geteuid()}"
        )


def read_plan(file: Path, key: PlanKey) -> bytes | None:
    """The plan in this file; None where there is none, where it is damaged, or where it has another key.

    Raises EngineError where another user owns the file or could have written it.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:  # for example a link
        raise EngineError(f"{file}: the plan cannot be opened ({error.strerror}); remove it") from error
    with os.fdopen(handle, "rb") as stream:
        _refuse_foreign(file, os.fstat(handle), stat.S_ISREG)
        head, plan = stream.readline(), stream.read()
    if head != _head(key, plan):
        log.warning("a plan does not match and is built anew", file=file.name)
        return None
    return plan


def write_plan(file: Path, key: PlanKey, plan: bytes) -> None:
    """Keep the plan, whole or not at all, for this user only; without room on the disk it is built again next time."""
    keep_own(file, _head(key, plan) + plan)


def keep_own(file: Path, content: bytes) -> None:
    """Write a cache file; without room on the disk it is made again next time."""
    try:
        write_own(file, content)
    except OSError as error:
        log.warning("a cache file is not kept", file=file.name, error=error.strerror)


def _head(key: PlanKey, plan: bytes) -> bytes:
    return json.dumps({**asdict(key), "sha256": hashlib.sha256(plan).hexdigest()}, sort_keys=True).encode() + b"\n"


def write_own(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, for this user only."""
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:  # made with mode 0600
        written = Path(stream.name)
        try:
            stream.write(content)
            stream.flush()
            written.replace(file)
        except BaseException:
            written.unlink()
            raise


def read_own(file: Path) -> bytes:
    """A cache file that the library made (timings, compiled kernels); empty where there is none. Raises EngineError."""
    if not file.exists():
        return b""
    _refuse_foreign(file, file.lstat(), stat.S_ISREG)
    return file.read_bytes()
