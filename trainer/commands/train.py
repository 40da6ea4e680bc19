"""`screen train`: makes a bundle from labelled captures. torch is imported only when the command runs."""

from pathlib import Path
from typing import Any

import click

from contract.errors import UsageError
from contract.files import check_folder
from contract.outputs import OutputFolder
from contract.terminal import data_out
from trainer.options import cache_option, configured, data_options, require_train_extra


@click.command("train")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Write the bundle to this folder, and the split with paths and patients to OUT.split.csv beside it.",
)
@click.option(
    "--recipe", default="ours", show_default=True,
    help="Train by this recipe: a shipped one (ours, fast, probe, thesis, reference, b3-hsv, demo) or a TOML file.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Use this seed instead of the recipe's.")
@data_options
@click.option(
    "--minutes", type=click.FloatRange(min=1),
    help="Train as many of the recipe's epochs as fit into this many minutes on this machine, export included.",
)  # fmt: skip
@click.option(
    "--cross-validate", "folds", type=click.IntRange(2, 20),
    help="Train once for each of this many folds; OUT then holds a bundle of each, and cross-validation.json.",
)  # fmt: skip
@cache_option
@click.option(
    "--checkpoint",
    type=OutputFolder(),
    show_default="OUT.checkpoint, removed once the bundle is written",
    help="Write the checkpoint to this folder and keep it.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Continue from the checkpoint if there is one, or begin again.",
)
@click.option(
    "--devices",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Train on this many devices of each machine; each takes batches of the recipe's size.",
)
@click.option(
    "--nodes", default=1, show_default=True, type=click.IntRange(min=1), help="Train on this many machines together."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def train(
    data: Path,
    out: Path,
    recipe: str,
    seed: int | None,
    given_split: Path | None,
    minutes: float | None,
    folds: int | None,
    cache: Path,
    checkpoint: Path | None,
    resume: bool,
    devices: int,
    nodes: int,
    force: bool,
    **overrides: Any,
) -> None:
    """Train on the labelled captures in DATA and export a bundle.

    DATA holds a labels.csv (columns path, label, and if known patient, split, site), or one folder per class, perhaps
    under Original/. Before training starts, the command times a few steps and says how long training will take here.
    It prints only the bundle's path on stdout; everything else goes to stderr. After a run was killed, the same
    command continues from its last epoch.
    """
    config = configured(recipe, seed=seed, **overrides)
    if folds and (given_split or checkpoint):
        raise UsageError("--cross-validate makes its own splits and checkpoints; leave out --split and --checkpoint")
    require_train_extra()
    from trainer import run
    from trainer.crossval import pool
    from trainer.devices import Devices

    work = run.Work(cache=cache, resume=resume, force=force, devices=Devices(devices, nodes))
    if folds:
        check_folder(out)
        prepared = run.prepare(data, config, cache)
        bundles = run.cross_validate(prepared, out, config, folds, work=work, minutes=minutes)
        if len(bundles) == folds:
            pool(prepared, bundles, out)
            data_out(str(out))
        return
    run.refuse_taken(out, work)
    prepared = run.prepare(data, config, cache, given_split=given_split)
    split = run.split_of(prepared, config, given=given_split)
    folder = checkpoint or out.with_name(f"{out.name}.checkpoint")
    planned = run.plan(prepared, split, folder, config, minutes=minutes, work=work)
    bundle = run.train(prepared, split, out, planned.config, checkpoint=folder, work=work, notes=planned.notes)
    if bundle is None:
        return
    run.print_classes(bundle)
    if checkpoint is None:
        run.remove_checkpoint(folder)
    data_out(str(out))
