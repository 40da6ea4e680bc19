"""The network for measuring throughput: EfficientNet-B3 at 300 px, as in the thesis, and a bundle of it.

Its backbone has random weights, its batch norms have seen captures, and its last layer is fitted on their features.
Arithmetic and activations are therefore like those of a trained network, but its answers have no value. Speed does not
depend on weights, but on how often the network is undecided, because close calls are computed again in float32. The
network therefore favours the first label just enough to be undecided about as often as a trained network.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from contract.bundle import (
    EXPECTED,
    GOLDEN,
    HALF_MODEL,
    MODEL,
    Bundle,
    Calibration,
    GoldenCapture,
    GoldenSet,
    Manifest,
    write_manifest,
)
from contract.case_policy import CasePolicy
from contract.imaging import ImageSpec, decode
from trainer.augment import to_unit
from trainer.config import ModelTable
from trainer.fold import folded
from trainer.graph import GraphRunner, export_graph, graph_outputs
from trainer.model import Exportable, HalfBackbone, Network, build_network

LABELS = ["Benign", "Early", "Pre", "Pro"]
IMAGE = ImageSpec(size=300, resampling="linear", jpeg_oversampling=1.25)
"""As in the recipe `ours`."""
ARCHITECTURE = "efficientnet_b3"
CLOSE_CALLS = 0.05
"""Share of the fitted captures on which the network is undecided. For other captures it is smaller, and is shown with
the figures; the demo bundle is undecided on 8 %, and wrong on 8 %.
"""
UNDECIDED = np.log(0.325 / 0.225)
"""If the first logit exceeds three equal ones by this, the two highest probabilities differ by 0.1."""
FITTED_ON, GOLDEN_CAPTURES = 64, 8


def make_network(archive: Path) -> Network:
    """The network in eval mode; the same archive of `screen synth` always gives the same network."""
    torch.manual_seed(0)
    network = build_network(ModelTable(architecture=ARCHITECTURE, initial_weights="none"), len(LABELS))
    files, targets = _spread(archive, FITTED_ON)
    pixels = torch.from_numpy(np.stack([decode(file.read_bytes(), IMAGE).pixels for file in files]))
    with torch.inference_mode():
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain mean over the following batches
                module.reset_running_stats()
        for start in range(0, len(pixels), 16):
            network.pooled(to_unit(pixels[start : start + 16]))
        network.eval()
        features = np.concatenate([network.pooled(to_unit(batch)).numpy() for batch in pixels.split(16)])
    mean, std = features.mean(0), features.std(0) + 1e-6
    regression = LogisticRegression(C=1e-3, max_iter=2000).fit((features - mean) / std, targets)
    weight = regression.coef_ / std
    bias = regression.intercept_ - weight @ mean
    logits = features @ weight.T + bias
    bias[0] += UNDECIDED - np.quantile(logits[:, 0] - logits[:, 1:].max(1), CLOSE_CALLS)
    with torch.no_grad():
        network.head.classifier.weight.copy_(torch.from_numpy(weight))
        network.head.classifier.bias.copy_(torch.from_numpy(bias))
    return network


def make_bundle(folder: Path, network: Network, archive: Path) -> Bundle:
    """A bundle of the network with both graphs and golden captures; an existing one is opened."""
    if (folder / "bundle.json").exists():
        return Bundle.open(folder)
    (folder / GOLDEN).mkdir(parents=True)
    exportable = Exportable(folded(network, IMAGE.size), 1.0).eval()
    export_graph(exportable, IMAGE.size, folder / MODEL, half=False)
    runner = GraphRunner(folder / MODEL, graph_outputs(exportable))
    golden = []
    for number, file in enumerate(_spread(archive, GOLDEN_CAPTURES)[0]):
        data = file.read_bytes()
        (folder / GOLDEN / f"{number:03d}.jpg").write_bytes(data)
        probabilities = runner.probabilities(decode(data, IMAGE).pixels[None])[0]
        golden.append(GoldenCapture(file=f"{number:03d}.jpg", probabilities=probabilities.tolist()))
    (folder / EXPECTED).write_text(GoldenSet(captures=golden).model_dump_json(), encoding="utf-8")
    exportable.network.backbone = HalfBackbone(exportable.network.backbone)
    export_graph(exportable, IMAGE.size, folder / HALF_MODEL, half=False)
    manifest = Manifest(
        name="benchmark",
        notice="A network of random weights, only for benchmarks: its answers mean nothing.",
        labels=LABELS,
        benign_label=LABELS[0],
        image=IMAGE,
        outputs=runner.names,
        calibration=Calibration(temperature=1.0),
        case_policy=CasePolicy(benign_at_most=0.4, all_at_least=0.6),
        files={MODEL: ""},
    )
    return write_manifest(folder, manifest)


def _spread(archive: Path, count: int) -> tuple[list[Path], list[int]]:
    """Captures spread over the archive, with the numbers of their labels."""
    with (archive / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    return [archive / row["path"] for row in chosen], [LABELS.index(row["label"]) for row in chosen]
