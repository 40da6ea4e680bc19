"""Optimizer and schedule of one phase, and the finder of its learning rate."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from lightning.fabric import Fabric
from torch import Tensor, nn

from trainer.augment import Augment
from trainer.batches import TrainingSet, batches
from trainer.config import Config
from trainer.model import Network

FINDER_STEPS = 100
FINDER_FROM, FINDER_TO = 1e-6, 1.0
FINDER_SMOOTHING = 0.9
FINDER_STOP = 4.0
"""The finder stops when the smoothed loss is this many times its minimum."""
FINDER_LIMITS = (1e-5, 3e-2)
"""The suggestion always stays within these limits."""
CLEAR = 5.0
FALLBACK = 1e-3
"""The rate to use where the loss does not fall clearly; the log and the report mention it."""


@dataclass
class Optimization:
    """A phase's model, set up by Fabric, with its optimizer and schedule."""

    phase: int
    model: Any
    optimizer: Any
    scheduler: Any
    fabric: Fabric

    def step(self, loss: Tensor, clip_norm: float) -> None:
        """Take one step down the gradient of `loss`, and one along the schedule."""
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    @property
    def rate(self) -> float:
        """The learning rate of the head, which is the highest of all layers."""
        return float(max(self.scheduler.get_last_lr()))

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def optimization(
    config: Config, network: Network, fabric: Fabric, number: int, rate: float, steps: int
) -> Optimization:
    """Optimizer and schedule of phase `number` (from 0), with the highest rate `rate` and `steps` steps per epoch.

    one-cycle: Smith & Topin 2019; cosine: annealing to 0 (Loshchilov & Hutter 2017), without restarts.
    """
    phase = config.training.phases[number]
    groups = parameter_groups(network, config.training.weight_decay, phase.discriminative)
    optimizer = _optimizer(config, groups, rate)
    total = phase.epochs * steps
    scheduler: torch.optim.lr_scheduler.LRScheduler
    if phase.schedule == "one-cycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        rise = phase.warm_up
        if rise * total == 1:  # torch divides by the number of rising steps minus one
            rise = math.nextafter(rise, 0)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=total, pct_start=rise)
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    model, fabric_optimizer = fabric.setup(network, optimizer)
    return Optimization(number, model, fabric_optimizer, scheduler, fabric)


def _optimizer(config: Config, groups: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    for group in groups:
        group["lr"] = rate * group.pop("share")
    kind = torch.optim.AdamW if config.training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate)


def parameter_groups(network: Network, weight_decay: float, discriminative: float) -> list[dict[str, Any]]:
    """The parameters that learn, in at most six groups: by depth, and by whether weight decay applies to them.

    The first half of the backbone's parameters learns `discriminative` times slower than the head, the second half
    sqrt(discriminative) times (three groups as in fastai: Howard & Ruder 2018). Biases and norms do not decay.
    """
    backbone = list(network.backbone.parameters())
    half = sum(parameter.numel() for parameter in backbone) / 2
    parts: list[list[nn.Parameter]] = [[], [], list(network.head.parameters())]
    seen = 0
    for parameter in backbone:
        parts[seen >= half].append(parameter)
        seen += parameter.numel()
    groups = []
    for depth, part in enumerate(parts):
        for decays in (True, False):
            learning = [parameter for parameter in part if parameter.requires_grad and (parameter.ndim > 1) == decays]
            if learning:
                share = discriminative ** (depth / 2 - 1)
                groups.append({"params": learning, "weight_decay": weight_decay if decays else 0.0, "share": share})
    return groups


def find_learning_rate(
    config: Config,
    network: Network,
    fabric: Fabric,
    number: int,
    losses: Callable[[nn.Module], Iterator[Tensor]],
    steps: int = FINDER_STEPS,
) -> dict[str, Any]:
    """Train a copy with a rate that grows exponentially, and suggest one where the loss falls (Smith 2017).

    `network` is trained for at most `steps` steps and cannot be used afterwards. `losses` yields the loss of one batch
    after another. Returns the rates, the smoothed losses, the suggestion, and whether the curve was clear.
    """
    network.freeze(config.training.phases[number].frozen)
    discriminative = config.training.phases[number].discriminative
    optimizer = _optimizer(config, parameter_groups(network, config.training.weight_decay, discriminative), 1.0)
    shares = [group["lr"] for group in optimizer.param_groups]
    model, fabric_optimizer = fabric.setup(network, optimizer)
    network.train()
    rates = np.geomspace(FINDER_FROM, FINDER_TO, steps)
    smoothed: list[float] = []
    average, least = 0.0, math.inf
    for step, (rate, loss) in enumerate(zip(rates, losses(model), strict=False), start=1):
        average = FINDER_SMOOTHING * average + (1 - FINDER_SMOOTHING) * float(loss.detach())
        corrected = average / (1 - FINDER_SMOOTHING**step)
        if not math.isfinite(corrected) or corrected > FINDER_STOP * least:
            break
        least = min(least, corrected)
        smoothed.append(corrected)
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = float(rate) * share
        fabric.backward(loss)
        fabric.clip_gradients(model, fabric_optimizer, max_norm=config.training.clip_norm, error_if_nonfinite=False)
        fabric_optimizer.step()
        fabric_optimizer.zero_grad()
    suggestion = suggest(rates[: len(smoothed)], np.asarray(smoothed)) if len(smoothed) >= 3 else None
    return {
        "rates": [float(rate) for rate in rates[: len(smoothed)]],
        "losses": smoothed,
        "suggestion": FALLBACK if suggestion is None else suggestion,
        "clear": suggestion is not None,
    }


def suggest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate at which the loss has fallen half of the way from its start to its minimum; None without a clear fall.

    The steepest point of the curve would follow the noise of single batches. A fall is clear if it exceeds five
    standard deviations of the first tenth of the curve, where the rate is too low to change anything.
    """
    first = losses[: max(3, len(losses) // 10)]
    least = int(np.argmin(losses))
    start = float(np.median(first))
    if start - losses[least] <= CLEAR * float(np.std(first)):
        return None
    above = np.flatnonzero(losses[: least + 1] > (start + losses[least]) / 2)
    return float(np.clip(rates[above[-1]], *FINDER_LIMITS))


def find_for_phase(
    config: Config, data: TrainingSet, network: Network, fabric: Fabric, phase: int, weight: Tensor
) -> dict[str, Any]:
    """Run the learning-rate finder on a copy of the network, with the first size of the phase."""
    table = config.training
    size = table.phases[phase].stages[0].size
    generator = torch.Generator(fabric.device)
    generator.manual_seed(table.seed)
    torch.manual_seed(table.seed)
    augment = Augment(config.augment, generator)

    def losses(model: torch.nn.Module) -> Iterator[Tensor]:
        rng = np.random.default_rng(table.seed)
        while True:
            order = rng.permutation(data.train)
            whole_batches = order[: max(1, len(order) // table.batch_size) * table.batch_size]
            for captures, targets in batches(data, whole_batches, table.batch_size):
                logits = model(augment(captures.to(fabric.device), size))
                targets = targets.to(fabric.device)
                yield F.cross_entropy(logits, targets, weight=weight, label_smoothing=table.label_smoothing)

    steps = min(FINDER_STEPS, max(FINDER_STEPS // 3, 2 * len(data.train) // table.batch_size))
    scaler_state = (
        fabric.strategy.precision.state_dict()
    )  # the finder ends in overflows; they must not scale the training
    result = find_learning_rate(config, copy.deepcopy(network), fabric, phase, losses, steps)
    fabric.strategy.precision.load_state_dict(scaler_state)
    return result
