"""The network: a timm backbone with its normalisation, and the form in which it is exported."""

import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from contract.errors import SettingsError, Unavailable
from trainer.augment import to_unit
from trainer.config import ModelTable

SCRATCH_MEAN, SCRATCH_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HALF_MAX = 65504.0


class Network(nn.Module):
    """float [N, 3, S, S] in 0..1 -> logits [N, labels]. Normalisation is the first step, so that it is exported."""

    backbone: Any  # a timm model: its forward_features and get_classifier are not in nn.Module's type
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.normalise(x))
        return logits


class Exportable(nn.Module):
    """What the bundle's graph computes. uint8 [N, S, S, 3] -> probabilities [N, L], cam [N, L, h, w], embedding [N, D].

    probabilities = softmax(logits / temperature) (Guo et al. 2017). cam is the classifier applied at every place of
    the last feature map (Zhou et al. 2016), bias included: since pooling is a mean and the classifier linear, the mean
    of cam over h and w equals the logit before temperature. embedding is the pooled feature.
    """

    temperature: Tensor

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, captures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        backbone = self.network.backbone
        features = backbone.forward_features(self.network.normalise(to_unit(captures)))
        classifier = backbone.get_classifier()
        embedding = features.mean(dim=(2, 3))
        logits = F.linear(embedding, classifier.weight, classifier.bias)
        cam = F.conv2d(features, classifier.weight[:, :, None, None], classifier.bias)
        return torch.softmax(logits / self.temperature, dim=1), cam, embedding


def build_network(table: ModelTable, labels: int) -> Network:
    """A network for so many labels with the initial weights of the recipe.

    Raises SettingsError for an unknown architecture, a file that does not fit or a head without an activation map,
    Unavailable when ImageNet weights cannot be downloaded: never a silent fallback.
    """
    backbone = _backbone(table, labels)
    classifier = backbone.get_classifier()
    if isinstance(classifier, nn.Linear):  # else _check_head says so
        # timm's is made for a thousand labels: with four, the first logits would be tens and the first loss 7.
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
    if table.initial_weights == "none":
        network = Network(backbone, SCRATCH_MEAN, SCRATCH_STD)
    else:
        network = Network(backbone, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])
    if table.initial_weights not in ("none", "imagenet"):
        _load_file(network, Path(table.initial_weights))
    _check_head(network, table.architecture)
    return network


def _backbone(table: ModelTable, labels: int) -> Any:
    pretrained = table.initial_weights == "imagenet"
    try:
        return timm.create_model(
            table.architecture,
            pretrained=pretrained,
            num_classes=labels,
            drop_rate=table.dropout,
            drop_path_rate=table.drop_path,
        )
    except (RuntimeError, TypeError) as error:
        if pretrained and not _names_architecture(table.architecture):
            raise SettingsError(f"model.architecture: timm knows no {table.architecture!r}") from error
        if pretrained:
            raise _no_download(table) from error
        raise SettingsError(f"model.architecture: timm cannot build {table.architecture!r} ({error})") from error
    except Exception as error:  # the hub, its HTTP client and the resolver each raise their own
        if not pretrained:
            raise
        raise _no_download(table) from error


def _names_architecture(name: str) -> bool:
    return bool(timm.is_model(name.split(".")[0]))


def _no_download(table: ModelTable) -> Unavailable:
    return Unavailable(
        f"ImageNet weights of {table.architecture} cannot be downloaded (no way to the Hugging Face hub?); set "
        'model.initial_weights to a file of weights, or to "none" to train from scratch'
    )


def _load_file(network: Network, file: Path) -> None:
    """Weights from model.safetensors of a bundle, or of the bare backbone; a classifier of other labels is left out."""
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except Exception as error:
        raise SettingsError(
            f"model.initial_weights: {file} cannot be read as safetensors ({error}); "
            'use "imagenet", "none" or a .safetensors file'
        ) from error
    if not any(name.startswith("backbone.") for name in state):
        state = {f"backbone.{name}": value for name, value in state.items()}
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    result = network.load_state_dict(fitting, strict=False)
    classifier = {id(parameter) for parameter in network.backbone.get_classifier().parameters()}
    mine = {**dict(network.named_parameters()), **dict(network.backbone.named_buffers(prefix="backbone"))}
    lacking = [
        name
        for name in result.missing_keys
        if name in mine and id(mine[name]) not in classifier and not name.endswith("num_batches_tracked")
    ]
    if lacking:
        raise SettingsError(f"model.initial_weights: {file} has no fitting {lacking[0]}; it is of another architecture")


@torch.no_grad()
def _check_head(network: Network, architecture: str) -> None:
    """The activation map is exact only behind global average pooling and one linear layer: try it."""
    was_training = network.training
    network.eval()
    captures = torch.randint(0, 256, (1, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        cam = Exportable(network, 1.0)(captures)[1]
        exact = torch.allclose(cam.mean(dim=(2, 3)), network(to_unit(captures)), atol=1e-3, rtol=1e-3)
    except (RuntimeError, AttributeError, TypeError, IndexError, AssertionError):
        exact = False
    network.train(was_training)
    if not exact:
        raise SettingsError(
            f"model.architecture: {architecture} does not end in average pooling and one linear layer, and has no "
            "exact activation map; choose another, efficientnet_b3 for one"
        )


def round_to_half(network: nn.Module) -> None:
    """Round every matrix and kernel in place to the nearest that half precision holds; arithmetic stays float32."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(parameter.clamp(-HALF_MAX, HALF_MAX).half().float())


def parameter_count(network: nn.Module) -> int:
    """Number of weights."""
    return sum(math.prod(p.shape) for p in network.parameters())
