"""`screen train`: labelled captures in, a bundle out. torch is imported only when the command runs."""

import importlib
import os
from pathlib import Path

import click
import platformdirs

from contract.errors import UsageError
from trainer.config import load_config

NEEDED = ("torch", "timm", "lightning.fabric", "onnx", "onnxruntime", "onnxscript", "sklearn")


@click.command("train")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write the bundle to.")
@click.option("--recipe", default="b3", show_default=True, help="Name of a shipped recipe (b3, demo) or a TOML file.")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed than the recipe's.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder for decoded captures.  [default: the user's cache folder]"
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Folder for the checkpoint, kept afterwards.  [default: OUT.checkpoint, removed once the bundle is written]",
)
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Go on from the checkpoint if there is one."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def train(
    data: Path,
    out: Path,
    recipe: str,
    seed: int | None,
    cache: Path | None,
    checkpoint: Path | None,
    resume: bool,
    force: bool,
) -> None:
    """Train on the labelled captures in DATA and export a bundle.

    DATA holds a labels.csv (columns path, label, and if known patient, split), or one folder per class. The bundle's
    path is printed alone on stdout; everything else goes to stderr. A run that was killed goes on from its last epoch
    when the same command is given again.
    """
    config = load_config(recipe).with_seed(seed)
    _require_train_extra()
    from trainer.run import remove_checkpoint
    from trainer.run import train as run

    folder = checkpoint or out.with_name(f"{out.name}.checkpoint")
    run(
        data,
        out,
        config,
        cache=cache or Path(platformdirs.user_cache_dir("slide-screen")) / "captures",
        checkpoint=folder,
        resume=resume,
        force=force,
    )
    if checkpoint is None:
        remove_checkpoint(folder)
    click.echo(out)


def _require_train_extra() -> None:
    # Before torch loads its OpenMP: threads that wait for each other by spinning lose their turns to whatever else
    # runs. Beside other busy processes on two cores a short B3 run took 137 s spinning and 53 s without (tried once
    # each; not measured on an idle machine).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        for module in NEEDED:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs its extra: pip install '.[train]' in the repository ({error})") from None
