"""The network: a timm backbone with its normalisation, and the form that is exported."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from contract.errors import SettingsError
from trainer import weights
from trainer.augment import to_unit
from trainer.config import ModelTable
from trainer.stain import NORMALISATIONS, cells

SCRATCH_MEAN, SCRATCH_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HALF_MAX = 65504.0
PROBE = (96, 96)
"""Height and width of the image that a backbone is tried on; inception_v3 takes 75 px or more."""


class DenseHead(nn.Module):
    """The reference paper's head: dense, batch norm, LeakyReLU, dropout, dense (Ghaderzadeh et al. 2022)."""

    def __init__(self, features: int, width: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(features, width)
        self.norm = nn.BatchNorm1d(width)
        self.act = nn.LeakyReLU(0.01)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, labels)

    def hidden(self, features: Tensor) -> Tensor:
        return self.act(self.norm(self.dense(features)))

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.hidden(features)))


class LinearHead(nn.Module):
    """Dropout and one linear layer."""

    def __init__(self, features: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, labels)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(features))


class HalfBackbone(nn.Module):
    """A backbone that computes in half precision after its first stage; its inputs and outputs are float32.

    The first stage stays float32, because its channels may be near zero and differ little between captures, so rounding
    would move their means as much as they differ (contract/novelty.py); and no network spends much time on it. A run on
    a blank capture finds its layers. Every other layer converts its inputs to half precision.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        exact = _first_stage(backbone)
        self.backbone = backbone
        for layer in _layers(backbone):
            if layer not in exact:
                layer.half().register_forward_pre_hook(_halved)

    def forward_intermediates(self, x: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        last, stages = self.backbone.forward_intermediates(x, indices=indices)
        return last.float(), [stage.float() for stage in stages]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.backbone.forward_head(x).float()


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if not list(layer.children())]


def _halved(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.half() if isinstance(value, Tensor) and value.is_floating_point() else value for value in inputs)


@torch.no_grad()
def _first_stage(backbone: Any) -> set[nn.Module]:
    """The layers that run until the end of the first stage."""
    ran: set[nn.Module] = set()
    hooks = [layer.register_forward_pre_hook(lambda layer, _: ran.add(layer)) for layer in _layers(backbone)]
    backbone.forward_intermediates(torch.zeros(1, 3, *PROBE), indices=[0], stop_early=True, intermediates_only=True)
    for hook in hooks:
        hook.remove()
    return ran


class Trunk(nn.Module):
    """The first `stages` stages of a timm model, pooled by the mean; has the interface of timm's models."""

    def __init__(self, model: Any, stages: int) -> None:
        super().__init__()
        self.last = stages - 1
        model.prune_intermediate_layers([self.last], prune_norm=True)
        self.model = model
        self.pretrained_cfg = model.pretrained_cfg

    def forward_intermediates(self, x: Tensor, indices: list[int], **options: Any) -> Any:
        """float [N, 3, S, S] -> the maps of the last stage and of the stages `indices`; `options` are those of timm."""
        if options:
            return self.model.forward_intermediates(x, indices=indices, **options)
        stages = sorted({*indices, self.last})
        maps = self.model.forward_intermediates(x, indices=stages, intermediates_only=True, stop_early=True)
        return maps[-1], [maps[stages.index(index)] for index in indices]

    def forward_features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.forward_intermediates(x, [])[0]
        return maps

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Network(nn.Module):
    """float [N, 3, S, S] in 0..1 -> logits [N, labels]. All colour handling is inside, so that it is exported.

    `backbone` is a timm model without classifier. With several normalisations, or a second input, the same backbone
    sees several views of the capture, and `head` gets the features of all views in one row. `mapped` says whether the
    backbone's pooled feature is the mean of its last feature map, found by one trial run; if so, a linear head has an
    exact activation map.
    """

    backbone: Any  # a timm model; nn.Module's type lacks its forward_features
    head: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float], table: ModelTable
    ) -> None:
        super().__init__()
        self.frozen = False
        self.backbone = backbone
        self.head = head
        self.two_inputs = table.second_input == "hsv"
        self.normalisations = table.stain_normalisation
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.mapped = isinstance(head, LinearHead) and _pools_by_mean(backbone)

    def views(self, x: Tensor) -> list[Tensor]:
        """The backbone's inputs: the capture in each normalisation, and with a second input also each one segmented."""
        views = [NORMALISATIONS[name](x) for name in self.normalisations]
        if self.two_inputs:
            cell_mask = cells(x)
            views += [view * cell_mask for view in views]
        return [(view - self.mean) / self.std for view in views]

    @property
    def view_count(self) -> int:
        """Number of views of a capture that the backbone sees."""
        return len(self.normalisations) * (2 if self.two_inputs else 1)

    def pooled(self, x: Tensor) -> Tensor:
        """float [N, 3, S, S] in 0..1 -> the pooled features of all views, [N, F]."""
        return self._side_by_side(self.backbone(torch.cat(self.views(x))))

    def staged(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """float [N, 3, S, S] in 0..1 -> for all views, `statistics` of the first stage's feature maps [N, G], the
        pooled features [N, F] and, only where `mapped`, the last feature maps [N, F, h, w].
        """
        last, (first,) = self.backbone.forward_intermediates(torch.cat(self.views(x)), indices=[0])
        shallow = self._side_by_side(statistics(first))
        if not self.mapped:
            return shallow, self._side_by_side(self.backbone.forward_head(last)), None
        maps = self._side_by_side(last)
        return shallow, maps.mean(dim=(2, 3)), maps

    def _side_by_side(self, features: Tensor) -> Tensor:
        """Put the features of all views of a capture into one row.

        All views go through the backbone as one batch. Otherwise, batch norms would train on the statistics of each
        view but keep a mixture of them, which fits no view when the network serves.
        """
        return features.unflatten(0, (self.view_count, -1)).transpose(0, 1).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pooled(x))
        return logits

    def freeze(self, frozen: bool) -> None:
        """Freeze the backbone, or let it learn; when frozen, its batch norms keep their statistics too."""
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def statistics(maps: Tensor) -> Tensor:
    """Feature maps [N, C, h, w] -> each one's mean, deviation, and mean absolute difference of neighbours, [N, 3 C].

    The mean follows colour, the other two texture: by means alone, drawings of many stains lie as widely scattered as
    real smears, and hardly a smear is novel to a network that knows only drawings (docs/benchmarks.md).
    """
    mean = maps.mean(dim=(2, 3))
    deviation = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3)).sqrt()
    across = (maps[..., 1:] - maps[..., :-1]).abs().mean(dim=(2, 3))
    down = (maps[..., 1:, :] - maps[..., :-1, :]).abs().mean(dim=(2, 3))
    return torch.cat([mean, deviation, (across + down) / 2], dim=1)


class Exportable(nn.Module):
    """The computation of the bundle's graph. uint8 [N, S, S, 3] -> probabilities [N, L], embedding [N, D], first stage
    [N, G] and, where the head allows one, cam [N, L, h, w].

    probabilities = softmax(logits / temperature) (Guo et al. 2017). cam is the classifier, with its bias, applied at
    every place of the last feature map (Zhou et al. 2016). Because pooling is a mean and the classifier is linear, the
    mean of cam over h and w equals the logit before temperature. A network without such a head gives no cam. embedding
    is for novelty (contract/novelty.py): `statistics` of the first stage, which are also an output of their own,
    followed by the pooled feature of the last. With `flips`, all outputs are means over that many mirrored views; maps
    are mirrored back.
    """

    temperature: Tensor

    def __init__(self, network: Network, temperature: float, flips: int = 1) -> None:
        super().__init__()
        self.network = network
        self.mirrors: list[list[int]] = [[], [3], [2], [2, 3]][:flips]
        self.register_buffer("temperature", torch.tensor(temperature))

    @property
    def has_cam(self) -> bool:
        return self.network.mapped

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """float [N, 3, S, S] in 0..1 -> logits, embedding, first stage and, where the head allows one, cam."""
        views = [self._outputs(torch.flip(x, mirror) if mirror else x, mirror) for mirror in self.mirrors]
        return tuple(
            torch.stack(parts).mean(dim=0) if len(parts) > 1 else parts[0] for parts in zip(*views, strict=True)
        )

    def _outputs(self, x: Tensor, mirror: list[int]) -> tuple[Tensor, ...]:
        shallow, deep, maps = self.network.staged(x)
        embedding = torch.cat([shallow, deep], dim=1)
        if maps is None:
            return self.network.head(deep), embedding, shallow
        classifier = self.network.head.classifier
        cam = F.conv2d(maps, classifier.weight[:, :, None, None], classifier.bias)
        return classifier(deep), embedding, shallow, torch.flip(cam, mirror) if mirror else cam

    @torch.no_grad()
    def widths(self) -> tuple[int, int]:
        """Widths of the two blocks of an embedding: the first stage's statistics, and the pooled features."""
        shallow, deep, _ = self.network.staged(torch.zeros(1, 3, *PROBE))
        return shallow.shape[1], deep.shape[1]

    def forward(self, captures: Tensor) -> tuple[Tensor, ...]:
        logits, *other_outputs = self.logits(to_unit(captures))
        return torch.softmax(logits / self.temperature, dim=1), *other_outputs


def build_network(table: ModelTable, labels: int) -> Network:
    """A network for `labels` labels with the initial weights of the recipe.

    Raises SettingsError for an unknown architecture or weights that do not fit, Unavailable when ImageNet weights
    cannot be downloaded. It never falls back silently to other weights.
    """
    backbone = _cut(weights.backbone(table), table)
    views = len(table.stain_normalisation) * (2 if table.second_input == "hsv" else 1)
    features = _features(backbone, table.architecture) * views
    head: nn.Module
    if table.head == "dense":
        head = DenseHead(features, table.head_width, table.dropout, labels)
    else:
        head = LinearHead(features, table.dropout, labels)
    # PyTorch's default initial weights suit features of about 1; with backbones of other scales, the first loss would
    # be far from log(labels).
    nn.init.normal_(head.classifier.weight, std=0.01)
    nn.init.zeros_(head.classifier.bias)
    if table.initial_weights == weights.NONE:
        mean, std = SCRATCH_MEAN, SCRATCH_STD
    else:
        mean, std = backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]
    network = Network(backbone, head, mean, std, table)
    weights.load_trained(network, table)
    return network


def _cut(backbone: Any, table: ModelTable) -> Any:
    """The backbone without the layers after its first `table.stages` stages. Raises SettingsError."""
    if table.stages is None:
        return backbone
    stage_count = len(backbone.feature_info)
    if table.stages > stage_count:
        raise SettingsError(f"model.stages: {table.architecture} has {stage_count} stages, not {table.stages}")
    return Trunk(backbone, table.stages)


@torch.no_grad()
def _features(backbone: Any, architecture: str) -> int:
    """Width of the pooled feature, found by a trial run, because some heads widen it."""
    backbone.eval()
    try:
        shape = backbone(torch.zeros(1, 3, *PROBE)).shape
    except (RuntimeError, AssertionError) as error:  # transformers work with only one size
        raise SettingsError(
            f"model.architecture: {architecture} cannot take an image of {PROBE[0]} px ({error}); choose a "
            "convolutional network, for example efficientnet_b3"
        ) from error
    finally:
        backbone.train()
    return int(shape[1])


@torch.no_grad()
def _pools_by_mean(backbone: Any) -> bool:
    """Whether the pooled feature is the mean of the last feature map, by a trial run on noise."""
    was_training = backbone.training
    backbone.eval()
    noise = torch.rand((1, 3, *PROBE), generator=torch.Generator().manual_seed(0))
    maps = backbone.forward_features(noise)
    means, pooled = maps.mean(dim=(2, 3)) if maps.ndim == 4 else maps, backbone(noise)
    exact = means.shape == pooled.shape and torch.allclose(means, pooled, atol=1e-4, rtol=1e-3)
    backbone.train(was_training)
    return bool(exact)


def round_to_half(network: nn.Module) -> None:
    """Round every matrix and kernel in place to the nearest half-precision values; arithmetic stays float32."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(parameter.clamp(-HALF_MAX, HALF_MAX).half().float())


def parameter_count(network: nn.Module) -> int:
    """Number of weights."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())


@torch.no_grad()
def multiply_adds(network: Network, size: int) -> int:
    """Multiply-adds for one capture of side `size`: half the floating-point operations that torch counts."""
    was_training = network.training
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, size, size))
    network.train(was_training)
    return int(counter.get_total_flops()) // 2
