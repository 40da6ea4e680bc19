"""The training loop, from top to bottom: Lightning Fabric carries devices and precision, torch the schedules.

Phases follow one another, each under one schedule; within a phase the side of the captures may grow. After every epoch
the weights, averaged where the recipe says so, are scored on the validation captures at the final size; the best epoch
is kept, and a checkpoint is written from which a killed run goes on to the same weights (on the CPU, to the bit).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from lightning.fabric import Fabric
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor

from contract.errors import ScreeningError
from trainer import checkpoint, probe
from trainer.augment import Augment, Mixer, from_unit, resize, to_unit
from trainer.config import Config, Phase
from trainer.devices import Devices, memory_full
from trainer.history import Epoch, describe, patience_is_over, rank, score, write_history
from trainer.memory import keep_freed_memory
from trainer.model import Network, build_network
from trainer.optim import FINDER_STEPS, Optimization, find_learning_rate, optimization
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
class Fitted:
    """The network with the weights of its best epoch, in eval mode on the CPU, and what led there.

    `finders` are the learning-rate finders' curves by phase. Where several processes trained, one of them is the
    leader, and the others have nothing more to do.
    """

    network: Network
    best_epoch: int
    history: list[dict[str, Any]]
    finders: list[dict[str, Any]]
    seconds: float
    leader: bool = True


def fit(
    config: Config, data: TrainingSet, folder: Path, *, resume: bool = True, devices: Devices | None = None
) -> Fitted:
    """Train as `config` says. `folder` takes the checkpoint and metrics.csv.

    Raises TrainingStopped when the loss is not finite, DeviceMemoryFull naming a batch size that fits, SettingsError
    when the checkpoint belongs to another run.
    """
    keep_freed_memory()
    table = config.training
    fabric = (devices or Devices()).fabric(table.precision)
    plan = [
        (number, stage.size, last)
        for number, phase in enumerate(table.phases)
        for last, stage in ((stage is phase.stages[-1], stage) for stage in phase.stages)
        for _ in range(stage.epochs)
    ]  # one entry per epoch: phase, size, and whether this is the phase's last stage
    steps = max(1, len(data.train) // (table.batch_size * fabric.world_size))  # what is left waits for a later epoch

    torch.manual_seed(table.seed)
    network = build_network(config.model, len(config.data.labels)).to(memory_format=torch.channels_last)
    network.to(fabric.device)
    averaged = ModelEmaV3(network, decay=table.ema_decay, use_warmup=True) if table.ema_decay else None
    generator = torch.Generator(fabric.device)
    augment = Augment(config.augment, generator)
    mixer = Mixer(config.augment, len(config.data.labels))
    weight = class_weights(data, len(config.data.labels), table.balance).to(fabric.device)

    history: list[dict[str, Any]] = []
    finders: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    best_epoch, begin, seconds_before = 0, 0, 0.0
    saved = checkpoint.load(folder, data.identity) if resume else None
    if saved is not None:
        network.load_state_dict(saved.model)
        if averaged is not None and saved.averaged is not None:
            averaged.module.load_state_dict(saved.averaged)
        history, finders, best, best_epoch = saved.history, saved.finders, saved.best, saved.best_epoch
        begin, seconds_before = saved.epochs_done, saved.seconds
        say(f"continuing after epoch {begin} of {len(plan)} from {folder}")

    optimized: Optimization | None = None
    started_fit = time.monotonic()
    work = sum(size**2 for _, size, _ in plan[begin:]) * steps
    with bar("training", work) as progress:
        for epoch in range(begin, len(plan)):
            number, size, last_stage = plan[epoch]
            phase = table.phases[number]
            if last_stage and patience_is_over(history, number, size, best_epoch, table.patience):
                progress.advance(size**2 * steps, "stopped early")
                continue
            if phase.solver == "gradient" and (optimized is None or optimized.phase != number):
                network.freeze(phase.frozen)
                if phase.learning_rate == "find" and len(finders) <= number:
                    finders.append(_find(config, data, network, fabric, number, weight))
                    unclear = "" if finders[-1]["clear"] else " (no clear fall of the loss: a common value)"
                    say(f"phase {number + 1}: learning rate {finders[-1]['suggestion']:.2g} by the finder{unclear}")
                elif len(finders) <= number:
                    finders.append({})
                rate = finders[number].get("suggestion", phase.learning_rate)
                optimized = optimization(config, network, fabric, number, rate, steps)
                if saved is not None and saved.phase == number:
                    optimized.load_state_dict(saved.optimization)
                    fabric.strategy.precision.load_state_dict(saved.precision)
            seed = table.seed * 100_003 + epoch
            torch.manual_seed(seed + 7919 * fabric.global_rank)
            generator.manual_seed(seed + 7919 * fabric.global_rank)
            order = np.random.default_rng(seed).permutation(data.train)[: steps * table.batch_size * fabric.world_size]
            order = order[fabric.global_rank :: fabric.world_size]
            started = time.monotonic()
            waited = 0.0
            accuracy: float | None
            if phase.solver == "logistic":
                finders += [{}] * (number + 1 - len(finders))
                loss_of_epoch, accuracy, probabilities = _fit_head(config, data, network, augment, phase, fabric)
                if averaged is not None:
                    averaged.set(network)
                progress.advance(size**2 * steps, f"epoch {epoch + 1}/{len(plan)}: the head, by logistic regression")
            else:
                network.train()
                total = torch.zeros((), device=fabric.device)
                right, counted = torch.zeros((), device=fabric.device), 0
                waiting = started

                assert optimized is not None
                for step, (captures, labels) in enumerate(batches(data, order, table.batch_size), start=1):
                    waited += time.monotonic() - waiting
                    try:
                        x = augment(captures.to(fabric.device, non_blocking=True), size)
                        labels = labels.to(fabric.device)
                        x, targets = mixer(x, labels)
                        logits = optimized.model(x)
                        loss = F.cross_entropy(logits, targets, weight=weight, label_smoothing=table.label_smoothing)
                        optimized.step(loss, table.clip_norm)
                    except torch.OutOfMemoryError:
                        raise memory_full(network, x.shape, fabric) from None
                    if averaged is not None:
                        averaged.update(network, step=epoch * steps + step)
                    total += loss.detach()
                    if targets is labels:
                        right += (logits.argmax(dim=1) == labels).sum()
                        counted += len(labels)
                    if step % CHECK_EVERY == 0 or step == steps:
                        _stop_unless_finite(float(total), epoch, step, folder, bool(history))
                    progress.advance(size**2, f"epoch {epoch + 1}/{len(plan)} at {size} px")
                    waiting = time.monotonic()
                loss_of_epoch = float(total) / steps
                accuracy = float(right) / counted if counted else None

            seconds = time.monotonic() - started
            judged = averaged.module if averaged is not None else network
            if phase.solver == "gradient":
                probabilities = predict(fabric, judged, data, data.validation, table.batch_size)
            row = Epoch(
                epoch=epoch + 1,
                phase=number + 1,
                frozen=phase.frozen or phase.solver == "logistic",
                size=size,
                learning_rate=0.0 if optimized is None or phase.solver == "logistic" else optimized.rate,
                loss=loss_of_epoch,
                training_accuracy=accuracy,
                **score(data.targets[data.validation], probabilities),
                captures_per_second=len(order) * fabric.world_size / seconds,
                waited=waited / seconds,
            )
            row = fabric.broadcast(row)  # running statistics differ a little between devices; decisions must not
            history.append(asdict(row))
            if not best or rank(history[-1]) > rank(history[best_epoch - 1]):
                best, best_epoch = copy.deepcopy(judged.state_dict()), len(history)
            state = checkpoint.Checkpoint(
                identity=data.identity,
                epochs_done=epoch + 1,
                phase=number,
                model=network.state_dict(),
                averaged=averaged.module.state_dict() if averaged is not None else None,
                optimization={} if optimized is None else optimized.state_dict(),
                precision=fabric.strategy.precision.state_dict(),
                best=best,
                best_epoch=best_epoch,
                history=history,
                finders=finders,
                seconds=seconds_before + time.monotonic() - started_fit,
            )
            if fabric.is_global_zero:
                say(describe(row, len(plan)))
                checkpoint.save(folder, state)
                write_history(folder, history)

    fabric.barrier()
    network.load_state_dict(best)
    spent = seconds_before + time.monotonic() - started_fit
    chosen = int(history[best_epoch - 1]["epoch"])
    return Fitted(network.cpu().eval(), chosen, history, finders, spent, leader=fabric.is_global_zero)


def class_weights(data: TrainingSet, labels: int, exponent: float) -> Tensor:
    """Weight of each label in the loss, [labels], mean 1: the inverse of its frequency to the power of `exponent`."""
    counts = np.bincount(data.targets[data.train], minlength=labels).clip(min=1)
    weights = (len(data.train) / counts) ** exponent
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def _fit_head(
    config: Config, data: TrainingSet, network: Network, augment: Augment, phase: Phase, fabric: Fabric
) -> tuple[float, float, NDArray[np.float64]]:
    """The head by logistic regression, the same on every device: its mean log loss and accuracy on the training
    captures, and its probabilities of the validation captures.
    """
    size, weights = phase.stages[0].size, class_weights(data, len(config.data.labels), config.training.balance)
    frozen = probe.FrozenFeatures(network, size)

    def features(rows: NDArray[np.int64], prepare: Callable[[Tensor], Tensor]) -> probe.Features:
        captures = (captures for captures, _ in batches(data, rows, config.training.batch_size))
        return frozen.of(from_unit(prepare(one.to(fabric.device))) for one in captures)

    def plain(captures: Tensor) -> Tensor:
        return resize(to_unit(captures), size)

    copies = [features(data.train, lambda captures: augment(captures, size)) for _ in range(phase.copies)]
    passes = [features(data.train, plain), *copies]
    loss, accuracy = probe.fit_head(
        network,
        passes,
        data.targets[data.train],
        weights.double().numpy(),
        phase.inverse_penalty,
        phase.copies_weight,
    )
    network.load_state_dict(fabric.broadcast(network.state_dict()))
    return loss, accuracy, probe.probabilities(network, features(data.validation, plain))


def _find(
    config: Config, data: TrainingSet, network: Network, fabric: Fabric, phase: int, weight: Tensor
) -> dict[str, Any]:
    """The learning-rate finder on a copy of the network, with the phase's first size."""
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
            whole = order[: max(1, len(order) // table.batch_size) * table.batch_size]
            for captures, targets in batches(data, whole, table.batch_size):
                logits = model(augment(captures.to(fabric.device), size))
                targets = targets.to(fabric.device)
                yield F.cross_entropy(logits, targets, weight=weight, label_smoothing=table.label_smoothing)

    steps = min(FINDER_STEPS, max(FINDER_STEPS // 3, 2 * len(data.train) // table.batch_size))
    scaler = fabric.strategy.precision.state_dict()  # the finder ends in overflows, which must not scale the training
    found = find_learning_rate(config, copy.deepcopy(network), fabric, phase, losses, steps)
    fabric.strategy.precision.load_state_dict(scaler)
    return found


def batches(data: TrainingSet, order: NDArray[np.int64], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(captures uint8 [n, S, S, 3], targets [n]) in this order; the next batch is read while this one is used."""
    pinned = torch.cuda.is_available()

    def read(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        captures = torch.from_numpy(data.pixels[indices])
        return captures.pin_memory() if pinned else captures, torch.from_numpy(data.targets[indices])

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


def _stop_unless_finite(total: float, epoch: int, step: int, folder: Path, has_checkpoint: bool) -> None:
    if math.isfinite(total):
        return
    kept = f"the checkpoint of epoch {epoch} is kept in {folder}" if has_checkpoint else "no epoch was completed"
    raise TrainingStopped(
        f"the loss is not a number in epoch {epoch + 1}, by step {step}; {kept}; lower learning_rate in "
        '[[training.phases]], or set training.precision to "32-true"'
    )
