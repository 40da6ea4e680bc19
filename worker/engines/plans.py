"""TensorRT plans: built from the bundle's graph, kept in a cache, and loaded only where every condition matches.

A plan is code for one kind of device. It is read only from a folder that belongs to the worker's user and that nobody
else can write; its head names all that it was built from and for, and one that differs in anything is built anew.

`tensorrt` (data-centre devices; builds on the device that it is for) and `tensorrt_rtx` (builds for other devices too,
and without one) share their API. Networks are strongly typed: the graph itself says what is computed in half precision.
"""

import hashlib
import importlib
import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from contract.bundle import HALF_MODEL, MODEL, Bundle
from contract.errors import EngineError
from worker.engines.base import NotUsable

log = structlog.get_logger(__name__)

LIBRARIES = ("tensorrt", "tensorrt_rtx")
GRAPHS = {"float16": HALF_MODEL, "float32": MODEL}
"""precision -> the bundle's file that computes in it."""
DEFAULT_BATCH = 256


@dataclass(frozen=True)
class PlanKey:
    """All that a plan depends on. `target` is the device's compute capability and, for `tensorrt`, its name."""

    bundle: str
    graph: str
    library: str
    version: str
    target: str
    precision: str
    max_batch: int

    @property
    def file_name(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.bundle[:12]}-{self.target.split('/')[0]}-{self.precision}-{self.max_batch}-{digest[:16]}.plan"


def library() -> ModuleType:
    """TensorRT, whichever of the two is installed. Raises NotUsable."""
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise NotUsable(
        f"tensorrt is not installed (neither {' nor '.join(LIBRARIES)}); pip install 'slide-screen[tensorrt]'"
    )


def best_precision(bundle: Bundle) -> str:
    """The fastest precision that the bundle has a graph for."""
    return next(precision for precision, file in GRAPHS.items() if file in bundle.manifest.files)


def plan_key(bundle: Bundle, precision: str, target: str, max_batch: int) -> PlanKey:
    """Raises EngineError where the bundle has no graph of this precision."""
    file = GRAPHS.get(precision)
    digest = bundle.manifest.files.get(file) if file else None
    if digest is None:
        raise EngineError(
            f"bundle {bundle.digest[:12]} has no graph for TensorRT in {precision}; export it with half_graph = true, "
            "or set SCREEN_PRECISION=float32"
        )
    trt = library()
    return PlanKey(bundle.digest, digest, trt.__name__, trt.__version__, target, precision, max_batch)


def obtain(bundle: Bundle, key: PlanKey, cache_dir: Path) -> tuple[bytes, bool]:
    """The plan of this key and whether it came from the cache; else it is built and kept. Raises EngineError."""
    folder = plan_folder(cache_dir)
    plan = read_plan(folder / key.file_name, key)
    if plan is not None:
        return plan, True
    log.info("building TensorRT plan", precision=key.precision, target=key.target, max_batch=key.max_batch)
    plan = build(bundle, key, folder)
    write_plan(folder / key.file_name, key, plan)
    return plan, False


def plan_folder(cache_dir: Path) -> Path:
    """The folder of plans, made for this user alone. Raises EngineError where others could write it."""
    folder = cache_dir / "tensorrt"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(folder, folder.lstat(), stat.S_ISDIR)
    return folder


def _refuse_foreign(path: Path, status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EngineError(
            f"{path}: a TensorRT plan is code, and this is not the worker user's own or others can write it; "
            f"remove it, or set SCREEN_CACHE_DIR to a folder of user {os.geteuid()}"
        )


def read_plan(file: Path, key: PlanKey) -> bytes | None:
    """The plan in this file; None where there is none, or it is damaged, or of another key.

    Raises EngineError where somebody else owns the file or could have written it.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, for one
        raise EngineError(f"{file}: the plan cannot be opened ({error.strerror}); remove it") from error
    with os.fdopen(handle, "rb") as stream:
        _refuse_foreign(file, os.fstat(handle), stat.S_ISREG)
        head, plan = stream.readline(), stream.read()
    if head != _head(key, plan):
        log.warning("a plan does not match and is built anew", file=file.name)
        return None
    return plan


def write_plan(file: Path, key: PlanKey, plan: bytes) -> None:
    """Write the plan whole or not at all, for this user alone."""
    write_own(file, _head(key, plan) + plan)


def _head(key: PlanKey, plan: bytes) -> bytes:
    return json.dumps({**asdict(key), "sha256": hashlib.sha256(plan).hexdigest()}, sort_keys=True).encode() + b"\n"


def write_own(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, for this user alone."""
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:  # made with mode 0600
        stream.write(content)
    Path(stream.name).replace(file)


def read_own(file: Path) -> bytes:
    """A cache file of the library's own (timings, compiled kernels); empty where there is none. Raises EngineError."""
    if not file.exists():
        return b""
    _refuse_foreign(file, file.lstat(), stat.S_ISREG)
    return file.read_bytes()


def build(bundle: Bundle, key: PlanKey, folder: Path) -> bytes:
    """Build the plan of this key. Raises EngineError."""
    trt = library()
    errors = Messages(trt)
    builder = trt.Builder(errors.logger)
    network, _parser = parsed(trt, errors, builder, bundle.path / GRAPHS[key.precision])
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    captures = network.get_input(0)
    least, most = ((n, *captures.shape[1:]) for n in (1, key.max_batch))
    profile.set_shape(captures.name, least, most, most)
    config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    timings = folder / f"timings-{key.version}-{hashlib.sha256(key.target.encode()).hexdigest()[:12]}.cache"
    if trt.__name__ == "tensorrt_rtx":  # it times nothing when it builds, and builds for the device that it is told
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, key.target), 0)
    else:
        config.set_timing_cache(config.create_timing_cache(read_own(timings)), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build bundle {bundle.digest[:12]} for {key.target}: {errors}")
    if trt.__name__ == "tensorrt":
        write_own(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _capability(trt: ModuleType, target: str) -> Any:
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if target.upper() not in known:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} does not build for {target}; it knows "
            f"{', '.join(name.lower() for name in known)}"
        )
    return getattr(trt.ComputeCapability, target.upper())


def parsed(trt: ModuleType, errors: "Messages", builder: Any, graph: Path) -> tuple[Any, Any]:
    """The graph as a strongly typed network, and the parser, which must live as long. Raises EngineError."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, errors.logger)
    if not parser.parse_from_file(os.fspath(graph)):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot read {graph.name} ({reasons}); export the bundle again")
    return network, parser


@dataclass(frozen=True)
class Summary:
    """What a graph asks of TensorRT: its tensors as `name dtype shape`, and its layers by kind and precision."""

    inputs: list[str]
    outputs: list[str]
    layers: dict[str, dict[str, int]]


def summary(bundle: Bundle, precision: str) -> Summary:
    """Parse the graph of this precision and say what is in it; needs no device. Raises EngineError."""
    trt = library()
    errors = Messages(trt)
    builder = trt.Builder(errors.logger)
    network, _parser = parsed(trt, errors, builder, bundle.path / GRAPHS[precision])
    layers: dict[str, Counter[str]] = {}
    for layer in map(network.get_layer, range(network.num_layers)):
        layers.setdefault(layer.type.name, Counter())[layer.get_output(0).dtype.name] += 1
    return Summary(
        [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        {kind: dict(counts) for kind, counts in layers.items()},
    )


def _tensor(tensor: Any) -> str:
    return f"{tensor.name} {tensor.dtype.name} {list(tensor.shape)}"


class Messages:
    """TensorRT's messages: warnings into our log, errors kept for the exception."""

    def __init__(self, trt: ModuleType) -> None:
        found: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    found.append(message)
                elif severity == trt.ILogger.WARNING:
                    log.debug("TensorRT", message=message)

        self.logger = Logger()
        self._found = found

    def __str__(self) -> str:
        return "; ".join(self._found) or "no reason was given"
