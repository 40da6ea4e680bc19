"""TensorRT on NVIDIA devices, with either library, `tensorrt` or `tensorrt_rtx`.

There are two slots, each with its own stream, execution context and pinned buffers: while one computes, the other
copies.
"""

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import structlog
from numpy.typing import DTypeLike

from contract.bundle import Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.predictions import Predictions
from worker.engines import cuda, plan_cache, plans
from worker.engines.base import DeviceMemoryFull, EngineOptions, Pending

log = structlog.get_logger(__name__)

SLOTS = 2
GRAPH_AFTER = 2
"""Batches of one size that a slot runs without a graph before it captures a CUDA graph for this size. A size that does
not come again, for example the last batch of a chunk, is not worth the capture."""
MAX_GRAPHS = 4


class TensorRTEngine:
    """See `worker.engines.base.Engine`."""

    name = "tensorrt"
    shares_cores = False
    depth = SLOTS

    def __init__(self, bundle: Bundle, precision: str, options: EngineOptions) -> None:
        self.precision = precision
        self._trt = plans.library()
        device = cuda.open_device()
        self.device = device.name
        self._target = _target(self._trt, device)
        self._names = bundle.manifest.outputs
        self._reasons = plans.Messages(self._trt)
        self._runtime = self._trt.Runtime(self._reasons.logger)
        self.max_batch = options.batch_size or plans.DEFAULT_BATCH
        while True:
            try:
                self._open(bundle, options.cache_dir)
                return
            except DeviceMemoryFull as error:
                if self.max_batch == 1:
                    raise
                self.max_batch //= 2
                log.warning("device memory is full; trying a smaller batch", error=str(error), batch=self.max_batch)

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        own_target()
        return [precision for precision, file in plans.GRAPHS.items() if file in bundle.manifest.files]

    def _open(self, bundle: Bundle, cache_dir: Path | None) -> None:
        key = plans.plan_key(bundle, self.precision, self._target, self.max_batch)
        plan, was_kept = plans.obtain(bundle, key, cache_dir)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"TensorRT cannot load the plan of bundle {bundle.digest[:12]} for {self.device}: {self._reasons}"
            )
        log.info("TensorRT plan loaded", device=self.device, max_batch=self.max_batch, from_cache=was_kept)
        self._check_tensors(bundle, engine)
        self._engine = engine
        kept = None if cache_dir is None else plan_cache.plan_folder(cache_dir, plans.FOLDER)
        contexts = _Contexts(self._trt, engine, kept and kept / f"{key.file_name}.kernels")
        self._idle: list[_Slot] = []
        try:
            for _ in range(SLOTS):
                self._idle.append(_Slot(contexts, self._tensors(engine)))
            self._idle[0].run(np.zeros(self._shape(engine, self._names.input), np.uint8))()
        except DeviceMemoryFull:
            self.close()
            raise
        contexts.keep_kernels()

    def _check_tensors(self, bundle: Bundle, engine: Any) -> None:
        tensors = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        if missing := {name for name in self._names.model_dump().values() if name} - tensors:
            raise EngineError(
                f"bundle {bundle.digest[:12]}: its graph has no tensor {', '.join(sorted(missing))}; export again"
            )

    def _shape(self, engine: Any, name: str) -> tuple[int, ...]:
        return (self.max_batch, *tuple(engine.get_tensor_shape(name))[1:])

    def _tensors(self, engine: Any) -> "dict[str, tuple[str, tuple[int, ...], DTypeLike]]":
        """role -> the tensor's name, largest shape and type."""
        roles = {role: name for role, name in self._names.model_dump().items() if name}
        types = {role: np.dtype(self._trt.nptype(engine.get_tensor_dtype(name))) for role, name in roles.items()}
        return {role: (name, self._shape(engine, name), types[role]) for role, name in roles.items()}

    def start(self, batch: RGBImage) -> Pending:
        slot = self._idle.pop()
        try:
            fetch = slot.run(batch)
        except EngineError:
            self._idle.append(slot)
            raise

        def fetch_and_free_slot() -> Predictions:
            try:
                return fetch()
            finally:
                self._idle.append(slot)

        return fetch_and_free_slot

    def close(self) -> None:
        for slot in self._idle:
            slot.free()
        self._idle.clear()


def own_target() -> str:
    """The `target` of plans for the device in this machine. Raises NotUsable."""
    return _target(plans.library(), cuda.open_device())


def _target(trt: ModuleType, device: cuda.Device) -> str:
    """`tensorrt` chooses kernels by their time on the device, so its plans are for exactly this kind of device."""
    return device.sm if trt.__name__ == "tensorrt_rtx" else f"{device.sm}/{device.name}"


class _Contexts:
    """Makes execution contexts. `tensorrt_rtx` compiles its kernels on the device; the file `kernels` keeps them."""

    def __init__(self, trt: Any, engine: Any, kernels: Path | None) -> None:
        self._engine, self._kernels = engine, kernels
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._cache: Any = None
        self._config: Any = None
        self.memory_bytes = max(int(engine.device_memory_size_v2), 1)
        """Memory that one context needs for the activations of the largest batch."""
        if trt.__name__ == "tensorrt_rtx":
            self._config = engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(self._strategy)
            self._cache = self._config.create_runtime_cache()
            if kernels is not None and (stored := plan_cache.read_own(kernels)):
                self._cache.deserialize(stored)  # the library refuses kernels of another device or release
            self._config.set_runtime_cache(self._cache)

    def new(self, memory: int, addresses: dict[str, int]) -> Any:
        """A context that works in `memory` and on the tensors at these addresses."""
        context = self._engine.create_execution_context(self._config or self._strategy)
        if context is None:
            raise EngineError("TensorRT cannot create an execution context")
        context.set_device_memory(memory, self.memory_bytes)
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        return context

    def keep_kernels(self) -> None:
        if self._cache is not None and self._kernels is not None:
            plan_cache.keep_own(self._kernels, bytes(self._cache.serialize()))


class _Slot:
    """Buffers, stream and contexts of one batch under way.

    Each graph is captured in its own context, which nothing changes afterwards, because replaying the graph would then
    be undefined. All contexts of a slot share one block of memory, because only one of them computes at a time.
    """

    def __init__(self, contexts: _Contexts, tensors: dict[str, tuple[str, tuple[int, ...], DTypeLike]]) -> None:
        self._contexts = contexts
        self._input, self._row_shape = tensors["input"][0], tensors["input"][1][1:]
        self._memory: int | None = None
        self._buffers: dict[str, cuda.Buffer] = {}
        self._seen: Counter[int] = Counter()
        self._graphs: dict[int, tuple[Any, Any]] = {}
        try:
            self._memory = cuda.allocate(contexts.memory_bytes)
            for role, (_, shape, dtype) in tensors.items():
                self._buffers[role] = cuda.Buffer(shape, dtype)
        except EngineError:
            self.free()
            raise
        self._addresses = {name: self._buffers[role].device_address for role, (name, _, _) in tensors.items()}
        self._stream = cuda.new_stream()
        self._plain = self._context()

    def run(self, batch: RGBImage) -> Pending:
        """Begin with a batch; returns the function that waits for its predictions."""
        rows = len(batch)
        self._buffers["input"].host[:rows] = batch
        if self._seen[rows] == GRAPH_AFTER and len(self._graphs) < MAX_GRAPHS:
            self._capture(rows)
        self._seen[rows] += 1
        if rows in self._graphs:
            cuda.launch(self._graphs[rows][1], self._stream)
        else:
            self._enqueue(self._plain, rows)
        return lambda: self._fetch(rows)

    def _context(self) -> Any:
        assert self._memory is not None
        return self._contexts.new(self._memory, self._addresses)

    def _enqueue(self, context: Any, rows: int) -> None:
        self._buffers["input"].to_device(rows, self._stream)
        context.set_input_shape(self._input, (rows, *self._row_shape))
        if not context.execute_async_v3(int(self._stream)):
            raise EngineError(f"TensorRT failed on a batch of {rows}")
        for role, buffer in self._buffers.items():
            if role != "input":
                buffer.to_host(rows, self._stream)

    def _capture(self, rows: int) -> None:
        """Capture a graph: one launch instead of hundreds. A network that cannot be captured runs without one."""
        context = self._context()
        try:
            self._enqueue(context, rows)  # the library sets a context up during its first run
            cuda.wait(self._stream)
            self._graphs[rows] = context, cuda.captured(self._stream, lambda: self._enqueue(context, rows))
        except EngineError as error:
            log.info("no CUDA graph for this batch", batch=rows, reason=str(error))

    def _fetch(self, rows: int) -> Predictions:
        cuda.wait(self._stream)
        outputs = {role: buffer.host[:rows].copy() for role, buffer in self._buffers.items() if role != "input"}
        return Predictions(outputs["probabilities"], outputs.get("cam"), outputs["embedding"])

    def free(self) -> None:
        """Give the memory back, for a smaller batch."""
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        if self._memory is not None:
            cuda.release(self._memory)
            self._memory = None
