"""The exported graph: made from torch as ONNX, with weights in half precision if asked for; ONNX Runtime runs it."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import Outputs
from contract.errors import ExportError
from contract.onnx_session import OnnxSession
from contract.predictions import Predictions
from trainer.model import HALF_MAX, Exportable

OPSET = 20
TEMPERATURE = "temperature"
"""Name of the buffer of `Exportable`, and of the constant in its graph."""
HALF_ABOVE = 1024
"""Kernels with at most this many elements stay float32 in a half-precision bundle; biases always do, being small."""
BATCH = 16
"""Captures that ONNX Runtime takes at a time; 32 do not fit the caches of two cores and take 1.5 times as long."""
TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


def export_graph(exportable: Exportable, size: int, file: Path, *, half: bool) -> None:
    """Write `exportable` as one ONNX file with a free batch dimension, input uint8 [N, size, size, 3].

    `half` stores large weights as float16, each followed by a cast; arithmetic stays float32. Round the weights to half
    precision before, so that their values do not change here. Raises ExportError.
    """
    names = graph_outputs(exportable)
    outputs = [name for name in (names.probabilities, names.embedding, names.first_stage, names.cam) if name]
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    talkative = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in talkative]
    for logger in talkative:
        logger.setLevel(logging.ERROR)
    try:
        # The exporter prints to stdout, which is for data.
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
        for logger, level in zip(talkative, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]  # stack traces of the exporting machine
    if half:
        store_half(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, file)


def set_temperature(file: Path, temperature: float) -> None:
    """Replace the temperature of the graph in `file`. Raises ExportError where the graph has none of its own.

    The exporter leaves a division by 1 out, and shares one constant between all places that need the same number.
    """
    model = onnx.load(file)
    users = [node.op_type for node in model.graph.node if TEMPERATURE in node.input]
    if users != ["Div"]:
        raise ExportError(f"the graph in {file} has no temperature of its own to set (users: {users})")
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == TEMPERATURE)
    tensor.CopyFrom(numpy_helper.from_array(np.array(temperature, np.float32), TEMPERATURE))
    onnx.save_model(model, file)


def store_half(model: onnx.ModelProto) -> None:
    """Replace every large float32 matrix and kernel of the graph by float16 and a cast back, in place."""
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


def graph_outputs(exportable: Exportable) -> Outputs:
    """Names of the graph's tensors; they include cam only if there is an exact activation map."""
    return Outputs(cam="cam" if exportable.has_cam else None, first_stage="first_stage")


class GraphRunner:
    """The graph in ONNX Runtime on the CPU, batch by batch: the reference that every engine is compared with."""

    def __init__(self, graph: Path | bytes, names: Outputs) -> None:
        """Open a file that the trainer is writing, or the bytes of a bundle's graph."""
        self._session = OnnxSession(graph, names)
        self.names = names

    def probabilities(self, captures: NDArray[np.uint8]) -> NDArray[np.float64]:
        """uint8 [N, S, S, 3] -> calibrated probabilities [N, L]."""
        return np.concatenate([self._session.probabilities(batch) for batch in _cut(captures)]).astype(np.float64)

    def predict(self, captures: NDArray[np.uint8], advance: Callable[[int], None] | None = None) -> Predictions:
        """uint8 [N, S, S, 3], perhaps a memory map -> all outputs, computed batch by batch."""
        parts = []
        for batch in _cut(captures):
            parts.append(self._session.predict(batch))
            if advance is not None:
                advance(len(batch))
        return Predictions.joined(parts)


def _cut(captures: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [captures[start : start + BATCH] for start in range(0, len(captures), BATCH)]
