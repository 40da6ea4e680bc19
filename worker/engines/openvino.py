"""OpenVINO on the CPU: bfloat16 where the processor computes in it, otherwise float32.

Each size of batch is compiled separately, which is faster than one model for all (docs/benchmarks.md). A batch is
filled up to the next power of two, so there are few sizes.

In bfloat16 the first stage's part of the embedding comes from a second model: the graph up to this stage, in float32.
Where its channels are near zero, bfloat16 changes their means by as much as captures differ (docs/architecture.md).
"""

from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import structlog

from contract.bundle import MODEL, Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.names import one_line
from contract.predictions import Predictions
from worker.engines.base import EngineOptions, Pending
from worker.engines.plan_cache import PlanKey, plan_folder, read_plan, write_plan

log = structlog.get_logger(__name__)

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_FROM_BYTES = "of the bytes that were hashed"
"""Earlier releases read the graph's file again for each size, so their plans may be of another graph than they say."""


@cache
def _core() -> openvino.Core:
    """The one core of the whole process; it is never given up.

    The core's CPU plugin gives the thread that loads it a signal stack, and restores the previous one when the core
    ends. If two cores do not end in the reverse order of their start, one restores the other's stack, which no longer
    exists. A later crash would then be reported on memory that has another use by then, or not at all.
    """
    return openvino.Core()


class OpenVINOEngine:
    """See `worker.engines.base.Engine`.

    It computes in as many streams as the library chooses. Each stream works on its own batch with a share of the cores,
    so no core waits at the end of a layer for another core that is busy decoding. For the same reason no thread is
    bound to a core.
    """

    name = "openvino"
    shares_cores = True
    max_batch = None

    def __init__(self, bundle: Bundle, precision: str, options: EngineOptions) -> None:
        if precision not in _HINTS:
            raise EngineError(f"OpenVINO computes in {' or '.join(_HINTS)} here, not in {precision}")
        self.precision = precision
        self._outputs = bundle.manifest.outputs
        self._bundle = bundle
        self._graph = bundle.read(MODEL)
        self._cache_dir = options.cache_dir
        self.device = str(_core().get_property("CPU", "FULL_DEVICE_NAME"))
        self._first_stage = self._outputs.first_stage if precision != "float32" else None
        self._idle: dict[int, deque[_Requests]] = {}
        self.depth = 1
        self.depth = int(self._compiled(1).get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["bfloat16", "float32"] if "BF16" in capabilities else ["float32"]

    def _compiled(self, size: int, output: str | None = None) -> Any:
        """The model for batches of this size, from the cache where it was compiled before. It is the whole graph in the
        engine's precision, or, with `output`, the part that leads to this output, in float32. Raises EngineError.
        """
        precision = "float32" if output else self.precision
        graph = self._bundle.manifest.files[MODEL]
        key = PlanKey(
            self._bundle.digest, f"{graph}/{output}" if output else graph, "openvino", openvino.get_version(),
            self.device, precision, size, _FROM_BYTES,
        )  # fmt: skip
        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "ENABLE_CPU_PINNING": False,
        }
        file, plan = self._kept(key)
        try:
            if plan is not None:
                return _core().import_model(plan, "CPU", config)
            compiled = _core().compile_model(self._model(size, output), "CPU", config)
            if file is not None:
                write_plan(file, key, compiled.export_model().getvalue())
            return compiled
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot compile bundle {self._bundle.digest[:12]}: {one_line(error)}"
            ) from error

    def _kept(self, key: PlanKey) -> tuple[Path | None, bytes | None]:
        """Where the model of this key is kept, and the model if it is there. A cache that this user cannot or must not
        use saves only seconds on a CPU: the engine then works without one.
        """
        if self._cache_dir is None:
            return None, None
        try:
            file = plan_folder(self._cache_dir, self.name) / key.file_name
            return file, read_plan(file, key)
        except (EngineError, OSError) as error:
            log.warning("models are compiled each time", reason=str(error))
            self._cache_dir = None
            return None, None

    def _model(self, size: int, output: str | None) -> Any:
        """The bundle's graph for batches of this size, or its part that leads to `output`. Raises EngineError."""
        model = _core().read_model(self._graph)
        names = {name for port in (*model.inputs, *model.outputs) for name in port.get_names()}
        if missing := {name for name in self._outputs.model_dump().values() if name} - names:
            raise EngineError(
                f"bundle {self._bundle.digest[:12]}: its graph has no tensor {', '.join(sorted(missing))}; export again"
            )
        side = self._bundle.manifest.image.size
        model.reshape({self._outputs.input: [size, side, side, 3]})
        if output is None:
            return model
        return openvino.Model([model.output(output).get_node().input_value(0)], model.get_parameters(), output)

    def _requests(self, size: int) -> "deque[_Requests]":
        """The idle requests for batches of this size; made when the size comes for the first time."""
        if size not in self._idle:
            models = [self._compiled(size)]
            if self._first_stage:
                models.append(self._compiled(size, self._first_stage))
            self._idle[size] = deque(
                _Requests([model.create_infer_request() for model in models]) for _ in range(self.depth)
            )
        return self._idle[size]

    def start(self, batch: RGBImage) -> Pending:
        rows = len(batch)
        size = 1 << (rows - 1).bit_length()
        idle = self._requests(size)
        requests = idle.popleft()
        filled = batch if size == rows else np.resize(batch, (size, *batch.shape[1:]))
        filled = np.require(filled, requirements=["C", "W"])  # OpenVINO shares memory only with such an array
        tensor = openvino.Tensor(filled, shared_memory=True)
        try:
            requests.start({self._outputs.input: tensor})
        except RuntimeError as error:
            idle.append(requests)
            raise EngineError(f"OpenVINO failed on a batch of {rows}: {one_line(error)}") from error

        def fetch(_inputs_in_use: object = (tensor, filled)) -> Predictions:  # otherwise their memory might be reused
            try:
                requests.wait()
                return self._read(requests, rows)
            except RuntimeError as error:
                raise EngineError(f"OpenVINO failed on a batch of {rows}: {one_line(error)}") from error
            finally:
                idle.append(requests)

        return fetch

    def close(self) -> None:
        self._idle.clear()

    def _read(self, requests: "_Requests", rows: int) -> Predictions:
        """Copies of the outputs, because the next batch of these requests overwrites their tensors."""
        outputs, request = self._outputs, requests.requests[0]
        answers = Predictions(
            probabilities=request.get_tensor(outputs.probabilities).data[:rows].copy(),
            cam=None if outputs.cam is None else request.get_tensor(outputs.cam).data[:rows].copy(),
            embedding=request.get_tensor(outputs.embedding).data[:rows].copy(),
        )
        if self._first_stage is None:
            return answers
        return answers.with_first_stage(requests.requests[1].get_tensor(self._first_stage).data[:rows])


class _Requests:
    """The requests that compute a batch: of the whole graph and, in bfloat16, of its first stage in float32."""

    def __init__(self, requests: list[Any]) -> None:
        self.requests = requests

    def start(self, inputs: dict[str, Any]) -> None:
        started = []
        try:
            for request in self.requests:
                request.start_async(inputs)
                started.append(request)
        except RuntimeError:
            for request in started:  # they read memory that the caller gives back next
                request.wait()
            raise

    def wait(self) -> None:
        for request in self.requests:
            request.wait()
