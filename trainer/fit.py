"""The training loop, from top to bottom: Lightning Fabric carries device and precision, torch the schedule.

One one-cycle schedule (Smith & Topin 2019) spans all stages of progressive resizing. After every epoch the weights,
averaged where the recipe says so, are scored on the validation captures at the final size; the best epoch is kept, and
a checkpoint is written from which a killed run goes on to the same weights (on the CPU, to the bit).
"""

import copy
import csv
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor

from contract.errors import ScreeningError
from trainer import checkpoint
from trainer.augment import Augment, to_unit
from trainer.config import Config
from trainer.memory import keep_freed_memory
from trainer.model import Network, build_network
from trainer.progress import bar, say

CHECK_EVERY = 20
"""Steps between two looks at the loss: on a GPU each look waits for the device."""


class TrainingStopped(ScreeningError):
    """The loss is not a number any more; the last checkpoint is from before that."""


@dataclass(frozen=True)
class TrainingSet:
    """What `fit` works on. `pixels` uint8 [N, S, S, 3]; `targets` int64 [N]; `train`, `validation`: indices into both.

    `identity` is a digest of configuration, data and split: a checkpoint of another is not continued.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    identity: str


@dataclass(frozen=True)
class Epoch:
    """One line of the history. Rates are captures per second of training, validation excluded."""

    epoch: int
    size: int
    learning_rate: float
    loss: float
    validation_loss: float
    validation_accuracy: float
    validation_macro_f1: float
    captures_per_second: float


@dataclass(frozen=True)
class Fitted:
    """The network with the weights of its best epoch, in eval mode on the CPU, and what led there."""

    network: Network
    best_epoch: int
    history: list[dict[str, Any]]


def fit(config: Config, data: TrainingSet, folder: Path, *, resume: bool = True) -> Fitted:
    """Train as `config` says. `folder` takes the checkpoint and metrics.csv.

    Raises TrainingStopped when the loss is not finite, SettingsError when the checkpoint belongs to another run.
    """
    keep_freed_memory()
    table = config.training
    precision = table.precision
    if precision == "auto":
        precision = "16-mixed" if torch.cuda.is_available() else "32-true"
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)
    sizes = [stage.size for stage in table.stages for _ in range(stage.epochs)]
    steps = max(1, len(data.train) // table.batch_size)  # the rest of an epoch waits for the next shuffle

    torch.manual_seed(table.seed)
    network = build_network(config.model, len(config.data.labels)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        param_groups_weight_decay(network, table.weight_decay), lr=table.max_learning_rate, weight_decay=0.0
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, table.max_learning_rate, total_steps=len(sizes) * steps, pct_start=table.warm_up
    )
    network.to(fabric.device)
    averaged = ModelEmaV3(network, decay=table.ema_decay, use_warmup=True) if table.ema_decay else None
    model, fabric_optimizer = fabric.setup(network, optimizer)
    generator = torch.Generator(fabric.device)
    augment = Augment(config.augment, generator)

    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    best_epoch, begin = 0, 0
    saved = checkpoint.load(folder, data.identity) if resume else None
    if saved is not None:
        network.load_state_dict(saved.model)
        if averaged is not None and saved.averaged is not None:
            averaged.module.load_state_dict(saved.averaged)
        optimizer.load_state_dict(saved.optimizer)
        scheduler.load_state_dict(saved.scheduler)
        fabric.strategy.precision.load_state_dict(saved.precision)
        history, best, best_epoch, begin = saved.history, saved.best, saved.best_epoch, saved.epochs_done
        say(f"continuing after epoch {begin} of {len(sizes)} from {folder}")

    work = sum(size**2 for size in sizes[begin:]) * steps
    with bar("training", work) as progress:
        for epoch in range(begin, len(sizes)):
            seed = table.seed * 100_003 + epoch
            torch.manual_seed(seed)
            generator.manual_seed(seed)
            order = np.random.default_rng(seed).permutation(data.train)[: steps * table.batch_size]
            model.train()
            total = torch.zeros((), device=fabric.device)
            started = time.monotonic()

            for step, (captures, targets) in enumerate(batches(data, order, table.batch_size), start=1):
                x = augment(captures.to(fabric.device, non_blocking=True), sizes[epoch])
                logits = model(x)
                loss = F.cross_entropy(logits, targets.to(fabric.device), label_smoothing=table.label_smoothing)
                fabric.backward(loss)
                fabric.clip_gradients(model, fabric_optimizer, max_norm=table.clip_norm, error_if_nonfinite=False)
                fabric_optimizer.step()
                fabric_optimizer.zero_grad()
                scheduler.step()
                if averaged is not None:
                    averaged.update(network, step=epoch * steps + step)
                total += loss.detach()
                if step % CHECK_EVERY == 0 or step == steps:
                    _stop_unless_finite(float(total), epoch, step, folder, bool(history))
                progress.advance(sizes[epoch] ** 2, f"epoch {epoch + 1}/{len(sizes)} at {sizes[epoch]} px")

            seconds = time.monotonic() - started
            judged = averaged.module if averaged is not None else network
            probabilities = predict(fabric, judged, data, data.validation, table.batch_size)
            row = Epoch(
                epoch + 1,
                sizes[epoch],
                float(scheduler.get_last_lr()[0]),
                float(total) / steps,
                **score(data.targets[data.validation], probabilities),
                captures_per_second=len(order) / seconds,
            )
            history.append(asdict(row))
            if not best or _rank(history[-1]) > _rank(history[best_epoch - 1]):
                best, best_epoch = copy.deepcopy(judged.state_dict()), epoch + 1
            say(describe(row, len(sizes)))
            state = checkpoint.Checkpoint(
                identity=data.identity,
                epochs_done=epoch + 1,
                model=network.state_dict(),
                averaged=averaged.module.state_dict() if averaged is not None else None,
                optimizer=optimizer.state_dict(),
                scheduler=scheduler.state_dict(),
                precision=fabric.strategy.precision.state_dict(),
                best=best,
                best_epoch=best_epoch,
                history=history,
            )
            checkpoint.save(folder, state)
            write_history(folder, history)

    network.load_state_dict(best)
    return Fitted(network.cpu().eval(), best_epoch, history)


def batches(data: TrainingSet, order: NDArray[np.int64], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(captures uint8 [n, S, S, 3], targets [n]) in this order; the next batch is read while this one is used."""

    def read(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(data.pixels[indices]), torch.from_numpy(data.targets[indices])

    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, cuts[0])
        for following in cuts[1:]:
            ready, coming = coming, reader.submit(read, following)
            yield ready.result()
        yield coming.result()


@torch.inference_mode()
def predict(
    fabric: Fabric, network: torch.nn.Module, data: TrainingSet, indices: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """Uncalibrated probabilities [len(indices), labels] of the decoded captures, unaugmented, at the final size."""
    network.eval()
    found = []
    for captures, _ in batches(data, indices, size):
        with fabric.autocast():
            logits = network(to_unit(captures.to(fabric.device)))
        found.append(torch.softmax(logits.double(), dim=1).cpu())
    probabilities: NDArray[np.float64] = torch.cat(found).numpy()
    return probabilities


def score(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """The validation figures of one epoch."""
    labels = np.arange(probabilities.shape[1])
    if not np.isfinite(probabilities).all():  # a network that has run away scores nothing
        return {"validation_loss": math.inf, "validation_accuracy": 0.0, "validation_macro_f1": 0.0}
    called = probabilities.argmax(axis=1)
    return {
        "validation_loss": float(log_loss(targets, probabilities, labels=labels)),
        "validation_accuracy": float(accuracy_score(targets, called)),
        "validation_macro_f1": float(f1_score(targets, called, labels=labels, average="macro", zero_division=0)),
    }


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    """Epochs are compared by macro F1; among equals the smaller loss is better."""
    return row["validation_macro_f1"], -row["validation_loss"]


def _stop_unless_finite(total: float, epoch: int, step: int, folder: Path, has_checkpoint: bool) -> None:
    if math.isfinite(total):
        return
    kept = f"the checkpoint of epoch {epoch} is kept in {folder}" if has_checkpoint else "no epoch was completed"
    raise TrainingStopped(
        f"the loss is not a number in epoch {epoch + 1}, by step {step}; {kept}; lower training.max_learning_rate, "
        'or set training.precision to "32-true"'
    )


def describe(row: Epoch, epochs: int) -> str:
    """The plain line that is logged per epoch."""
    return (
        f"epoch {row.epoch}/{epochs} size {row.size} loss {row.loss:.4f} val_loss {row.validation_loss:.4f} "
        f"val_accuracy {row.validation_accuracy:.4f} val_macro_f1 {row.validation_macro_f1:.4f} "
        f"captures/s {row.captures_per_second:.1f}"
    )


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """metrics.csv: one line per epoch."""
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(Epoch.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(history)
