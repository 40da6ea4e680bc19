"""Devices to train on, several machines too through Lightning Fabric, and what to do when one is full."""

from dataclasses import dataclass

import torch
from lightning.fabric import Fabric
from torch import nn

from contract.errors import ScreeningError


class DeviceMemoryFull(ScreeningError):
    """The device's memory does not hold a step of this batch size."""


@dataclass(frozen=True)
class Devices:
    """On how many devices of how many machines to train; each takes batches of the recipe's size."""

    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"

    def fabric(self, precision: str) -> Fabric:
        """Joins the other processes, and starts them first if nobody (torchrun, Slurm) has."""
        if precision == "auto":
            precision = "16-mixed" if torch.cuda.is_available() and self.accelerator != "cpu" else "32-true"
        strategy = "ddp" if self.devices * self.nodes > 1 else "auto"
        fabric = Fabric(
            accelerator=self.accelerator, devices=self.devices, num_nodes=self.nodes, strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
        )  # fmt: skip
        fabric.launch()
        torch.backends.cudnn.benchmark = True  # shapes stay the same for whole epochs
        return fabric


def memory_full(network: nn.Module, shape: torch.Size, fabric: Fabric) -> DeviceMemoryFull:
    """Try a step with ever smaller batches, and say which one fits."""
    torch.cuda.empty_cache()
    size = shape[0]
    while size > 2:
        size //= 2
        try:
            with fabric.autocast():
                network(torch.zeros((size, *shape[1:]), device=fabric.device)).sum().backward()
            network.zero_grad()
        except torch.OutOfMemoryError:
            continue
        return DeviceMemoryFull(
            f"the device's memory does not hold a step of {shape[0]} captures at {shape[-1]} px; {size} would fit: set "
            f"training.batch_size = {size} (--batch-size {size})"
        )
    return DeviceMemoryFull(
        f"the device's memory does not hold even two captures at {shape[-1]} px; use a smaller image.size or network"
    )
