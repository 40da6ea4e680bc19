"""Augmentation of whole batches on the device: uint8 in, float out, no loop over images.

Geometry is one affine resampling. Stain, brightness and white balance are one 3x3 matrix and one offset per image in
optical density, where Beer and Lambert make stains additive: stain jitter after Tellez et al. 2018 (IEEE TMI), with
the haematoxylin and eosin vectors of Ruifrok & Johnston 2001 and their cross product as the third.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from trainer.config import AugmentTable

STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Optical density of haematoxylin and eosin in R, G, B (Ruifrok & Johnston 2001)."""
BLUR = torch.tensor([1.0, 2.0, 1.0])
SHARE_BLURRED = 0.25
SHARE_NOISY = 0.25


class Augment:
    """Callable: uint8 [N, S, S, 3] -> float32 [N, 3, size, size] in 0..1, channels last.

    All randomness comes from `generator`, so a seed gives the same pixels.
    """

    def __init__(self, table: AugmentTable, generator: torch.Generator) -> None:
        self.table = table
        self.generator = generator
        self.device = generator.device
        stains = F.normalize(STAINS, dim=1)
        residual = F.normalize(torch.linalg.cross(stains[0], stains[1]), dim=0)
        self.from_stains = torch.stack([*stains, residual]).to(self.device)  # concentrations @ this = density
        self.to_stains = torch.linalg.inv(self.from_stains)

    @torch.no_grad()
    def __call__(self, captures: Tensor, size: int) -> Tensor:
        x = resize(to_unit(captures), size)
        x = self._geometry(x)
        x = self._colour(x)
        if self.table.blur:
            x = self._blur(x)
        if self.table.noise:
            x = self._noise(x)
        return x.clamp_(0, 1).contiguous(memory_format=torch.channels_last)

    def _uniform(self, *shape: int, by: float = 1.0) -> Tensor:
        """Uniform in -by..by."""
        return (torch.rand(shape, generator=self.generator, device=self.device) * 2 - 1) * by

    def _signs(self, count: int) -> Tensor:
        return torch.randint(0, 2, (count,), generator=self.generator, device=self.device) * 2.0 - 1.0

    def _geometry(self, x: Tensor) -> Tensor:
        table, n = self.table, len(x)
        angle = self._uniform(n, by=math.radians(table.rotation))
        if table.quarter_turns:
            angle += torch.randint(0, 4, (n,), generator=self.generator, device=self.device) * (math.pi / 2)
        zoom = 1 / (1 + self._uniform(n, by=table.scale))
        flip_x, flip_y = (self._signs(n), self._signs(n)) if table.flips else (torch.ones_like(zoom),) * 2
        shift = self._uniform(n, 2, by=2 * table.translation)  # the resampler's coordinates run from -1 to 1
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        theta = torch.stack(
            [
                torch.stack([cos * flip_x, -sin * flip_y, shift[:, 0]], dim=1),
                torch.stack([sin * flip_x, cos * flip_y, shift[:, 1]], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _colour(self, x: Tensor) -> Tensor:
        table, n = self.table, len(x)
        factors = torch.diag_embed(1 + self._uniform(n, 3, by=table.stain_scale))
        matrix = self.to_stains @ factors @ self.from_stains
        offset = self._uniform(n, 3, by=table.stain_shift) @ self.from_stains
        gain = (1 + self._uniform(n, 1, by=table.brightness)) * (1 + self._uniform(n, 3, by=table.white_balance))
        offset = (offset - torch.log(gain))[:, :, None]  # a factor on light is a term in density
        density = x.clamp_min(1 / 255).log_().neg_().flatten(2)
        light = torch.baddbmm(offset, matrix.transpose(1, 2), density).neg_().exp_().view_as(x)
        contrast = (1 + self._uniform(n, by=table.contrast))[:, None, None, None]
        mean = light.mean(dim=(1, 2, 3), keepdim=True)
        return light.mul_(contrast).add_(mean * (1 - contrast))

    def _some(self, count: int, share: float) -> Tensor:
        return torch.nonzero(torch.rand(count, generator=self.generator, device=self.device) < share)[:, 0]

    def _blur(self, x: Tensor) -> Tensor:
        chosen = self._some(len(x), SHARE_BLURRED)
        if len(chosen):
            kernel = (torch.outer(BLUR, BLUR) / 16).to(x).expand(3, 1, 3, 3)
            sharp = x[chosen]
            blurred = F.conv2d(F.pad(sharp, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
            amount = (self._uniform(len(chosen)).abs() * self.table.blur)[:, None, None, None]
            x[chosen] = torch.lerp(sharp, blurred, amount)
        return x

    def _noise(self, x: Tensor) -> Tensor:
        chosen = self._some(len(x), SHARE_NOISY)
        if len(chosen):
            deviation = (self._uniform(len(chosen)).abs() * self.table.noise)[:, None, None, None]
            noise = torch.randn(x[chosen].shape, generator=self.generator, device=self.device)
            x[chosen] += noise * deviation
        return x


def to_unit(captures: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in 0..1; the permuted view is channels last already."""
    return captures.permute(0, 3, 1, 2).float().div_(255)


def resize(x: Tensor, size: int) -> Tensor:
    """Down to side `size`, averaging over pixels; unchanged where it has that side."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
