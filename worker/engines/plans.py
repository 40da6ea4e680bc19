"""TensorRT plans: built from the bundle's graph, and kept in the cache (worker/engines/plan_cache.py).

`tensorrt` (for data-centre devices; builds only on the device that will use the plan) and `tensorrt_rtx` (builds also
for other devices, and without a device) share their API. Networks are strongly typed: the graph itself says what is
computed in half precision.
"""

import hashlib
import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from contract.bundle import HALF_MODEL, MODEL, Bundle
from contract.errors import EngineError
from contract.names import one_line
from worker.engines.base import NotUsable
from worker.engines.plan_cache import PlanKey, keep_own, plan_folder, read_own, read_plan, write_plan

log = structlog.get_logger(__name__)

FOLDER = "tensorrt"
"""The folder of the plans of both libraries in the cache."""
LIBRARIES = ("tensorrt", "tensorrt_rtx")
GRAPHS = {"float16": HALF_MODEL, "float32": MODEL}
"""precision -> the bundle's graph in this precision."""
DEFAULT_BATCH = 256


def library() -> ModuleType:
    """The first of the two TensorRT libraries that is installed. Raises NotUsable."""
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
    """The key of the plan for these conditions. Raises EngineError where the bundle has no graph in this precision."""
    file = GRAPHS.get(precision)
    digest = bundle.manifest.files.get(file) if file else None
    if digest is None:
        raise EngineError(
            f"bundle {bundle.digest[:12]} has no graph for TensorRT in {precision}; export it with half_graph = true, "
            "or set SCREEN_PRECISION=float32"
        )
    trt = library()
    return PlanKey(bundle.digest, digest, trt.__name__, trt.__version__, target, precision, max_batch, "no TF32")


def obtain(bundle: Bundle, key: PlanKey, cache_dir: Path | None) -> tuple[bytes, bool]:
    """The plan of this key and whether it came from the cache; if not, it is built and kept. Raises EngineError."""
    folder = None if cache_dir is None else plan_folder(cache_dir, FOLDER)
    plan = None if folder is None else read_plan(folder / key.file_name, key)
    if plan is not None:
        return plan, True
    log.info("building TensorRT plan", precision=key.precision, target=key.target, max_batch=key.max_batch)
    plan = build(bundle, key, folder)
    if folder is not None:
        write_plan(folder / key.file_name, key, plan)
    return plan, False


def build(bundle: Bundle, key: PlanKey, folder: Path | None) -> bytes:
    """Build the plan of this key; `folder` keeps the times of kernels that were tried. Raises EngineError."""
    trt = library()
    errors = Messages(trt)
    builder = trt.Builder(errors.logger)
    network, _parser = parsed(trt, errors, builder, bundle, key.precision)
    config = builder.create_builder_config()
    # By default TensorRT rounds the factors of float32 products to 10 bits of mantissa, as many as float16 has.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    captures = network.get_input(0)
    smallest, largest = ((batch, *captures.shape[1:]) for batch in (1, key.max_batch))
    profile.set_shape(captures.name, smallest, largest, largest)
    config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    name = f"timings-{key.version}-{hashlib.sha256(key.target.encode()).hexdigest()[:12]}.cache"
    timings = None if folder is None else folder / name
    if trt.__name__ == "tensorrt_rtx":  # it measures no times when it builds, and needs the name of the target device
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, key.target), 0)
    else:
        config.set_timing_cache(
            config.create_timing_cache(read_own(timings) if timings else b""), ignore_mismatch=False
        )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build bundle {bundle.digest[:12]} for {key.target}: {errors}")
    if trt.__name__ == "tensorrt" and timings is not None:
        keep_own(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _capability(trt: ModuleType, target: str) -> Any:
    capabilities = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if target.upper() not in capabilities:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} does not build for {target}; it knows "
            f"{', '.join(name.lower() for name in capabilities)}"
        )
    return getattr(trt.ComputeCapability, target.upper())


def parsed(trt: ModuleType, errors: "Messages", builder: Any, bundle: Bundle, precision: str) -> tuple[Any, Any]:
    """The graph as a strongly typed network, and its parser, which must live as long. Raises EngineError."""
    graph = GRAPHS[precision]
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, errors.logger)
    if not parser.parse(bundle.read(graph)):
        reasons = one_line("; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors)))
        raise EngineError(f"TensorRT cannot read {graph} ({reasons}); export the bundle again")
    return network, parser


@dataclass(frozen=True)
class Summary:
    """What TensorRT must compute for a graph: its tensors as `name dtype shape`, its layers by kind and precision."""

    inputs: list[str]
    outputs: list[str]
    layers: dict[str, dict[str, int]]


def summary(bundle: Bundle, precision: str) -> Summary:
    """Parse the graph of this precision and say what is in it; needs no device. Raises EngineError."""
    trt = library()
    errors = Messages(trt)
    builder = trt.Builder(errors.logger)
    network, _parser = parsed(trt, errors, builder, bundle, precision)
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
    """TensorRT's messages: warnings go into our log, errors are kept for the exception."""

    def __init__(self, trt: ModuleType) -> None:
        errors: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    errors.append(message)
                elif severity == trt.ILogger.WARNING:
                    log.debug("TensorRT", message=message)

        self.logger = Logger()
        self._errors = errors

    def __str__(self) -> str:
        return one_line("; ".join(self._errors)) or "no reason was given"
