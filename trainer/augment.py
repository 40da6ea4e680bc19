"""Augmentation of whole batches on the device: uint8 in, float out, no loop over images.

Geometry is one affine resampling. Stain, brightness and white balance are one 3x3 matrix and one offset per image in
optical density, where stains are additive (law of Beer and Lambert). Stain jitter follows Tellez et al. 2018 (IEEE
TMI), with the haematoxylin and eosin vectors of Ruifrok & Johnston 2001 and their cross product as the third.
"""

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from trainer.config import AugmentTable

STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Optical density of haematoxylin and eosin in R, G, B (Ruifrok & Johnston 2001)."""
BLUR = torch.tensor([1.0, 2.0, 1.0])
SHARE_BLURRED = 0.25
SHARE_NOISY = 0.25
SHARE_DEFOCUSED = 0.35
SHARP = 0.1
"""A Gaussian with a smaller deviation, in pixels, leaves every pixel as it is."""
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0
"""Parameters of the Beta distributions in the papers: Zhang et al. 2018, Yun et al. 2019."""


class Augment:
    """Callable: uint8 [N, S, S, 3] -> float32 [N, 3, size, size] in 0..1, channels last.

    All randomness comes from `generator`, so the same seed gives the same pixels.
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
        if self.table.corner_mask:
            x = self._mask_corners(x)
        if self.table.scale_bar:
            x = self.draw_scale_bar(x)
        x = self._colour(x)
        if self.table.grey:
            x = self._grey(x)
        if self.table.blur:
            x = self._blur(x)
        if self.table.defocus:
            x = self._defocus(x)
        if self.table.noise:
            x = self._noise(x)
        if self.table.jpeg:
            x = self._jpeg(x)
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

    def _mask_corners(self, x: Tensor) -> Tensor:
        """Paint over corners with the capture's bright background, so that nothing can be learned from what lies there.

        Each corner is painted over, independently of the others, with the chance `corner_mask`; 15 to 45 % of the
        width, 8 to 25 % of the height.
        """
        n, size = len(x), x.shape[-1]
        across, down = self._places(size)
        masked = torch.zeros((n, size, size), dtype=torch.bool, device=self.device)
        for right in (False, True):
            for bottom in (False, True):
                wide = (0.30 + self._uniform(n, by=0.15))[:, None, None]
                high = (0.165 + self._uniform(n, by=0.085))[:, None, None]
                chosen = torch.rand(n, generator=self.generator, device=self.device) < self.table.corner_mask
                in_columns = across > 1 - wide if right else across < wide
                in_rows = down > 1 - high if bottom else down < high
                masked |= in_columns & in_rows & chosen[:, None, None]
        return torch.where(masked[:, None], background(x), x)

    def draw_scale_bar(self, x: Tensor) -> Tensor:
        """Draw a bar in one of the corners, sometimes on a box and with blocks above it in place of text."""
        n, size = len(x), x.shape[-1]
        chosen = (torch.rand(n, generator=self.generator, device=self.device) < self.table.scale_bar)[:, None, None]
        across, down = self._places(size)
        across = torch.where((self._signs(n) > 0)[:, None, None], across, 1 - across)
        down = torch.where((self._signs(n) > 0)[:, None, None], down, 1 - down)
        left, top, length, thick, high = (
            (middle + self._uniform(n, by=middle * spread))[:, None, None]
            for middle, spread in ((0.04, 0.9), (0.06, 0.6), (0.17, 0.6), (0.012, 0.7), (0.03, 0.4))
        )
        colour = torch.rand((n, 3, 1, 1), generator=self.generator, device=self.device)
        colour = torch.where((self._signs(n) > 0)[:, None, None, None], colour.round(), colour)
        box = (across > left - 0.02) & (across < left + length + 0.02) & (down > top - 0.02)
        box &= down < top + thick + high + 0.04
        boxed = (torch.rand(n, generator=self.generator, device=self.device) < 0.25)[:, None, None]
        bar = (across > left) & (across < left + length) & (down > top) & (down < top + thick)
        text = (across > left + length * 0.2) & (across < left + length * 0.8) & (down > top + thick + 0.015)
        text &= (down < top + thick + 0.015 + high) & (torch.sin(across * (60 + 20 * colour[:, 0])) > 0)
        x = torch.where((box & boxed & chosen)[:, None], 1 - colour, x)
        return torch.where(((bar | text) & chosen)[:, None], colour, x)

    def _places(self, size: int) -> tuple[Tensor, Tensor]:
        """The positions of columns and rows, from 0 to 1: [1, 1, size] and [1, size, 1]."""
        places = (torch.arange(size, device=self.device) + 0.5) / size
        return places[None, None, :], places[None, :, None]

    def _grey(self, x: Tensor) -> Tensor:
        chosen = torch.rand(len(x), generator=self.generator, device=self.device) < self.table.grey
        return torch.where(chosen[:, None, None, None], grey(x), x)

    def _jpeg(self, x: Tensor) -> Tensor:
        """Compress some captures again, in threads. libjpeg works on the CPU: captures of a GPU go there and back."""
        chosen = self._choose(len(x), self.table.jpeg)
        qualities = torch.randint(50, 101, (len(chosen),), generator=self.generator, device=self.device)
        if len(chosen):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                compressed = list(pool.map(recompressed, x[chosen].cpu(), qualities.tolist()))
            x[chosen] = torch.stack(compressed).to(self.device)
        return x

    def _choose(self, count: int, share: float) -> Tensor:
        return torch.nonzero(torch.rand(count, generator=self.generator, device=self.device) < share)[:, 0]

    def _blur(self, x: Tensor) -> Tensor:
        chosen = self._choose(len(x), SHARE_BLURRED)
        if len(chosen):
            kernel = (torch.outer(BLUR, BLUR) / 16).to(x).expand(3, 1, 3, 3)
            sharp = x[chosen]
            blurred = F.conv2d(F.pad(sharp, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
            amount = (self._uniform(len(chosen)).abs() * self.table.blur)[:, None, None, None]
            x[chosen] = torch.lerp(sharp, blurred, amount)
        return x

    def _defocus(self, x: Tensor) -> Tensor:
        """Blur by a Gaussian with a deviation for each axis: equal ones are defocus, unequal ones a moving stage."""
        chosen = self._choose(len(x), SHARE_DEFOCUSED)
        if len(chosen):
            widest = self.table.defocus * x.shape[-1]
            radius = math.ceil(3 * widest)
            offsets = torch.arange(-radius, radius + 1, device=self.device)
            deviations = self._uniform(len(chosen), 2, by=widest).abs().clamp_min(SHARP)
            kernels = torch.exp(-0.5 * (offsets / deviations[:, :, None]) ** 2)
            kernels /= kernels.sum(dim=2, keepdim=True)
            planes = F.pad(x[chosen], (radius,) * 4, mode="reflect").flatten(0, 1)[None]
            across, down = (kernels[:, axis].repeat_interleave(3, dim=0)[:, None, None] for axis in (0, 1))
            planes = F.conv2d(planes, across, groups=planes.shape[1])
            planes = F.conv2d(planes, down.transpose(2, 3), groups=planes.shape[1])
            x[chosen] = planes.view_as(x[chosen])
        return x

    def _noise(self, x: Tensor) -> Tensor:
        chosen = self._choose(len(x), SHARE_NOISY)
        if len(chosen):
            deviation = (self._uniform(len(chosen)).abs() * self.table.noise)[:, None, None, None]
            noise = torch.randn(x[chosen].shape, generator=self.generator, device=self.device)
            x[chosen] += noise * deviation
        return x


class Mixer:
    """Callable on a batch: mixes it by mixup or cutmix or leaves it as it is, with the chances in the recipe.

    float [N, 3, S, S], labels int64 [N] -> the same captures and labels, or mixed ones and their shares [N, labels].
    Randomness comes from torch's own generator.
    """

    def __init__(self, table: AugmentTable, labels: int) -> None:
        self.table = table
        self.mixup = MixUp(alpha=MIXUP_ALPHA, num_classes=labels)
        self.cutmix = CutMix(alpha=CUTMIX_ALPHA, num_classes=labels)

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.table.mixup + self.table.cutmix:
            return x, labels
        drawn = float(torch.rand(()))
        if drawn < self.table.mixup:
            mixed, shares = self.mixup(x, labels)
        elif drawn < self.table.mixup + self.table.cutmix:
            mixed, shares = self.cutmix(x, labels)
        else:
            return x, labels
        return mixed.contiguous(memory_format=torch.channels_last), shares


def to_unit(captures: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in 0..1; the permuted view is channels last already.

    The cast comes first because TensorRT, given the exported graph, permutes no bytes.
    """
    return captures.float().permute(0, 3, 1, 2).div_(255)


def from_unit(x: Tensor) -> NDArray[np.uint8]:
    """float [N, 3, H, W] in 0..1 -> uint8 [N, H, W, 3], rounded."""
    return np.ascontiguousarray((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def resize(x: Tensor, size: int) -> Tensor:
    """Scale down to side `size`, averaging over pixels; unchanged if that is the side already."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def grey(x: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in all three channels, [N, 3, H, W]."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True).expand_as(x)


def recompressed(capture: Tensor, quality: int) -> Tensor:
    """One capture, float [3, H, W] in 0..1, as it is after JPEG compression with this quality."""
    pixels = (capture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format="JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(packed))).permute(2, 0, 1).float() / 255


def background(x: Tensor) -> Tensor:
    """Colour of the background, [N, 3, 1, 1]: most of the brightest quarter of a bright-field capture is empty."""
    return torch.quantile(x[:, :, ::4, ::4].flatten(2), 0.8, dim=2)[:, :, None, None]
