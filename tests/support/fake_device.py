"""A device that is none: the parts of CUDA's runtime and of TensorRT that our engine calls, computing with NumPy.

Copies and launches wait in their stream until somebody synchronises, as on a device, so that a buffer that is reused
too early, a result that is read too soon, or a graph captured in the wrong order gives wrong answers here, too.
"""

import ctypes
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda.bindings import runtime

from tests.support.bundles import SIZE, expected

SHAPES = {"captures": (-1, SIZE, SIZE, 3), "probabilities": (-1, 4), "cam": (-1, 4, 4, 4), "embedding": (-1, 3)}
MEMORY_PER_CAPTURE = 1000
"""Bytes of activations."""


class FakeStream:
    made: dict[int, "FakeStream"] = {}

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.handle = len(FakeStream.made) + 1
        FakeStream.made[self.handle] = self

    def __int__(self) -> int:
        return self.handle

    def add(self, work: Callable[[], None]) -> None:
        (self.waiting if self.capturing is None else self.capturing).append(work)


class FakeCUDA:
    """Stands for the module `cuda.bindings.runtime`. `capacity` is the device's memory in bytes."""

    cudaError_t = runtime.cudaError_t
    cudaMemcpyKind = runtime.cudaMemcpyKind
    cudaStreamCaptureMode = runtime.cudaStreamCaptureMode
    cudaDeviceScheduleBlockingSync = runtime.cudaDeviceScheduleBlockingSync
    cudaHostAllocDefault = runtime.cudaHostAllocDefault
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking

    def __init__(self, capacity: float = math.inf) -> None:
        self.capacity = capacity
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.launches = 0
        self.ok = runtime.cudaError_t.cudaSuccess

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self.ok, 1

    def cudaSetDeviceFlags(self, flags: int) -> tuple[Any, ...]:
        return (self.ok,)

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return self.ok, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self.ok, SimpleNamespace(name=b"Fake device", major=8, minor=6)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if sum(map(len, self.device.values())) + size > self.capacity:
            return runtime.cudaError_t.cudaErrorMemoryAllocation, None
        return self.ok, self._new(self.device, size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self.ok, self._new(self.host, size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.device[address]
        return (self.ok,)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.host[address]
        return (self.ok,)

    def _new(self, where: dict[int, Any], size: int) -> int:
        memory = (ctypes.c_uint8 * size)()
        where[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Any, stream: FakeStream) -> tuple[Any, ...]:
        stream.add(lambda: ctypes.memmove(to, source, size) and None)
        return (self.ok,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self.ok, FakeStream()

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[Any, ...]:
        assert stream.capturing is None
        for work in stream.waiting:
            work()
        stream.waiting.clear()
        return (self.ok,)

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: Any) -> tuple[Any, ...]:
        stream.capturing = []
        return (self.ok,)

    def cudaStreamEndCapture(self, stream: FakeStream) -> tuple[Any, ...]:
        graph, stream.capturing = stream.capturing, None
        return self.ok, graph

    def cudaGraphInstantiate(self, graph: list[Callable[[], None]], flags: int) -> tuple[Any, ...]:
        return self.ok, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return (self.ok,)

    def cudaGraphLaunch(self, graph: list[Callable[[], None]], stream: FakeStream) -> tuple[Any, ...]:
        self.launches += 1
        for work in graph:
            stream.add(work)
        return (self.ok,)


class FakeContext:
    """An execution context of the colour bundle. What it works on is taken when it runs, by address."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.memory = 0
        self.rows = 0

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert shape[1:] == SHAPES[name][1:]
        self.rows = shape[0]
        return True

    def execute_async_v3(self, stream: int) -> bool:
        rows = self.rows  # a captured graph keeps the shape that it was captured with
        FakeStream.made[stream].add(lambda: self._compute(rows))
        return True

    def _compute(self, rows: int) -> None:
        assert self.memory
        captures = self._array("captures", rows, np.uint8)
        self._array("probabilities", rows)[:] = [expected(one) for one in captures]
        self._array("cam", rows)[:] = captures.mean((1, 2, 3))[:, None, None, None]
        self._array("embedding", rows)[:] = captures.mean((1, 2))

    def _array(self, name: str, rows: int, dtype: Any = np.float32) -> np.ndarray:
        shape = (rows, *SHAPES[name][1:])
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raw = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)


class FakeEngine:
    num_io_tensors = len(SHAPES)

    def __init__(self, max_batch: int) -> None:
        self.device_memory_size_v2 = max_batch * MEMORY_PER_CAPTURE
        self.contexts = 0

    def get_tensor_name(self, index: int) -> str:
        return list(SHAPES)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return np.uint8 if name == "captures" else np.float32

    def create_execution_context(self, how: Any) -> FakeContext:
        self.contexts += 1
        return FakeContext()


def fake_tensorrt() -> Any:
    """Stands for the module `tensorrt`. A plan is the largest batch that it was built for, as text."""
    return SimpleNamespace(
        __name__="tensorrt",
        __version__="0",
        nptype=lambda dtype: dtype,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
        ILogger=type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine(int(plan))),
    )
