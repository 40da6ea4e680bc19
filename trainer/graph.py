"""The exported graph: torch to ONNX, weights stored in half precision where wanted, and run by ONNX Runtime."""

import contextlib
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import Outputs
from contract.errors import ExportError
from trainer.model import HALF_MAX, Exportable

OPSET = 20
HALF_ABOVE = 1024
"""Elements up to which a kernel stays float32 in a half-precision bundle; biases always do: they weigh nothing."""
BATCH = 32


def export_graph(exportable: Exportable, size: int, file: Path, *, half: bool) -> None:
    """Write `exportable` as one ONNX file with a free batch dimension, input uint8 [N, size, size, 3].

    `half` stores large weights as float16 with a cast behind each; arithmetic stays float32. The weights should have
    been rounded to half before, so that nothing changes here. Raises ExportError.
    """
    names = Outputs()
    outputs = [names.probabilities, str(names.cam), names.embedding]
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        # The exporter talks on stdout, which is for data.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exportable.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[names.input],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds here
        raise ExportError(f"torch cannot export this network at opset {OPSET}: {error}") from error
    finally:
        quiet.setLevel(level)
    assert program is not None
    model = program.model_proto
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]  # stack traces of the exporting machine
    if half:
        store_half(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, file)


def store_half(model: onnx.ModelProto) -> None:
    """Turn every large float32 matrix and kernel of the graph into float16 and a cast back, in place."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2 or values.size <= HALF_ABOVE:
            continue
        name = tensor.name
        half = values.clip(-HALF_MAX, HALF_MAX).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    inner = {cast.output[0] for cast in casts}
    kept = [value for value in graph.value_info if value.name not in inner]
    del graph.value_info[:]
    graph.value_info.extend(kept)


class GraphRunner:
    """The graph in ONNX Runtime on the CPU: the reference that every engine is held against."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.names = Outputs()

    def probabilities(self, captures: NDArray[np.uint8]) -> NDArray[np.float64]:
        """uint8 [N, S, S, 3] -> calibrated probabilities [N, L]; N is one batch."""
        (found,) = self.session.run([self.names.probabilities], {self.names.input: captures})
        return np.asarray(found, dtype=np.float64)

    def outputs(
        self, captures: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """uint8 [N, S, S, 3] -> probabilities [N, L], cam [N, L, h, w], embedding [N, D]."""
        names = [self.names.probabilities, str(self.names.cam), self.names.embedding]
        probabilities, cam, embedding = self.session.run(names, {self.names.input: captures})
        return np.asarray(probabilities), np.asarray(cam), np.asarray(embedding)
