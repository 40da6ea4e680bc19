"""OpenVINO on the CPU: bfloat16 where the processor computes in it, else float32."""

import os
from typing import Any

import numpy as np
import openvino

from contract.bundle import MODEL, Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from worker.engines.base import EngineOptions, Pending, Predictions

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """See `worker.engines.base.Engine`.

    It computes in as many streams as the library thinks best: each works on a batch of its own with a share of the
    cores, so no core waits at the end of a layer for one that is busy decoding.
    """

    name = "openvino"
    shares_cores = True
    max_batch = None

    def __init__(self, bundle: Bundle, precision: str, options: EngineOptions) -> None:
        if precision not in _HINTS:
            raise EngineError(f"OpenVINO computes in {' or '.join(_HINTS)} here, not in {precision}")
        self.precision = precision
        self._outputs = bundle.manifest.outputs
        wanted = {name for name in self._outputs.model_dump().values() if name is not None}
        core = openvino.Core()
        core.set_property({"CACHE_DIR": os.fspath(options.cache_dir / bundle.digest)})
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        try:
            self._model = core.compile_model(
                bundle.path / MODEL,
                "CPU",
                {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "THROUGHPUT"},
            )
            self.depth = int(self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._idle = [self._model.create_infer_request() for _ in range(self.depth)]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile bundle {bundle.digest[:12]}: {error}") from error
        tensors = {name for port in (*self._model.inputs, *self._model.outputs) for name in port.get_names()}
        if missing := wanted - tensors:
            raise EngineError(
                f"bundle {bundle.digest[:12]}: its graph has no tensor {', '.join(sorted(missing))}; export again"
            )

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["bfloat16", "float32"] if "BF16" in capabilities else ["float32"]

    def start(self, batch: RGBImage) -> Pending:
        request = self._idle.pop()
        tensor = openvino.Tensor(np.ascontiguousarray(batch), shared_memory=True)
        try:
            request.start_async({self._outputs.input: tensor})
        except RuntimeError as error:
            self._idle.append(request)
            raise EngineError(f"OpenVINO failed on a batch of {len(batch)}: {error}") from error

        def fetch() -> Predictions:
            try:
                request.wait()
                return self._read(request)
            except RuntimeError as error:
                raise EngineError(f"OpenVINO failed on a batch of {len(batch)}: {error}") from error
            finally:
                self._idle.append(request)

        return fetch

    def _read(self, request: Any) -> Predictions:
        """Copies: the request's own tensors are overwritten by its next batch."""
        outputs = self._outputs
        return Predictions(
            probabilities=request.get_tensor(outputs.probabilities).data.copy(),
            cam=None if outputs.cam is None else request.get_tensor(outputs.cam).data.copy(),
            embedding=request.get_tensor(outputs.embedding).data.copy(),
        )
