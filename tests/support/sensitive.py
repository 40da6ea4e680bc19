"""A bundle whose first stage bfloat16 spoils and whose labels it keeps, as with tf_efficientnet_lite2, untrained.

The colours of tests.support.bundles decide the label. The first stage has two channels, differences of large numbers:
they lie near zero, and the rounding of their weights moves them by more than captures of a label differ.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import (
    EXPECTED,
    GOLDEN,
    MODEL,
    Bundle,
    Calibration,
    GoldenCapture,
    GoldenSet,
    Manifest,
    Outputs,
    write_manifest,
)
from contract.case_policy import CasePolicy
from contract.imaging import ImageSpec
from tests.support.archives import COLOURS
from tests.support.bundles import EXCLUDE, LABELS, SIZE, graph
from trainer.graph import GraphRunner
from trainer.proof import as_jpeg, write_expectations
from trainer.reference import take_reference

FIRST = np.array([[50, -50.2, 0.1], [0.1, 70, -70.3]], np.float32).reshape(2, 3, 1, 1)
Pixels = NDArray[np.uint8]


def shaded(count: int, seed: int, *, strange: float = 0.0) -> tuple[Pixels, NDArray[np.int64]]:
    """Captures in the labels' colours, uint8 [N, 64, 64, 3], each lighter or darker, and their labels, in turn.

    `strange` adds so much of a colour cast, in grey levels, as no other capture has.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(LABELS)
    colours = np.array([COLOURS[LABELS[label]] for label in labels], float)
    colours += rng.uniform(-20, 20, (count, 1)) + np.array([strange, -strange, 0.0])
    noise = rng.normal(0, 6, (count, SIZE, SIZE, 3))
    return np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8), labels


def sensitive_bundle(folder: Path, *, named: bool, stored: bool) -> Bundle:
    """Write it to `folder`. `named`: the first stage is an output; `stored`: it says what is decided about captures, as
    bundles of earlier releases do not.
    """
    (folder / GOLDEN).mkdir(parents=True)
    onnx.save(_graph(), folder / MODEL)
    runner = GraphRunner(folder / MODEL, Outputs(first_stage="first_stage" if named else None))
    (train, targets), (validation, _) = shaded(400, 1), shaded(240, 2)
    golden, _ = shaded(8, 3)
    files = [f"{number:03d}.jpg" for number in range(len(golden))]
    for name, data in zip(files, as_jpeg(golden), strict=True):
        (folder / GOLDEN / name).write_bytes(data)
    known, held_out = runner.predict(train), runner.predict(validation)
    found = take_reference(
        folder, (2, 3), train, np.arange(len(train)), known.embedding, targets, held_out.embedding,
        1 - held_out.probabilities[:, 0],
    )  # fmt: skip
    manifest = Manifest(
        name="sensitive",
        labels=LABELS,
        benign_label="Benign",
        image=ImageSpec(size=SIZE),
        outputs=runner.names,
        calibration=Calibration(temperature=1.0),
        case_policy=CasePolicy(benign_at_most=0.4, all_at_least=0.6, exclude=EXCLUDE),
        reference={"novelty": found["novelty"]},
        files={MODEL: ""},
    )
    probabilities = runner.predict(golden).probabilities
    described = [GoldenCapture(file=f, probabilities=p.tolist()) for f, p in zip(files, probabilities, strict=True)]
    (folder / EXPECTED).write_text(GoldenSet(captures=described).model_dump_json(exclude_none=True))
    if stored:
        write_expectations(folder, manifest, validation)
    return write_manifest(folder, manifest)


def _graph() -> onnx.ModelProto:
    """That of the colours; embedding [N, 5] begins with the first stage [N, 2], which is an output, too."""
    model = graph()
    made = model.graph
    for node in made.node:
        if list(node.output) == ["embedding"]:
            node.output[0] = "colour"
    made.initializer.append(numpy_helper.from_array(FIRST, "first"))
    made.node.extend(
        [
            helper.make_node("Conv", ["nchw", "first"], ["differences"]),
            helper.make_node("ReduceMean", ["differences", "space"], ["first_stage"], keepdims=0),
            helper.make_node("Concat", ["first_stage", "colour"], ["embedding"], axis=1),
        ]
    )
    kept = [value for value in made.output if value.name != "embedding"]
    del made.output[:]
    made.output.extend(kept)
    for name, width in (("first_stage", 2), ("embedding", 5)):
        made.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]))
    onnx.checker.check_model(model, full_check=True)
    return model
