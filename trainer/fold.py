"""Folds batch normalisation into the convolution before it, so that the rounded weights are the weights in the graph.

The exporter folds too, but only after the weights have been rounded to half precision, and the product of two rounded
numbers is not a rounded number.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trainer.augment import to_unit
from trainer.model import Network


@torch.no_grad()
def folded(network: Network, size: int) -> Network:
    """A copy of the network, in eval mode, that computes the same with fewer layers.

    One capture of side `size` runs through it to find each batch norm whose input is a convolution's output. Other
    batch norms, such as those before a convolution in DenseNet, stay as they are.
    """
    network = copy.deepcopy(network).cpu().eval()
    for conv, norm in _pairs(network, size):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        for parent in network.modules():
            for name, child in list(parent.named_children()):
                if child is norm:
                    setattr(parent, name, _remainder(norm))
    return network


def _pairs(network: Network, size: int) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so that no other gets its id
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[id(output)] = (module, output)

    def before_norm(module: Any, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    layers = list(network.modules())
    hooks = [layer.register_forward_hook(after_conv) for layer in layers if isinstance(layer, nn.Conv2d)]
    hooks += [layer.register_forward_pre_hook(before_norm) for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    network(to_unit(torch.zeros((1, size, size, 3), dtype=torch.uint8)))
    for hook in hooks:
        hook.remove()
    return pairs


def _remainder(norm: Any) -> nn.Module:
    """What remains of a folded norm: timm's also holds the activation that follows it."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
