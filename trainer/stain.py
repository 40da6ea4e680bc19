"""Colour of a whole batch in terms of the stain: normalisation after Reinhard, and the nucleated cells by hue.

Everything here is made of operations that ONNX has, because it is part of the exported graph.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from contract import quality
from trainer.augment import grey

RGB, LOG_LMS = (tuple(map(tuple, np.linalg.inv(matrix).tolist())) for matrix in (quality.LMS, quality.OPPONENT))
DIMMEST = 0.05
"""A channel whose background is darker than this share of full scale is not brightened further."""
RIM = 0.045
"""Share of the side by which `without_nucleated` reaches beyond the stained nucleus, to take the cytoplasm too; half
of it for `cells`."""


def standardised(x: Tensor) -> Tensor:
    """Bring every channel of every capture to the same mean and deviation of its optical density.

    float [N, 3, H, W] in 0..1 -> the same. The transfer of Reinhard et al. 2001, but per channel in optical density,
    where stain and light act (Beer and Lambert): gain and strength of each channel go, and with them what the six
    numbers "mean and deviation of R, G, B" tell. In l-alpha-beta, as theirs, alpha and beta are differences that
    bfloat16 does not hold: one network's probabilities were off by up to 0.12 on 128 drawings, and by 0.05 so.
    """
    density = x.clamp(min=quality.DARKEST).log()
    return _transferred(density, quality.DENSITY_MEAN, quality.DENSITY_DEVIATION).exp().clamp(0, 1)


def white_point(x: Tensor) -> Tensor:
    """Make the background of every capture white: each channel is divided by its own 95th percentile.

    float [N, 3, H, W] in 0..1 -> the same. In a bright-field capture the brightest twentieth is empty glass, whatever
    lies elsewhere in the field, so that cells keep their colour where blasts fill it. The percentile is taken of every
    fourth row and column, as the k-th largest: quantiles have no place in an ONNX graph, TopK has.
    """
    seen = x[:, :, ::4, ::4].flatten(2)
    brightest = seen.topk(max(1, seen.shape[2] // 20), dim=2).values[:, :, -1:, None]
    return (x / brightest.clamp(min=DIMMEST)).clamp(0, 1)


def colourless(x: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in all three channels after `white_point`: nothing of a stain's hue is left."""
    return grey(white_point(x))


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "density": standardised,
    "white": white_point,
    "grey": colourless,
}
"""`model.stain_normalisation` -> what the backbone sees of captures, float [N, 3, H, W] in 0..1."""


def reinhard(x: Tensor) -> Tensor:
    """The same transfer in l-alpha-beta, which keeps hues apart; the segmentation needs that."""
    lab = _mix(_mix(x.clamp(min=quality.DARKEST), quality.LMS).log(), quality.OPPONENT)
    lab = _transferred(lab, quality.MEAN, quality.DEVIATION)
    return _mix(_mix(lab, LOG_LMS).exp(), RGB).clamp(0, 1)


def _transferred(values: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    own_mean = values.mean(dim=(2, 3), keepdim=True)
    apart = values - own_mean
    own = apart.square().mean(dim=(2, 3), keepdim=True).sqrt()
    wanted = torch.tensor(deviation, device=values.device).view(1, 3, 1, 1)
    middle = torch.tensor(mean, device=values.device).view(1, 3, 1, 1)
    return apart * (wanted / torch.maximum(own, quality.LEAST_DEVIATION * wanted)) + middle


def _mix(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Every pixel's three channels times a 3 x 3 matrix.

    Term by term, for a convolution would be done in half precision where training is mixed, and alpha and beta differ
    by less than half precision holds.
    """
    one, two, three = x.unbind(dim=1)
    return torch.stack([a * one + b * two + c * three for a, b, c in matrix], dim=1)


def nucleated(x: Tensor) -> Tensor:
    """Where nucleated cells are: float [N, 3, H, W] in 0..1, captures as they are -> 0 or 1, [N, 1, H, W].

    Blue to purple by the thresholds of contract.quality, after `reinhard`, smoothed by a majority over 5 x 5 pixels.
    """
    normal = reinhard(x)
    value, least = normal.amax(dim=1, keepdim=True), normal.amin(dim=1, keepdim=True)
    spread = value - least
    red, green, blue = normal[:, :1], normal[:, 1:2], normal[:, 2:]
    safe = spread.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue / 6
    inside = (hue >= quality.HUE[0]) & (hue <= quality.HUE[1]) & (spread >= quality.SATURATION * value)
    share = F.avg_pool2d(inside.float(), 5, stride=1, padding=2, count_include_pad=False)
    return (share > 0.5).float()


def cells(x: Tensor) -> Tensor:
    """Where nucleated cells are, with a rim for their cytoplasm, [N, 1, H, W]: what the second input leaves to see."""
    return _widened(nucleated(x), RIM / 2)


def without_nucleated(x: Tensor) -> Tensor:
    """The captures with every nucleated cell, and a rim around it, painted in the mean colour of the rest."""
    covered = _widened(nucleated(x), RIM)
    rest = 1 - covered
    colour = (x * rest).sum(dim=(2, 3), keepdim=True) / rest.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return x * rest + colour * covered


def _widened(mask: Tensor, share: float) -> Tensor:
    reach = max(1, round(share * mask.shape[-1]))
    return F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)
