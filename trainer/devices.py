"""Devices to train on, through Lightning Fabric also on several machines, and what to do when one is full."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from contract.errors import ScreeningError


class DeviceMemoryFull(ScreeningError):
    """The device's memory is too small for a step of this batch size."""


@dataclass(frozen=True)
class Devices:
    """How many devices on how many machines train; each takes batches of the recipe's size."""

    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"

    @property
    def several(self) -> bool:
        return self.devices * self.nodes > 1

    def fabric(self, precision: str) -> Fabric:
        """Join the other processes; start them first unless torchrun or Slurm has done so."""
        if precision == "auto":
            precision = "16-mixed" if torch.cuda.is_available() and self.accelerator != "cpu" else "32-true"
        strategy = "ddp" if self.several else "auto"
        fabric = Fabric(
            accelerator=self.accelerator, devices=self.devices, num_nodes=self.nodes, strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
        )  # fmt: skip
        fabric.launch()
        torch.backends.cudnn.benchmark = True  # shapes stay the same for a whole epoch
        return fabric


def device_name() -> str:
    """The device that trains here, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def computes_in_bfloat16() -> bool:
    """Whether training here uses a CPU that has instructions for bfloat16; without them bfloat16 is only slower."""
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    return not torch.cuda.is_available() and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def memory_full(network: nn.Module, shape: torch.Size, fabric: Fabric) -> DeviceMemoryFull:
    """Try a step with smaller and smaller batches, and return the error that says which one fits."""
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
