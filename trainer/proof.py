"""Writes into a bundle's folder what every engine must reproduce: the expected results of the golden captures, and the
hidden captures with theirs. All results come from the exported float32 graph. contract/proof.py describes the files.
"""

import io
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.bundle import EXPECTED, EXPECTED_ARRAYS, GOLDEN, MODEL, Bundle, GoldenCapture, GoldenSet, Manifest
from contract.decisions import Decision, decide
from contract.imaging import decode
from contract.novelty import read_novelty
from contract.predictions import Predictions
from contract.proof import FILE, Expected, decoded, golden_expected, open_hidden, write_hidden
from contract.quality import measure
from contract.reproduction import MOST_CHANGED, Figures, failures, figures
from trainer.graph import GraphRunner

HIDDEN_CAPTURES = 300
"""One decision of these may differ; with this many, 98 in 100 such sets detect a precision that changes 2 %."""
MOST_BYTES = 3_000_000
JPEG_QUALITIES = (92, 85, 75, 60, 45)
"""The first at which all hidden captures fit into MOST_BYTES is used; if none fits, the last, with fewer captures."""


def spread(
    rows: NDArray[np.int64], labels: Sequence[Hashable], groups: Sequence[Hashable], count: int, seed: int
) -> list[int]:
    """Choose at most `count` of `rows`: labels take turns, and within a label so do groups, as far as there are any.

    `labels` and `groups` are those of the rows, in the same order. Labels take turns in the order of their names.
    """
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    queues: dict[Hashable, list[tuple[int, int]]] = {label: [] for label in sorted(set(labels), key=str)}
    seen: dict[Hashable, int] = {}
    for place in shuffled.tolist():  # the first capture of every group comes before the second of any group
        label_and_group = (labels[place], groups[place])
        seen[label_and_group] = seen.get(label_and_group, -1) + 1
        queues[labels[place]].append((seen[label_and_group], int(rows[place])))
    ordered = [[row for _, row in sorted(queue, key=lambda ranked: ranked[0])] for queue in queues.values()]
    longest = max(map(len, ordered), default=0)
    return [queue[turn] for turn in range(longest) for queue in ordered if turn < len(queue)][:count]


def write_expectations(folder: Path, manifest: Manifest, captures: NDArray[np.uint8]) -> None:
    """Write golden/expected.json, golden/expected.npz and proof.npz of the bundle in `folder`, replacing older ones.

    The folder must already hold model.onnx, reference.npz and the golden files that expected.json lists. `manifest` has
    the reference, outputs and case policy that decisions are made with; its digests do not matter yet. `captures`,
    uint8 [N, S, S, 3], become the hidden captures: a few hundred validation captures, chosen with `spread`, the
    most needed first. Call this again whenever graph, reference or case policy changes, before `write_manifest`.
    """
    bundle = Bundle.unfinished(folder, manifest)
    runner = GraphRunner(folder / MODEL, manifest.outputs)
    names = [capture.file for capture in bundle.golden_set().captures]
    golden = np.stack([decode(bundle.read(f"{GOLDEN}/{name}"), manifest.image).pixels for name in names])
    expected, marks = _expected(bundle, runner, golden)
    golden_captures = [
        GoldenCapture(
            file=name,
            probabilities=expected.probabilities[i].tolist(),
            novelty=None if expected.novelty is None else float(expected.novelty[i]),
            marks=marks[i],
        )
        for i, name in enumerate(names)
    ]
    (folder / EXPECTED).write_text(
        GoldenSet(captures=golden_captures).model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    assert expected.embedding is not None
    maps = {} if expected.cam is None else {"cam": expected.cam}
    np.savez(folder / EXPECTED_ARRAYS, allow_pickle=False, embedding=expected.embedding, **maps)
    if len(captures):
        encoded = as_jpeg(captures)
        jpeg, ends = np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(content) for content in encoded])
        pixels = decoded(jpeg, ends, manifest.image.size)
        write_hidden(folder / FILE, encoded, _expected(bundle, runner, pixels)[0])
    else:
        (folder / FILE).unlink(missing_ok=True)


def as_jpeg(captures: NDArray[np.uint8]) -> list[bytes]:
    """The captures as JPEG without names, at most MOST_BYTES together; if they are too large, only the first."""
    for quality in JPEG_QUALITIES:
        encoded = [_jpeg(capture, quality) for capture in captures]
        if sum(map(len, encoded)) <= MOST_BYTES:
            return encoded
    fitting = int((np.cumsum([len(content) for content in encoded]) <= MOST_BYTES).sum())
    return encoded[: max(1, fitting)]


def half_failures(folder: Path, graph: Path, manifest: Manifest) -> list[str]:
    """The bundle's decisions on golden and hidden captures that a graph in half precision does not reproduce."""
    bundle = Bundle.unfinished(folder, manifest)
    captures = np.stack([decode(content, manifest.image).pixels for content, _ in bundle.golden()])
    runner = GraphRunner(graph, manifest.outputs)
    golden_figures = _compared(bundle, runner, captures, golden_expected(bundle))
    hidden = open_hidden(bundle.read(FILE), manifest.image.size)
    hidden_figures = _compared(bundle, runner, hidden.captures, hidden.expected)
    return [
        *failures(manifest, "float16", golden_figures, "golden"),
        *failures(manifest, "float16", hidden_figures, "hidden", share=MOST_CHANGED),
    ]


def _compared(bundle: Bundle, runner: GraphRunner, captures: NDArray[np.uint8], expected: Expected) -> Figures:
    answers, decisions = _decided(bundle, runner, captures)
    return figures(
        bundle.manifest, "float16", read_novelty(bundle), expected, answers.probabilities, answers.embedding,
        answers.cam, decisions,
    )  # fmt: skip


def _expected(bundle: Bundle, runner: GraphRunner, captures: NDArray[np.uint8]) -> tuple[Expected, list[list[str]]]:
    """The graph's outputs with the decisions that follow from them, and the codes of each capture's marks."""
    answers, decisions = _decided(bundle, runner, captures)
    expected = Expected.of(answers.probabilities, answers.embedding, answers.cam, decisions)
    return expected, [[mark.code.value for mark in decision.marks] for decision in decisions]


def _decided(bundle: Bundle, runner: GraphRunner, captures: NDArray[np.uint8]) -> tuple[Predictions, list[Decision]]:
    answers = runner.predict(captures)
    qualities = [measure(capture) for capture in captures]
    novelty = read_novelty(bundle)
    return answers, decide(bundle.manifest, novelty, answers.probabilities, answers.embedding, qualities)


def _jpeg(capture: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(capture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
