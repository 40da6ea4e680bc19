"""Stain colours of a whole batch: normalisation, and the mask of nucleated cells.

Everything here uses only operations that ONNX has, because it is part of the exported graph.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from contract import cells as finder
from trainer.augment import grey

DENSITY_MEAN, DENSITY_DEVIATION = (-0.309, -0.373, -0.342), (0.088, 0.161, 0.100)
"""Natural logarithms of R, G, B after `standardised`: medians over the 120 captures of BCCD (Shenggan, BCCD_Dataset,
2017) that were used in development."""
DARKEST = finder.DARKEST / 255
LEAST_DEVIATION = 0.25
"""A deviation below this share of DENSITY_DEVIATION is not stretched further: an empty field holds only noise."""
DIMMEST = 0.05
"""`white_point` divides by at least this share of full scale, so it brightens darker backgrounds no further."""
RIM = 0.0225
"""Share of the side by which `cells` widens the stained nucleus, to show some of the cytoplasm too."""


def standardised(x: Tensor) -> Tensor:
    """Bring every channel of every capture to the same mean and deviation of its optical density.

    float [N, 3, H, W] in 0..1 -> the same. This is the transfer of Reinhard et al. 2001, but per channel in optical
    density, where stain and light act (Beer and Lambert). It removes gain and strength of each channel, and with them
    the information in the six numbers "mean and deviation of R, G, B". Their l-alpha-beta space has alpha and beta,
    differences that bfloat16 cannot hold: there, one network's probabilities were wrong by up to 0.12 on 128 drawings,
    here by up to 0.05.
    """
    density = x.clamp(min=DARKEST).log()
    centred = density - density.mean(dim=(2, 3), keepdim=True)
    spread = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    target = torch.tensor(DENSITY_DEVIATION, device=x.device).view(1, 3, 1, 1)
    gain = target / torch.maximum(spread, LEAST_DEVIATION * target)
    return (centred * gain + torch.tensor(DENSITY_MEAN, device=x.device).view(1, 3, 1, 1)).exp().clamp(0, 1)


def white_point(x: Tensor) -> Tensor:
    """Make the background of every capture white: each channel is divided by its own 95th percentile.

    float [N, 3, H, W] in 0..1 -> the same. In a bright-field capture the brightest twentieth is empty glass, whatever
    else the field shows, so cells keep their colour even where blasts fill the field. The percentile is the k-th
    largest value in every fourth row and column, because ONNX graphs have TopK but no quantiles.
    """
    return (x / _background(x, every=4).clamp(min=DIMMEST)).clamp(0, 1)


def _background(x: Tensor, every: int) -> Tensor:
    """The 95th percentile of each channel in every n-th row and column, [N, 3, 1, 1]."""
    seen = x[:, :, ::every, ::every].flatten(2)
    return seen.topk(max(1, seen.shape[2] // 20), dim=2).values[:, :, -1:, None]


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


def nucleated(x: Tensor) -> Tensor:
    """Mask of nuclei: captures as they are, float [N, 3, H, W] in 0..1 -> 0 or 1, [N, 1, H, W].

    The same rule as `contract.cells.nucleated`, which says why; tests compare the two.
    """
    small = F.avg_pool2d(x, finder.reduction(x.shape[-1]))
    density = _background(small, every=2).clamp(min=DARKEST).log() - small.clamp(min=DARKEST).log()
    density = F.avg_pool2d(density, 3, stride=1, padding=1, count_include_pad=False)
    red, green, blue = density[:, :1], density[:, 1:2], density[:, 2:]
    to_red, to_green, to_blue = finder.VIOLET
    violet = to_red * red + to_green * green + to_blue * blue
    dark = torch.minimum(red, green) - blue
    stained = violet > finder.VIOLET_SHARE * green
    red_cells = (green > finder.FAINTEST) & ~stained
    red_cells = red_cells & (dark < finder.DARK * _mean_where(dark, red_cells).clamp(min=finder.DARKER))
    strength, usual = _mean_where(green, red_cells), _mean_where(dark, red_cells)
    is_violet = stained & (violet > (finder.STRENGTH * strength).clamp(min=finder.FAINTEST))
    nuclei = is_violet | (dark > finder.DARK * usual.clamp(min=finder.DARKER))
    background = F.max_pool2d(1 - nuclei.float(), finder.OPENING, stride=1, padding=finder.OPENING // 2)
    opened = F.max_pool2d(1 - background, finder.OPENING, stride=1, padding=finder.OPENING // 2)
    return F.interpolate(opened, size=x.shape[2:], mode="nearest")


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen pixels of every capture, [N, 1, 1, 1]; 0 where none is chosen."""
    weights = chosen.float()
    return (values * weights).sum(dim=(2, 3), keepdim=True) / weights.sum(dim=(2, 3), keepdim=True).clamp(min=1)


def cells(x: Tensor) -> Tensor:
    """Mask of nucleated cells with a rim for their cytoplasm, [N, 1, H, W]; the second input shows only them."""
    reach = max(1, round(RIM * x.shape[-1]))
    return F.max_pool2d(nucleated(x), 2 * reach + 1, stride=1, padding=reach)
