"""ONNX Runtime: on NVIDIA where onnxruntime-gpu finds a device, else on any CPU; always in float32."""

import numpy as np
import onnxruntime

from contract.bundle import MODEL, Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from worker.engines.base import DeviceMemoryFull, EngineOptions, Pending, Predictions

_CUDA = "CUDAExecutionProvider"
_MEMORY = ("out of memory", "failed to allocate", "bfcarena")


class ONNXRuntimeEngine:
    """See `worker.engines.base.Engine`. A batch is computed when it is started."""

    name = "onnxruntime"
    precision = "float32"
    depth = 1
    max_batch = None

    def __init__(self, bundle: Bundle, precision: str, options: EngineOptions) -> None:
        if precision != "float32":
            raise EngineError(f"ONNX Runtime computes the bundle in float32, not in {precision}")
        names = bundle.manifest.outputs
        self._input = names.input
        self._wanted = [names.probabilities, names.embedding, *([names.cam] if names.cam else [])]
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        # By itself it would round float32 to 10 bits of mantissa on the GPU.
        wanted = [(_CUDA, {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
        providers = [one for one in wanted if one[0] in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(bundle.path / MODEL, settings, providers=providers)
        except Exception as error:  # the library derives its errors from Exception and documents no root
            raise EngineError(f"ONNX Runtime cannot load bundle {bundle.digest[:12]}: {error}") from error
        on_gpu = self._session.get_providers()[0] == _CUDA  # it falls back by itself where no device answers
        self.device = "CUDA" if on_gpu else "CPU"
        self.shares_cores = not on_gpu
        tensors = {port.name for port in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := {self._input, *self._wanted} - tensors:
            raise EngineError(
                f"bundle {bundle.digest[:12]}: its graph has no tensor {', '.join(sorted(missing))}; export again"
            )

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        return ["float32"]

    def start(self, batch: RGBImage) -> Pending:
        try:
            probabilities, embedding, *cam = self._session.run(self._wanted, {self._input: np.ascontiguousarray(batch)})
        except Exception as error:  # as above
            kind = DeviceMemoryFull if any(word in str(error).lower() for word in _MEMORY) else EngineError
            raise kind(f"ONNX Runtime failed on a batch of {len(batch)}: {error}") from error
        found = Predictions(probabilities, cam[0] if cam else None, embedding)
        return lambda: found

    def close(self) -> None:
        del self._session
