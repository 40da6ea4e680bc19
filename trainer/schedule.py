"""A recipe at another size or of another length: its stages in proportion."""

from collections.abc import Sequence

from contract.errors import UsageError
from trainer.config import Config, Phase, Stage

STEP = 32
"""Stages keep to multiples of it: a backbone halves the side five times."""


def at_size(config: Config, size: int) -> Config:
    """The recipe with captures of side `size`, in pixels; the sizes of its stages change in proportion."""

    def scaled(stages: Sequence[Stage]) -> list[Stage]:
        return [stage.model_copy(update={"size": _side(stage.size, config.image.size, size)}) for stage in stages]

    phases = [
        phase.model_copy(
            update={
                "stages": scaled(phase.stages),
                "scratch_stages": scaled(phase.scratch_stages) if phase.scratch_stages else None,
            }
        )
        for phase in config.training.phases
    ]
    return _with_phases(config.model_copy(update={"image": config.image.model_copy(update={"size": size})}), phases)


def _side(side: int, old: int, new: int) -> int:
    return new if side == old else max(STEP, min(new, round(side * new / old / STEP) * STEP))


def stages_of(config: Config) -> list[Stage]:
    """The stages that are trained, of all phases in their order: those from scratch without initial weights."""
    return [stage for phase in config.resolved().training.phases for stage in phase.stages]


def epochs_of(config: Config) -> int:
    """Epochs that are trained, of all stages: a head that is fitted in one go passes over the captures once, and once
    for each augmented copy.
    """
    return sum(_epochs_by_stage(config))


def _epochs_by_stage(config: Config) -> list[int]:
    return [
        1 + phase.copies if phase.solver == "logistic" else stage.epochs
        for phase in config.resolved().training.phases
        for stage in phase.stages
    ]


def of_length(config: Config, epochs: int) -> Config:
    """The recipe with so many epochs in all, shared among its stages in proportion, each at least one.

    Of a head fitted by logistic regression the augmented copies change. Raises UsageError when there are more stages
    than epochs.
    """
    stages = stages_of(config)
    if epochs < len(stages):
        raise UsageError(
            f"recipe {config.name} has {len(stages)} stages and needs at least one epoch for each; name {len(stages)} "
            "epochs or more, or write a recipe with fewer stages"
        )
    if epochs == epochs_of(config):
        return config
    shares = iter(_shared(epochs, _epochs_by_stage(config)))
    scratch = config.model.initial_weights == "none"

    def lengthened(phase: Phase) -> Phase:
        if phase.solver == "logistic":
            return phase if scratch else phase.model_copy(update={"copies": next(shares) - 1})
        key = "scratch_stages" if scratch and phase.scratch_stages else "stages"
        changed = [stage.model_copy(update={"epochs": next(shares)}) for stage in getattr(phase, key)]
        return phase.model_copy(update={key: changed})

    return _with_phases(config, [lengthened(phase) for phase in config.training.phases])


def _shared(total: int, weights: Sequence[int]) -> list[int]:
    """`total` as whole numbers of at least 1 in proportion to `weights`, by largest remainders."""
    shares = [total * weight / sum(weights) for weight in weights]
    whole = [max(1, int(share)) for share in shares]
    while sum(whole) != total:
        step = 1 if sum(whole) < total else -1
        open_to_it = [i for i in range(len(whole)) if step > 0 or whole[i] > 1]
        furthest = max(open_to_it, key=lambda i: step * (shares[i] - whole[i]))
        whole[furthest] += step
    return whole


def _with_phases(config: Config, phases: list[Phase]) -> Config:
    training = config.training.model_copy(update={"phases": phases})
    return Config.model_validate(config.model_copy(update={"training": training}).model_dump())
