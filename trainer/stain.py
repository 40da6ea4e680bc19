"""Stain colours of a whole batch: normalisation after Reinhard, and nucleated cells found by their hue.

Everything here uses only operations that ONNX has, because it is part of the exported graph.
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
"""`white_point` divides by at least this share of full scale, so it brightens darker backgrounds no further."""
RIM = 0.045
"""Share of the side by which `without_nucleated` widens the stained nucleus, to cover the cytoplasm too; `cells` widens
it by half of this."""


def standardised(x: Tensor) -> Tensor:
    """Bring every channel of every capture to the same mean and deviation of its optical density.

    float [N, 3, H, W] in 0..1 -> the same. This is the transfer of Reinhard et al. 2001, but per channel in optical
    density, where stain and light act (Beer and Lambert). It removes gain and strength of each channel, and with them
    the information in the six numbers "mean and deviation of R, G, B". Their l-alpha-beta space has alpha and beta,
    differences that bfloat16 cannot hold: there, one network's probabilities were wrong by up to 0.12 on 128 drawings,
    here by up to 0.05.
    """
    density = x.clamp(min=quality.DARKEST).log()
    return _transferred(density, quality.DENSITY_MEAN, quality.DENSITY_DEVIATION).exp().clamp(0, 1)


def white_point(x: Tensor) -> Tensor:
    """Make the background of every capture white: each channel is divided by its own 95th percentile.

    float [N, 3, H, W] in 0..1 -> the same. In a bright-field capture the brightest twentieth is empty glass, whatever
    else the field shows, so cells keep their colour even where blasts fill the field. The percentile is the k-th
    largest value in every fourth row and column, because ONNX graphs have TopK but no quantiles.
    """
    seen = x[:, :, ::4, ::4].flatten(2)
    brightest = seen.topk(max(1, seen.shape[2] // 20), dim=2).values[:, :, -1:, None]
    return (x / brightest.clamp(min=DIMMEST)).clamp(0, 1)


def colourless(x: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in all three channels after `white_point`: it removes the stain's hue completely."""
    return grey(white_point(x))


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "density": standardised,
    "white": white_point,
    "grey": colourless,
}
"""`model.stain_normalisation` -> function from captures to the backbone's input, both float [N, 3, H, W] in 0..1."""


def reinhard(x: Tensor) -> Tensor:
    """The transfer of `standardised` in l-alpha-beta, which keeps hues separate, as the segmentation needs."""
    lab = _mix(_mix(x.clamp(min=quality.DARKEST), quality.LMS).log(), quality.OPPONENT)
    lab = _transferred(lab, quality.MEAN, quality.DEVIATION)
    return _mix(_mix(lab, LOG_LMS).exp(), RGB).clamp(0, 1)


def _transferred(values: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    centred = values - values.mean(dim=(2, 3), keepdim=True)
    spread = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    target_spread = torch.tensor(deviation, device=values.device).view(1, 3, 1, 1)
    target_mean = torch.tensor(mean, device=values.device).view(1, 3, 1, 1)
    return centred * (target_spread / torch.maximum(spread, quality.LEAST_DEVIATION * target_spread)) + target_mean


def _mix(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Multiply the three channels of every pixel by a 3 x 3 matrix.

    It works term by term, because mixed-precision training would compute a convolution in half precision, and alpha and
    beta differ by less than half precision can hold.
    """
    first, second, third = x.unbind(dim=1)
    return torch.stack([a * first + b * second + c * third for a, b, c in matrix], dim=1)


def nucleated(x: Tensor) -> Tensor:
    """Mask of nucleated cells: captures as they are, float [N, 3, H, W] in 0..1 -> 0 or 1, [N, 1, H, W].

    A pixel counts if it is blue to purple by the thresholds of contract.quality, after `reinhard`; a majority over
    5 x 5 pixels smooths the mask.
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
    """Mask of nucleated cells with a rim for their cytoplasm, [N, 1, H, W]; the second input shows only them."""
    return _widened(nucleated(x), RIM / 2)


def without_nucleated(x: Tensor) -> Tensor:
    """The captures with every nucleated cell, and a rim around it, painted in the mean colour of all other pixels."""
    covered = _widened(nucleated(x), RIM)
    visible = 1 - covered
    colour = (x * visible).sum(dim=(2, 3), keepdim=True) / visible.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return x * visible + colour * covered


def _widened(mask: Tensor, share: float) -> Tensor:
    reach = max(1, round(share * mask.shape[-1]))
    return F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)
