"""A bundle without training: a real ONNX graph that tells captures apart by their colour.

Purple is Pro, blue is Pre, green is Early, everything else Benign: what a capture is called can be read off its path.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import EXPECTED, GOLDEN, MODEL, Bundle, Calibration, GoldenCapture, GoldenSet, Manifest
from contract.bundle import write_manifest as write
from contract.case_policy import CasePolicy
from contract.imaging import ImageSpec, decode
from contract.states import MarkCode
from tests.support.archives import COLOURS, jpeg

LABELS = ["Benign", "Early", "Pre", "Pro"]
SIZE = 64
EXCLUDE = (MarkCode.OUT_OF_FOCUS, MarkCode.EMPTY_FIELD, MarkCode.NOVEL)
"""As by default, but a plain colour counts, although it has no nucleated cell."""
_SHARPNESS = 40.0


def _centres() -> tuple[np.ndarray, np.ndarray]:
    """A linear layer that is highest where the mean colour is nearest to a label's: w.x - |w|^2/2, scaled."""
    centres = np.array([COLOURS[label] for label in LABELS], dtype=np.float32) / 255
    return _SHARPNESS * centres, -_SHARPNESS * 0.5 * (centres**2).sum(1)


def graph() -> onnx.ModelProto:
    """uint8 [N, 64, 64, 3] -> probabilities [N, 4], cam [N, 4, 4, 4], embedding [N, 3]."""
    weight, bias = _centres()
    constants = {
        "scale": np.array(1 / 255, np.float32),
        "weight": weight.reshape(4, 3, 1, 1),
        "bias": bias.astype(np.float32),
        "space": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["captures"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["features"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Conv", ["features", "weight", "bias"], ["cam"]),
        helper.make_node("ReduceMean", ["cam", "space"], ["logits"], keepdims=0),
        helper.make_node("ReduceMean", ["features", "space"], ["embedding"], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("captures", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", 4, 4, 4]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def expected(pixels: np.ndarray) -> np.ndarray:
    """What the graph answers, computed with NumPy: softmax of the linear layer of the mean colour."""
    weight, bias = _centres()
    logits = pixels.reshape(-1, 3).mean(0) / 255 @ weight.T + bias
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def colour_bundle(folder: Path, *, name: str = "colours", min_captures: int = 1) -> Bundle:
    """Write the bundle into `folder`."""
    (folder / GOLDEN).mkdir(parents=True)
    onnx.save(graph(), folder / MODEL)
    image = ImageSpec(size=SIZE)
    golden = []
    for number, label in enumerate(LABELS):
        data = jpeg(label, seed=number)
        file = f"{number:03d}.jpg"
        (folder / GOLDEN / file).write_bytes(data)
        golden.append(GoldenCapture(file=file, probabilities=expected(decode(data, image).pixels).tolist()))
    (folder / EXPECTED).write_text(GoldenSet(captures=golden).model_dump_json())
    manifest = Manifest(
        name=name,
        notice="A bundle of the tests: it knows four colours.",
        labels=LABELS,
        benign_label="Benign",
        image=image,
        calibration=Calibration(temperature=1.0),
        case_policy=CasePolicy(benign_at_most=0.4, all_at_least=0.6, min_captures=min_captures, exclude=EXCLUDE),
        files={MODEL: ""},
    )
    return write(folder, manifest)
