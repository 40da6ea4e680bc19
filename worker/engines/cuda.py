"""The part of CUDA's runtime that an engine needs, through cuda-python, with its error codes as our errors."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import DTypeLike, NDArray

from contract.errors import EngineError
from worker.engines.base import DeviceMemoryFull, NotUsable


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the runtime; returns its value. Raises NotUsable, DeviceMemoryFull or EngineError."""
    code, *values = function(*arguments)
    errors = cudart.cudaError_t
    if code != errors.cudaSuccess:
        text = f"CUDA: {function.__name__} failed with {code.name}"
        if code in (errors.cudaErrorNoDevice, errors.cudaErrorInsufficientDriver, errors.cudaErrorInitializationError):
            raise NotUsable(f"{text}; there is no NVIDIA device, or its driver is too old")
        raise (DeviceMemoryFull if code == errors.cudaErrorMemoryAllocation else EngineError)(text)
    return values[0] if len(values) == 1 else values


@dataclass(frozen=True)
class Device:
    """The device in use: its name, and its compute capability in the form `sm90`."""

    name: str
    sm: str


def open_device() -> Device:
    """Open the current device. Threads that wait for it sleep, so decoders can use the cores. Raises NotUsable."""
    call(cudart.cudaGetDeviceCount)
    call(cudart.cudaSetDeviceFlags, cudart.cudaDeviceScheduleBlockingSync)
    properties = call(cudart.cudaGetDeviceProperties, call(cudart.cudaGetDevice))
    return Device(properties.name.decode(), f"sm{properties.major}{properties.minor}")


def allocate(size: int) -> int:
    """Reserve `size` bytes on the device; returns their address. Raises DeviceMemoryFull."""
    return int(call(cudart.cudaMalloc, size))


def release(address: int) -> None:
    """Free memory that `allocate` reserved."""
    call(cudart.cudaFree, address)


class Buffer:
    """Memory of one tensor: on the device, and pinned on the host, where `host` is its array."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        size = max(shape[0] * self.row_bytes, 1)
        self.device_address = allocate(size)
        try:
            self._host_address = int(call(cudart.cudaHostAlloc, size, cudart.cudaHostAllocDefault))
        except EngineError:
            release(self.device_address)
            raise
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._host_address))
        self.host: NDArray[Any] = raw[: shape[0] * self.row_bytes].view(dtype).reshape(shape)

    def to_device(self, rows: int, stream: Any) -> None:
        """Begin to copy the first `rows` rows."""
        call(cudart.cudaMemcpyAsync, self.device_address, self._host_address, rows * self.row_bytes,
             cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)  # fmt: skip

    def to_host(self, rows: int, stream: Any) -> None:
        """Begin to copy the first `rows` rows back."""
        call(cudart.cudaMemcpyAsync, self._host_address, self.device_address, rows * self.row_bytes,
             cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)  # fmt: skip

    def free(self) -> None:
        """Give the memory back; `host` must not be used afterwards."""
        release(self.device_address)
        call(cudart.cudaFreeHost, self._host_address)


def new_stream() -> Any:
    """A new stream, which waits for no other stream."""
    return call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)


def wait(stream: Any) -> None:
    """Wait until everything begun on the stream is done."""
    call(cudart.cudaStreamSynchronize, stream)


def captured(stream: Any, enqueue: Callable[[], None]) -> Any:
    """Record what `enqueue` begins on the stream; returns one graph, which `launch` starts as a whole."""
    call(cudart.cudaStreamBeginCapture, stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    try:
        enqueue()
    finally:  # a stream that stays in capture mode can never be used again
        graph = call(cudart.cudaStreamEndCapture, stream)
    try:
        return call(cudart.cudaGraphInstantiate, graph, 0)
    finally:
        call(cudart.cudaGraphDestroy, graph)


def launch(graph: Any, stream: Any) -> None:
    """Begin the work of a captured graph."""
    call(cudart.cudaGraphLaunch, graph, stream)
