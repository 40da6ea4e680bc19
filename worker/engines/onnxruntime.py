"""ONNX Runtime: on an NVIDIA device where onnxruntime-gpu finds one, otherwise on any CPU; always in float32."""

import onnxruntime

from contract.bundle import MODEL, Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.names import one_line
from contract.onnx_session import OnnxSession
from worker.engines.base import DeviceMemoryFull, EngineOptions, Pending

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
        # The library's default on a GPU rounds float32 to 10 bits of mantissa (TF32).
        preferred = [(_CUDA, {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
        available = onnxruntime.get_available_providers()
        providers = [(name, choices) for name, choices in preferred if name in available]
        try:
            self._session = OnnxSession(bundle.read(MODEL), bundle.manifest.outputs, providers=providers)
        except Exception as error:  # the library derives its errors from Exception and documents no root
            raise EngineError(f"ONNX Runtime cannot load bundle {bundle.digest[:12]}: {one_line(error)}") from error
        on_gpu = self._session.provider == _CUDA  # where no device answers, the library falls back to the CPU
        self.device = "CUDA" if on_gpu else "CPU"
        self.shares_cores = not on_gpu
        if missing := self._session.missing():
            raise EngineError(
                f"bundle {bundle.digest[:12]}: its graph has no tensor {', '.join(sorted(missing))}; export again"
            )

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        return ["float32"]

    def start(self, batch: RGBImage) -> Pending:
        try:
            predictions = self._session.predict(batch)
        except Exception as error:  # no common class of errors, see above
            kind = DeviceMemoryFull if any(word in str(error).lower() for word in _MEMORY) else EngineError
            raise kind(f"ONNX Runtime failed on a batch of {len(batch)}: {one_line(error)}") from error
        return lambda: predictions

    def close(self) -> None:
        del self._session
