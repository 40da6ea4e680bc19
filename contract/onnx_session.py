"""A bundle's graph in ONNX Runtime: the reference of the trainer, and an engine of the worker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from contract.bundle import Outputs
from contract.predictions import Predictions

_CPU = [("CPUExecutionProvider", dict[str, str]())]


class OnnxSession:
    """An open graph. `providers` are the library's names with their options, the preferred first; the last one that
    answers computes. The library derives its errors from Exception, with no common class.
    """

    def __init__(
        self, graph: Path | bytes, names: Outputs, *, providers: Sequence[tuple[str, dict[str, str]]] = _CPU,
        keep_casts: bool = False,
    ) -> None:  # fmt: skip
        """Open a file or a serialised graph; `keep_casts` computes each node as it stands, without optimising."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it logs of an error is in the exception too, which we print
        if keep_casts:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(graph, options, providers=list(providers))
        self.names = names
        self._outputs = [names.probabilities, names.embedding, *([names.cam] if names.cam else [])]

    @property
    def provider(self) -> str:
        """The name of the provider that computes."""
        return str(self._session.get_providers()[0])

    def missing(self) -> set[str]:
        """The tensors that the manifest names and the graph does not have."""
        ports = (*self._session.get_inputs(), *self._session.get_outputs())
        return {self.names.input, *self._outputs} - {port.name for port in ports}

    def width(self, output: str) -> int:
        """Number of columns of an output [N, columns]."""
        (columns,) = (port.shape[1] for port in self._session.get_outputs() if port.name == output)
        return int(columns)

    def predict(self, batch: NDArray[np.uint8]) -> Predictions:
        """All outputs for captures uint8 [N, S, S, 3]."""
        probabilities, embedding, *cam = self._run(self._outputs, batch)
        return Predictions(probabilities, cam[0] if cam else None, embedding)

    def probabilities(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities [N, L] alone, for captures uint8 [N, S, S, 3]."""
        (probabilities,) = self._run([self.names.probabilities], batch)
        return np.asarray(probabilities, np.float32)

    def _run(self, outputs: list[str], batch: NDArray[np.uint8]) -> list[Any]:
        return list(self._session.run(outputs, {self.names.input: np.ascontiguousarray(batch)}))
