"""Estimates, by a trial of a few real steps, how long a training takes here, and shortens it to fit into minutes.

The trial is `fit` itself on a few batches, twice at each size: the first time warms up, the second is timed.
"""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.errors import UsageError
from contract.files import write_whole
from trainer.batches import TrainingSet, predict
from trainer.config import Config, Phase, Stage, recipe_names
from trainer.devices import Devices, computes_in_bfloat16, device_name
from trainer.fit import fit
from trainer.optim import FINDER_STEPS
from trainer.progress import quiet, say
from trainer.reference import REFERENCE_CAPTURES
from trainer.robustness import SCORINGS
from trainer.schedule import STEP, epochs_of, of_length, stages_of

TRIAL_STEPS = 2
FILE = "plan.json"
GRAPH_SHARE = 1 / 3
"""Share of torch's time for a capture that the exported graph needs on a CPU (trainer/probe.py)."""
SMALLEST_SIZE = 96
"""No smaller side is suggested: a cell is hardly visible in it."""


@dataclass(frozen=True)
class Pace:
    """Seconds per capture: for training, by (frozen, side), and for validation at the final side."""

    training: dict[tuple[bool, int], float]
    validation: float


@dataclass(frozen=True)
class Amount:
    """How many captures are for training, validation and test."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Plan:
    """The configuration to train, and sentences for the provenance on how it was fitted into the time."""

    config: Config
    notes: list[str]


Measure = Callable[[Config, TrainingSet, Devices], Pace]


def trial(config: Config, data: TrainingSet, devices: Devices) -> Pace:
    """Time a few steps of `config`'s training at each size, frozen or not, and validation; the results are not kept."""
    table = config.training
    by_gradient = [phase for phase in table.phases if phase.solver == "gradient"]
    sizes = {(phase.frozen, stage.size) for phase in by_gradient for stage in phase.stages}
    if config.image.size not in {size for _, size in sizes}:
        sizes.add((True, config.image.size))  # a recipe ends at image.size
    phases = [
        Phase(frozen=frozen, stages=[Stage(size=size, epochs=2)])
        for frozen, size in sorted(sizes, key=lambda pair: pair[1])
    ]
    short = config.changed("training", phases=[phase.model_dump() for phase in phases], patience=len(phases) + 2)
    order = np.random.default_rng(table.seed).permutation(data.train)[: TRIAL_STEPS * table.batch_size]
    few = replace(data, train=order, validation=data.validation[: table.batch_size])
    with quiet(), tempfile.TemporaryDirectory() as folder:
        fitted = fit(short, few, Path(folder), resume=False, devices=devices)
        training = {(row["frozen"], row["size"]): 1 / row["captures_per_second"] for row in fitted.history}
        fabric = devices.fabric(table.precision)
        network = fitted.network.to(fabric.device)
        begin = time.monotonic()
        predict(fabric, network, few, few.validation, table.batch_size)
        return Pace(training, (time.monotonic() - begin) / len(few.validation))


def training_seconds(config: Config, pace: Pace, amount: Amount) -> float:
    """The time of all epochs, each with its validation, and of the learning-rate finder.

    A head fitted by logistic regression needs the features of all captures once, from the exported graph.
    """
    table = config.resolved().training
    counted = max(1, amount.train // table.batch_size) * table.batch_size
    total = 0.0
    for phase in table.phases:
        if phase.solver == "logistic":
            area = (phase.stages[0].size / config.image.size) ** 2
            features = (1 + phase.copies) * amount.train * area + amount.validation
            total += features * pace.validation * GRAPH_SHARE
            continue
        if phase.learning_rate == "find":
            total += FINDER_STEPS * table.batch_size * pace.training[phase.frozen, phase.stages[0].size]
        for stage in phase.stages:
            epoch = counted * pace.training[phase.frozen, stage.size] + amount.validation * pace.validation
            total += stage.epochs * epoch
    return total


def export_seconds(config: Config, pace: Pace, amount: Amount) -> float:
    """The time of what follows training: calibration, scoring, robustness and reference statistics.

    All of it uses the exported graph.
    """
    audited = min(amount.test, config.export.audit_captures) * SCORINGS
    captures = 2 * amount.validation + amount.test + audited + min(amount.train, REFERENCE_CAPTURES)
    return captures * pace.validation * GRAPH_SHARE * config.export.test_time_flips


def plan(
    config: Config,
    data: TrainingSet,
    tested: int,
    folder: Path,
    *,
    minutes: float | None = None,
    runs: int = 1,
    resume: bool = True,
    devices: Devices | None = None,
    measure: Measure | None = None,
) -> Plan:
    """Say how long `runs` trainings take here, and fit their epochs into `minutes`, if given.

    The plan is kept in `folder`, the checkpoint's, so that a killed training goes on as it began: the speed measured
    differs from day to day. Raises UsageError when not even one epoch for each stage fits.
    """
    devices = devices or Devices()
    if devices.several:
        if minutes is not None:
            raise UsageError("--minutes times a trial on one device; leave it out with several, and name --epochs")
        return Plan(config, [])
    key = _key(data, minutes, runs)
    if resume and (kept := _kept(folder, key, config)) is not None:
        say(" ".join([f"as planned when this training began: {epochs_of(kept.config)} epochs.", *kept.notes]))
        return kept
    say("timing a few steps of training")
    amount = Amount(len(data.train), len(data.validation), tested)
    config, pace = _fastest(config, data, devices, measure or trial)
    notes: list[str] = []
    if minutes is not None:
        fitted = _fitting(config, pace, amount, minutes / runs * 60)
        notes = [_fitted_note(config, fitted, minutes)]
        config = fitted
    say(_sentence(config, pace, amount, runs))
    _keep(folder, key, Plan(config, notes))
    return Plan(config, notes)


def _fastest(config: Config, data: TrainingSet, devices: Devices, measure: Measure) -> tuple[Config, Pace]:
    """The configuration and its pace. A precision of "auto" becomes bfloat16 if that is faster on this machine."""
    pace = measure(config.resolved(), data, devices)
    if config.training.precision != "auto" or not computes_in_bfloat16():
        return config, pace
    half = config.changed("training", precision="bf16-mixed")
    half_pace = measure(half.resolved(), data, devices)
    amount = Amount(len(data.train), len(data.validation), 0)
    faster = training_seconds(half, half_pace, amount) < training_seconds(config, pace, amount)
    return (half, half_pace) if faster else (config, pace)


def _fitting(config: Config, pace: Pace, amount: Amount, seconds: float) -> Config:
    """The recipe, or a shorter one with as many epochs as fit into `seconds`; the time for the bundle counts too."""

    def needed(candidate: Config) -> float:
        return training_seconds(candidate, pace, amount) + export_seconds(candidate, pace, amount)

    fewest = len(stages_of(config))
    if needed(config) <= seconds:
        return config
    for epochs in range(epochs_of(config) - 1, fewest - 1, -1):
        candidate = of_length(config, epochs)
        if needed(candidate) <= seconds:
            return candidate
    shortest = needed(of_length(config, fewest))
    size = int(config.image.size * math.sqrt(seconds / shortest) // STEP * STEP)
    ways = [f"--minutes {math.ceil(shortest / 60)}"]
    if size >= SMALLEST_SIZE:
        ways.append(f"smaller captures (--size {size})")
    others = [name for name in ("probe", "fast") if name in recipe_names() and name != config.name]
    ways += [f"--recipe {name}" for name in others]
    raise UsageError(
        f"{seconds / 60:.3g} min are too few for recipe {config.name} here: one epoch for each of its {fewest} stages "
        f"and the export take about {shortest / 60:.2g} min; give {', or '.join(ways)}"
    )


def _fitted_note(recipe: Config, fitted: Config, minutes: float) -> str:
    recipe_epochs, epochs = epochs_of(recipe), epochs_of(fitted)
    if epochs == recipe_epochs:
        return f"The {recipe_epochs} epochs of the recipe fit into the {minutes:g} minutes that were given."
    return f"To fit into {minutes:g} minutes, {epochs} of the recipe's {recipe_epochs} epochs are trained."


def _sentence(config: Config, pace: Pace, amount: Amount, runs: int) -> str:
    training, export = training_seconds(config, pace, amount), export_seconds(config, pace, amount)
    epochs = epochs_of(config)
    folds = f"{runs} folds of " if runs > 1 else ""
    return (
        f"about {_minutes(runs * (training + export))} min on {device_name()}, {folds}{epochs} epochs of "
        f"{amount.train} captures, of which {_minutes(runs * export)} min to measure the network and write the bundle"
        f"{' (bfloat16)' if config.training.precision == 'bf16-mixed' else ''}; --minutes N fits the epochs into N"
    )


def _minutes(seconds: float) -> str:
    return "less than 1" if seconds < 60 else f"{seconds / 60:.0f}"


def _key(data: TrainingSet, minutes: float | None, runs: int) -> str:
    """Names the training that a plan is for: its configuration, data and split, and the minutes and runs asked for."""
    return hashlib.sha256(f"{data.identity} {minutes} {runs}".encode()).hexdigest()


def _keep(folder: Path, key: str, plan: Plan) -> None:
    training = plan.config.training.model_dump(mode="json", include={"phases", "precision"})
    write_whole(folder / FILE, json.dumps({"key": key, "training": training, "notes": plan.notes}))


def _kept(folder: Path, key: str, config: Config) -> Plan | None:
    """The plan that was kept when this same training began; None if it has not begun."""
    if not (folder / FILE).is_file():
        return None
    kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    if kept["key"] != key:
        return None
    return Plan(config.changed("training", **kept["training"]), kept["notes"])
