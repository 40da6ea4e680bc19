"""The whole training loop: Lightning Fabric handles devices and precision, torch the schedules.

Phases follow one another, each with one schedule; within a phase the side of the captures may grow. After every epoch
the weights, averaged if the recipe says so, are scored on the validation captures at the final size, and the best epoch
is kept. A checkpoint is written, from which a killed run goes on to the same weights (on the CPU, to the bit).
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from lightning.fabric import Fabric
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor

from contract.errors import ScreeningError
from trainer import checkpoint, probe
from trainer.augment import Augment, Mixer
from trainer.batches import TrainingSet, batches, class_weights, predict
from trainer.config import Config, Phase, TrainingTable
from trainer.devices import Devices, memory_full
from trainer.history import Epoch, describe, patience_is_over, rank, score, write_history
from trainer.memory import keep_freed_memory
from trainer.model import Network, build_network
from trainer.optim import Optimization, find_for_phase, optimization
from trainer.progress import bar, say

CHECK_EVERY = 20
"""Steps between two checks of the loss: on a GPU each check waits for the device."""


class TrainingStopped(ScreeningError):
    """The loss is no longer a number; the last checkpoint was written before that."""


@dataclass(frozen=True)
class Fitted:
    """The network with the weights of its best epoch, in eval mode on the CPU, and how training led there.

    `finders` are the learning-rate finders' curves by phase. If several processes trained, one of them is the leader,
    and the others have nothing more to do.
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
    """Train as `config` says; write the checkpoint and metrics.csv into `folder`.

    Raises TrainingStopped when the loss is not finite, DeviceMemoryFull naming a batch size that fits, SettingsError
    when the checkpoint belongs to another run.
    """
    keep_freed_memory()
    fabric = (devices or Devices()).fabric(config.training.precision)
    training = _Training(config, data, folder, fabric)
    if resume:
        training.go_on()
    with bar("training", training.work_left) as progress:
        while (planned := training.next_epoch()) is not None:
            if training.patience_is_over(planned):
                progress.advance(planned.size**2 * training.steps, "stopped early")
                continue
            training.begin_phase(planned)
            learned = training.learn(planned, progress.advance)
            training.score_and_keep(planned, learned)
            training.save(planned)
    fabric.barrier()
    return training.fitted()


@dataclass(frozen=True)
class _Planned:
    """An epoch of the recipe: its number from 0, its phase, the captures' side, and whether that is the last side of
    the phase.
    """

    epoch: int
    phase: int
    size: int
    is_last_stage: bool


@dataclass(frozen=True)
class _Learned:
    """One epoch's mean loss, accuracy on the training captures if it is known, and speed; `probabilities` of the
    validation captures if learning has already computed them.
    """

    loss: float
    accuracy: float | None
    captures: int
    seconds: float
    waited_s: float
    probabilities: NDArray[np.float64] | None = None


def plan_epochs(table: TrainingTable) -> list[_Planned]:
    """Every epoch of every stage of every phase."""
    stages = [
        (number, stage.size, stage is phase.stages[-1])
        for number, phase in enumerate(table.phases)
        for stage in phase.stages
        for _ in range(stage.epochs)
    ]
    return [_Planned(epoch, *stage) for epoch, stage in enumerate(stages)]


class _Training:
    """A training in progress: network, weights averaged over steps, the history by epoch, and the best epoch."""

    def __init__(self, config: Config, data: TrainingSet, folder: Path, fabric: Fabric) -> None:
        table = config.training
        self.config, self.data, self.folder, self.fabric = config, data, folder, fabric
        self.plan = plan_epochs(table)
        captures_per_step = table.batch_size * fabric.world_size
        self.steps = max(1, len(data.train) // captures_per_step)  # captures left over wait for a later epoch
        torch.manual_seed(table.seed)
        self.network = build_network(config.model, len(config.data.labels)).to(memory_format=torch.channels_last)
        self.network.to(fabric.device)
        self.averaged = ModelEmaV3(self.network, decay=table.ema_decay, use_warmup=True) if table.ema_decay else None
        self.generator = torch.Generator(fabric.device)
        self.augment = Augment(config.augment, self.generator)
        self.mixer = Mixer(config.augment, len(config.data.labels))
        self.weight = class_weights(data, len(config.data.labels), table.balance).to(fabric.device)
        self.history: list[dict[str, Any]] = []
        self.finders: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.best_epoch = 0
        self.optimized: Optimization | None = None
        self._epochs_begun = 0
        self._saved: checkpoint.Checkpoint | None = None
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def go_on(self) -> None:
        """Load the checkpoint in the folder, if there is one. Raises SettingsError if it belongs to another run."""
        saved = self._saved = checkpoint.load(self.folder, self.data.identity)
        if saved is None:
            return
        self.network.load_state_dict(saved.model)
        if self.averaged is not None and saved.averaged is not None:
            self.averaged.module.load_state_dict(saved.averaged)
        self.history, self.finders = saved.history, saved.finders
        self.best, self.best_epoch = saved.best, saved.best_epoch
        self._epochs_begun, self._seconds_before = saved.epochs_done, saved.seconds
        say(f"continuing after epoch {self._epochs_begun} of {len(self.plan)} from {self.folder}")

    @property
    def work_left(self) -> int:
        """Steps that are left, each counted by the pixels of a capture."""
        return sum(planned.size**2 for planned in self.plan[self._epochs_begun :]) * self.steps

    def next_epoch(self) -> _Planned | None:
        if self._epochs_begun == len(self.plan):
            return None
        self._epochs_begun += 1
        return self.plan[self._epochs_begun - 1]

    def patience_is_over(self, planned: _Planned) -> bool:
        """Whether the phase's last stage has gone too many epochs without a better one."""
        patience = self.config.training.patience
        return planned.is_last_stage and patience_is_over(
            self.history, planned.phase, planned.size, self.best_epoch, patience
        )

    def begin_phase(self, planned: _Planned) -> None:
        """In the first epoch of a phase: freeze what does not learn, find the learning rate, make the optimizer."""
        number, phase = planned.phase, self._phase(planned)
        if phase.solver == "logistic":
            self.finders += [{}] * (number + 1 - len(self.finders))
            return
        if self.optimized is not None and self.optimized.phase == number:
            return
        self.network.freeze(phase.frozen)
        if len(self.finders) <= number:
            self.finders.append(self._find_rate(number) if phase.learning_rate == "find" else {})
        rate = self.finders[number].get("suggestion", phase.learning_rate)
        self.optimized = optimization(self.config, self.network, self.fabric, number, rate, self.steps)
        if self._saved is not None and self._saved.phase == number:
            self.optimized.load_state_dict(self._saved.optimization)
            self.fabric.strategy.precision.load_state_dict(self._saved.precision)

    def _find_rate(self, number: int) -> dict[str, Any]:
        curve = find_for_phase(self.config, self.data, self.network, self.fabric, number, self.weight)
        unclear = "" if curve["clear"] else " (no clear fall of the loss: a common value)"
        say(f"phase {number + 1}: learning rate {curve['suggestion']:.2g} by the finder{unclear}")
        return curve

    def learn(self, planned: _Planned, advance: Callable[[int, str], object]) -> _Learned:
        """One epoch. The seed, the epoch's number and the device's rank determine everything that is random in it.

        Raises TrainingStopped, DeviceMemoryFull.
        """
        table, fabric = self.config.training, self.fabric
        seed = table.seed * 100_003 + planned.epoch
        torch.manual_seed(seed + 7919 * fabric.global_rank)
        self.generator.manual_seed(seed + 7919 * fabric.global_rank)
        count = self.steps * table.batch_size * fabric.world_size
        order = np.random.default_rng(seed).permutation(self.data.train)[:count]
        order = order[fabric.global_rank :: fabric.world_size]
        if self._phase(planned).solver == "logistic":
            return self._learn_head(planned, len(order), advance)
        return self._learn_by_steps(planned, order, advance)

    def _learn_head(self, planned: _Planned, captures: int, advance: Callable[[int, str], object]) -> _Learned:
        started = time.monotonic()
        loss, accuracy, probabilities = probe.fit_on_training(
            self.config, self.data, self.network, self.augment, self._phase(planned), self.fabric
        )
        if self.averaged is not None:
            self.averaged.set(self.network)
        step_name = f"epoch {planned.epoch + 1}/{len(self.plan)}: the head, by logistic regression"
        advance(planned.size**2 * self.steps, step_name)
        return _Learned(loss, accuracy, captures, time.monotonic() - started, 0.0, probabilities)

    def _learn_by_steps(
        self, planned: _Planned, order: NDArray[np.int64], advance: Callable[[int, str], object]
    ) -> _Learned:
        table, device = self.config.training, self.fabric.device
        self.network.train()
        total = torch.zeros((), device=device)
        right, counted = torch.zeros((), device=device), 0
        started = waiting = time.monotonic()
        waited = 0.0
        for step, (captures, labels) in enumerate(batches(self.data, order, table.batch_size), start=1):
            waited += time.monotonic() - waiting
            labels = labels.to(device)
            loss, logits, targets = self._step(captures, labels, planned.size)
            if self.averaged is not None:
                self.averaged.update(self.network, step=planned.epoch * self.steps + step)
            total += loss
            if targets is labels:
                right += (logits.argmax(dim=1) == labels).sum()
                counted += len(labels)
            if step % CHECK_EVERY == 0 or step == self.steps:
                _stop_unless_finite(float(total), planned.epoch, step, self.folder, bool(self.history))
            advance(planned.size**2, f"epoch {planned.epoch + 1}/{len(self.plan)} at {planned.size} px")
            waiting = time.monotonic()
        accuracy = float(right) / counted if counted else None
        return _Learned(float(total) / self.steps, accuracy, len(order), time.monotonic() - started, waited)

    def _step(self, captures: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, logits, and the targets, which are `labels` itself unless the batch was mixed."""
        table, optimized = self.config.training, self.optimized
        assert optimized is not None
        shape = torch.Size((len(captures), 3, size, size))
        try:
            x = self.augment(captures.to(self.fabric.device, non_blocking=True), size)
            shape = x.shape
            x, targets = self.mixer(x, labels)
            logits = optimized.model(x)
            loss = F.cross_entropy(logits, targets, weight=self.weight, label_smoothing=table.label_smoothing)
            optimized.step(loss, table.clip_norm)
        except torch.OutOfMemoryError:
            raise memory_full(self.network, shape, self.fabric) from None
        return loss.detach(), logits, targets

    def score_and_keep(self, planned: _Planned, learned: _Learned) -> None:
        """Score the weights on the validation captures at the final size; keep them if they are the best so far."""
        phase, optimized = self._phase(planned), self.optimized
        evaluated = self.averaged.module if self.averaged is not None else self.network
        probabilities = learned.probabilities
        if probabilities is None:
            batch = self.config.training.batch_size
            probabilities = predict(self.fabric, evaluated, self.data, self.data.validation, batch)
        is_head = phase.solver == "logistic"
        row = Epoch(
            epoch=planned.epoch + 1,
            phase=planned.phase + 1,
            frozen=phase.frozen or is_head,
            size=planned.size,
            learning_rate=0.0 if optimized is None or is_head else optimized.rate,
            loss=learned.loss,
            training_accuracy=learned.accuracy,
            **score(self.data.targets[self.data.validation], probabilities),
            captures_per_second=learned.captures * self.fabric.world_size / learned.seconds,
            waited=learned.waited_s / learned.seconds,
        )
        row = self.fabric.broadcast(row)  # running statistics differ slightly between devices; decisions must not
        self.history.append(asdict(row))
        if not self.best or rank(self.history[-1]) > rank(self.history[self.best_epoch - 1]):
            self.best, self.best_epoch = copy.deepcopy(evaluated.state_dict()), len(self.history)
        if self.fabric.is_global_zero:
            say(describe(row, len(self.plan)))

    def save(self, planned: _Planned) -> None:
        """Write the checkpoint from which a killed training goes on, and metrics.csv."""
        state = checkpoint.Checkpoint(
            identity=self.data.identity,
            epochs_done=planned.epoch + 1,
            phase=planned.phase,
            model=self.network.state_dict(),
            averaged=self.averaged.module.state_dict() if self.averaged is not None else None,
            optimization={} if self.optimized is None else self.optimized.state_dict(),
            precision=self.fabric.strategy.precision.state_dict(),
            best=self.best,
            best_epoch=self.best_epoch,
            history=self.history,
            finders=self.finders,
            seconds=self._seconds(),
        )
        if self.fabric.is_global_zero:
            checkpoint.save(self.folder, state)
            write_history(self.folder, self.history)

    def fitted(self) -> Fitted:
        """The network with its best weights."""
        self.network.load_state_dict(self.best)
        best_epoch = int(self.history[self.best_epoch - 1]["epoch"])
        return Fitted(
            self.network.cpu().eval(), best_epoch, self.history, self.finders, self._seconds(),
            leader=self.fabric.is_global_zero,
        )  # fmt: skip

    def _phase(self, planned: _Planned) -> Phase:
        return self.config.training.phases[planned.phase]

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _stop_unless_finite(total: float, epoch: int, step: int, folder: Path, has_checkpoint: bool) -> None:
    if math.isfinite(total):
        return
    checkpoint_note = (
        f"the checkpoint of epoch {epoch} is kept in {folder}" if has_checkpoint else "no epoch was completed"
    )
    raise TrainingStopped(
        f"the loss is not a number in epoch {epoch + 1}, by step {step}; {checkpoint_note}; lower learning_rate in "
        '[[training.phases]], or set training.precision to "32-true"'
    )
