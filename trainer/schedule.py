"""Changes a recipe to another capture size or length; its stages change in proportion."""

from collections.abc import Sequence

from contract.errors import UsageError
from trainer.config import Config, Phase, Stage

STEP = 32
"""Sizes of stages are multiples of this, because a backbone halves the side five times."""


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
    """The stages of all phases that are trained, in order; without initial weights, those for training from scratch."""
    return [stage for phase in config.resolved().training.phases for stage in phase.stages]


def epochs_of(config: Config) -> int:
    """Number of epochs of all stages. A head fitted by logistic regression counts one pass over the captures, and one
    more for each augmented copy.
    """
    return sum(_epochs_by_stage(config))


def _epochs_by_stage(config: Config) -> list[int]:
    return [
        1 + phase.copies if phase.solver == "logistic" else stage.epochs
        for phase in config.resolved().training.phases
        for stage in phase.stages
    ]


def of_length(config: Config, epochs: int) -> Config:
    """The recipe with `epochs` epochs in total, divided among its stages in proportion, at least one for each.

    Where the head is fitted by logistic regression, its number of augmented copies changes. Raises UsageError when
    there are more stages than epochs.
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
    """Divide `total` into whole numbers of at least 1 in proportion to `weights`, by largest remainders."""
    shares = [total * weight / sum(weights) for weight in weights]
    whole = [max(1, int(share)) for share in shares]
    while sum(whole) != total:
        step = 1 if sum(whole) < total else -1
        changeable = [i for i in range(len(whole)) if step > 0 or whole[i] > 1]
        furthest = max(changeable, key=lambda i: step * (shares[i] - whole[i]))
        whole[furthest] += step
    return whole


def _with_phases(config: Config, phases: list[Phase]) -> Config:
    training = config.training.model_copy(update={"phases": phases})
    return Config.model_validate(config.model_copy(update={"training": training}).model_dump())
