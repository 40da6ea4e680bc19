"""OpenVINO on the CPU: bfloat16 where the processor computes in it, else float32."""

import os

import numpy as np
import openvino

from contract.bundle import MODEL, Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from worker.engines.base import EngineOptions, Predictions

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """See `worker.engines.base.Engine`."""

    name = "openvino"

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self.precision = _choose_precision(options.precision)
        self._outputs = bundle.manifest.outputs
        wanted = {name for name in self._outputs.model_dump().values() if name is not None}
        core = openvino.Core()
        core.set_property({"CACHE_DIR": os.fspath(options.cache_dir / bundle.digest)})
        try:
            self._model = core.compile_model(
                bundle.path / MODEL,
                "CPU",
                {"INFERENCE_PRECISION_HINT": _HINTS[self.precision], "PERFORMANCE_HINT": "LATENCY"},
            )
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile bundle {bundle.digest[:12]}: {error}") from error
        tensors = {name for port in (*self._model.inputs, *self._model.outputs) for name in port.get_names()}
        if missing := wanted - tensors:
            raise EngineError(
                f"bundle {bundle.digest[:12]}: its graph has no tensor {', '.join(sorted(missing))}; export again"
            )

    def infer(self, batch: RGBImage) -> Predictions:
        try:
            results = self._model({self._outputs.input: np.ascontiguousarray(batch)})
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch of {len(batch)}: {error}") from error
        cam = self._outputs.cam
        return Predictions(
            probabilities=results[self._outputs.probabilities],
            cam=None if cam is None else results[cam],
            embedding=results[self._outputs.embedding],
        )


def _choose_precision(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bfloat16" if "BF16" in capabilities else "float32"
