"""bfloat16 where no processor computes in it: a graph that rounds as OpenVINO would, run by ONNX Runtime in float32.

OpenVINO keeps weights and what passes between layers in bfloat16 and sums up in float32; what follows the last
convolution or matrix product on the way to an output stays float32. So each of these tensors is rounded to the nearest
bfloat16 (ties to even) and put back. The order of sums and fused layers differ from a processor's: a figure of this
emulation is of the size of the real one, never equal to it.
"""

from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import MODEL, Bundle
from contract.imaging import RGBImage
from contract.onnx_session import OnnxSession
from worker.engines.base import EngineOptions, Pending
from worker.engines.onnxruntime import ONNXRuntimeEngine

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
BIAS = 2
"""Place of the bias among the inputs of a product; it is added to the float32 sum."""


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest bfloat16 of each finite value, ties to even: the upper 16 bits of a float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    kept = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)
    return kept.view(np.float32).reshape(values.shape)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, rounding to bfloat16 wherever a bfloat16 engine would; its inputs and outputs keep their names."""
    made = onnx.shape_inference.infer_shapes(model)
    graph = made.graph
    floats = {
        value.name
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    exact = _tails(graph)
    _round_constants(graph, exact)
    outputs = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in floats or name in exact or name in outputs:
                continue
            raw, short = f"{name}.raw", f"{name}.bfloat16"
            node.output[place] = raw
            nodes.append(helper.make_node("Cast", [raw], [short], to=TensorProto.BFLOAT16))
            nodes.append(helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return made


def _tails(graph: onnx.GraphProto) -> set[str]:
    """Tensors between the outputs and the products above them."""
    makers = {name: node for node in graph.node for name in node.output}
    waiting = [value.name for value in graph.output]
    tails: set[str] = set()
    while waiting:
        name = waiting.pop()
        maker = makers.get(name)
        if maker is None or maker.op_type in PRODUCTS or name in tails:
            continue
        tails.add(name)
        waiting.extend(maker.input)
    return tails


def _round_constants(graph: onnx.GraphProto, exact: set[str]) -> None:
    biases = {node.input[BIAS] for node in graph.node if node.op_type in PRODUCTS and len(node.input) > BIAS}
    of_tails = {name for node in graph.node if set(node.output) & exact for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in biases | of_tails:
            tensor.CopyFrom(numpy_helper.from_array(rounded(numpy_helper.to_array(tensor)), tensor.name))


class EmulatedBfloat16Engine:
    """Stands in for OpenVINO on a processor with bfloat16; in float32 it is ONNX Runtime. As there, the first stage is
    computed in float32 where the bundle names it. See `worker.engines.base.Engine`.
    """

    name = "emulated"
    device = "CPU"
    shares_cores = True
    depth = 1
    max_batch = None
    opened: ClassVar[list["EmulatedBfloat16Engine"]] = []

    def __init__(self, bundle: Bundle, precision: str, options: EngineOptions) -> None:
        self.precision = precision
        self.closed = False
        self._exact = ONNXRuntimeEngine(bundle, "float32", options)
        self._session: OnnxSession | None = None
        if precision == "bfloat16":
            graph = emulated(onnx.load_from_string(bundle.read(MODEL))).SerializeToString()
            self._session = OnnxSession(graph, bundle.manifest.outputs, keep_casts=True)
        EmulatedBfloat16Engine.opened.append(self)

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        return ["bfloat16", "float32"]

    def start(self, batch: RGBImage) -> Pending:
        if self._session is None:
            return self._exact.start(batch)
        answers = self._session.predict(batch)
        if (first_stage := self._session.names.first_stage) is not None:
            width = self._session.width(first_stage)
            answers = answers.with_first_stage(self._exact.start(batch)().embedding[:, :width])
        return lambda: answers

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self._exact.close()
