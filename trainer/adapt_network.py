"""A bundle's network with batch-norm statistics of other captures, exported again; its weights stay as they are.

AdaBN (Li et al. 2016, "Revisiting Batch Normalization For Practical Domain Adaptation"): every batch norm normalises by
the new captures' statistics. Mixed with the parent's by how many there are (Schneider et al. 2020, "Improving
robustness against common corruptions by covariate shift adaptation", equation 3): n / (n + N) of theirs.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from contract.bundle import EXPECTED, HALF_MODEL, MODEL, Bundle, GoldenCapture, GoldenSet
from contract.errors import BundleError
from contract.imaging import decode
from trainer.augment import to_unit
from trainer.config import Config, load_config
from trainer.export import WEIGHTS, check_agreement, write_half_graph
from trainer.fold import folded
from trainer.graph import GraphRunner, export_graph
from trainer.model import Exportable, Network, build_network, round_to_half

CONFIG = "config.toml"
PARENTS_WORTH = 256
"""N above: so many captures is what the parent's own statistics count as."""


def rebuilt(bundle: Bundle) -> tuple[Config, Network]:
    """The recipe and the trained network of a bundle. Raises BundleError where it does not carry both."""
    for name in (WEIGHTS, CONFIG):
        if name not in bundle.manifest.files:
            raise BundleError(
                f"bundle {bundle.path} has no {name}, and batch norms cannot be adapted without it; "
                "use --network keep, or train with export.weights = true"
            )
    config = load_config(bundle.path / CONFIG)
    table = config.model.model_copy(update={"initial_weights": "none"})
    network = build_network(table, len(config.data.labels))
    try:
        network.load_state_dict(load_file(bundle.path / WEIGHTS))
    except RuntimeError as error:
        raise BundleError(
            f"bundle {bundle.path}: {WEIGHTS} does not fit the network of its {CONFIG}; export it again"
        ) from error
    return config, network.eval()


@torch.no_grad()
def adapt_batch_norms(network: Network, batches: Iterable[NDArray[np.uint8]]) -> float:
    """Mix the statistics of captures, batches uint8 [N, S, S, 3], into every batch norm, in place; returns their share.

    All other layers stay in the mode that they are screened in, dropout among them.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    before = [(one.running_mean.clone(), one.running_var.clone(), one.momentum) for one in norms]  # type: ignore[union-attr]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, rather than one that forgets
        norm.train()
    count = 0
    for batch in batches:
        network(to_unit(torch.from_numpy(batch)))
        count += len(batch)
    share = count / (count + PARENTS_WORTH)
    for norm, (mean, variance, momentum) in zip(norms, before, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(mean, 1 - share)
        norm.running_var.lerp_(variance, 1 - share)
        norm.momentum = momentum
    network.eval()
    return share


def export_adapted(network: Network, config: Config, bundle: Bundle, folder: Path) -> None:
    """Write graph, weights and golden answers of the adapted `network` over those of `bundle` in `folder`, its copy.

    The temperature stays the parent's. Raises ExportError where torch and graph disagree.
    """
    manifest, half = bundle.manifest, config.export.precision == "half"
    deployed = folded(network, manifest.image.size)
    if half:
        round_to_half(deployed)
    temperature = manifest.calibration.temperature
    exportable = Exportable(deployed, temperature, config.export.test_time_flips).eval()
    export_graph(exportable, manifest.image.size, folder / MODEL, half=half)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only
    check_agreement(exportable, GraphRunner(folder / MODEL, manifest.outputs), _golden_pixels(bundle))
    retake_golden(bundle, folder)
    if HALF_MODEL in manifest.files:
        write_half_graph(exportable, manifest.image, folder)


def retake_golden(bundle: Bundle, folder: Path) -> None:
    """Write what the graph in `folder` answers to the golden captures; they stay the parent's, with known labels."""
    expected = GoldenSet.model_validate_json((folder / EXPECTED).read_bytes())
    probabilities = GraphRunner(folder / MODEL, bundle.manifest.outputs).probabilities(_golden_pixels(bundle))
    golden = [
        GoldenCapture(file=one.file, probabilities=row.tolist())
        for one, row in zip(expected.captures, probabilities, strict=True)
    ]
    (folder / EXPECTED).write_text(GoldenSet(captures=golden).model_dump_json(indent=1) + "\n", encoding="utf-8")


def _golden_pixels(bundle: Bundle) -> NDArray[np.uint8]:
    return np.stack([decode(data, bundle.manifest.image).pixels for data, _ in bundle.golden()])
