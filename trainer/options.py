"""Options that the commands of the trainer share, and how they change a recipe."""

import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from contract.caches import find_cache, give_libraries_a_home
from contract.errors import UsageError
from contract.outputs import OutputFolder
from trainer.config import Config, SplitRule, load_config
from trainer.progress import say
from trainer.schedule import at_size, of_length

NEEDED = (
    "torch",
    "timm",
    "lightning.fabric",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "imagehash",
    "matplotlib",
)
Command = Callable[..., Any]

cache_option = click.option(
    "--cache",
    type=OutputFolder(),
    default=lambda: default_cache(),  # asked when the command runs
    show_default="the user's cache folder",
    help="Keep decoded captures in this folder.",
)


def default_cache() -> Path:
    """Where decoded captures are kept if the command line does not say so. Says where, if it is not the user's cache
    folder. Raises UsageError if there is no folder to write to.
    """
    cache = find_cache(None)
    if cache.folder is None:
        raise UsageError(f"{cache.problem}; name a folder with --cache")
    if cache.problem is not None:
        say(f"{cache.problem}; --cache names another")
    return cache.folder / "captures"


def data_options(command: Command) -> Command:
    """The parts of a recipe that the command line can change: network, size, epochs, labels, split, batch size."""
    for option in reversed((
        click.option("--architecture", help="Use this backbone, by timm's name, instead of the recipe's."),
        click.option(
            "--initial-weights",
            help='Start from these weights instead of the recipe\'s: "imagenet", "package", "none", or a .safetensors, '
                ".pth or .pt file.",
        ),
        click.option(
            "--size", type=click.IntRange(32, 2048),
            help="Set the side of the captures in pixels instead of the recipe's; its smaller stages change in "
                "proportion.",
        ),
        click.option(
            "--epochs", type=click.IntRange(min=1),
            help="Train this many epochs in all instead of the recipe's; its stages change in proportion, and "
                "each keeps at least one.",
        ),
        click.option("--split-rule", type=click.Choice(get_args(SplitRule)),
            help="Hold out captures by this rule instead of the recipe's."),
        click.option(
            "--split", "given_split", type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="Use the split in this split.csv: the same captures are for training, validation and test.",
        ),
        click.option("--labels", help="Use these labels, separated by commas, instead of the recipe's."),
        click.option("--benign-label", help="Use this label as the benign one instead of the recipe's."),
        click.option("--batch-size", type=click.IntRange(min=2),
            help="Use this many captures in a step instead of the recipe's."),
    )):  # fmt: skip
        command = option(command)
    return command


def configured(
    recipe: str,
    *,
    seed: int | None = None,
    architecture: str | None = None,
    initial_weights: str | None = None,
    size: int | None = None,
    epochs: int | None = None,
    split_rule: str | None = None,
    labels: str | None = None,
    benign_label: str | None = None,
    batch_size: int | None = None,
) -> Config:
    """The recipe with the changes from the command line. Raises SettingsError, UsageError."""
    config = load_config(recipe).changed("training", seed=seed, batch_size=batch_size)
    label_names = [label.strip() for label in labels.split(",")] if labels else None
    config = config.changed("model", architecture=architecture, initial_weights=initial_weights)
    config = config.changed("data", split=split_rule, labels=label_names, benign_label=benign_label)
    config = at_size(config, size) if size else config
    return of_length(config, epochs) if epochs else config


def require_train_extra() -> None:
    """Raise UsageError that names the extra if torch and the others are not installed."""
    # Set before torch loads its OpenMP: threads that wait for each other by spinning lose their turns to other
    # processes. Beside other busy processes on two cores a short B3 run took 137 s with spinning and 53 s without
    # (tried once each; not measured on an idle machine).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    give_libraries_a_home()
    # torch warns if triton is not installed, which only a GPU needs (requirements/train-cpu.txt).
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    try:
        for module in NEEDED:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs its extra: pip install '.[train]' in the repository ({error})") from None
