"""`screen compare`: several recipes, or backbones, on one split."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from contract.errors import UsageError
from contract.outputs import OutputFolder
from contract.printable import printable_json
from contract.terminal import data_out, plain, terminal
from trainer.options import cache_option, configured, data_options, require_train_extra


@click.command("compare")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    help="Train by this recipe; the option can be repeated. With --backbone: the recipe that the backbones share.",
)
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    help="Put this backbone, by timm's name, into the first recipe; the option can be repeated.",
)
@click.option("--paper-backbones", is_flag=True, help="Train the ten backbones that the reference paper compares.")
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1, 20), help="Train each one with this many seeds."
)
@click.option(
    "--out",
    required=True,
    type=OutputFolder(),
    help="Write the bundles, comparison.json and report.html to this folder.",
)
@data_options
@cache_option
@click.option("--force", is_flag=True, help="Train the bundles that OUT already holds again.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def compare(
    data: Path,
    recipes: tuple[str, ...],
    backbones: tuple[str, ...],
    paper_backbones: bool,
    seeds: int,
    out: Path,
    given_split: Path | None,
    cache: Path,
    force: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train several recipes on the captures in DATA, with the same split and seeds, into one table and one figure.

    After a comparison was killed, the same command continues it.
    """
    if not recipes:
        raise UsageError("name a recipe with --recipe; several, or one with --backbone or --paper-backbones")
    configs = [(name, configured(name, **overrides)) for name in recipes]
    require_train_extra()
    from trainer import comparison
    from trainer.run import Work

    chosen = comparison.PAPER_BACKBONES if paper_backbones else backbones
    entrants = comparison.contestants(configs, chosen)
    out.mkdir(parents=True, exist_ok=True)
    first = configs[0][1].training.seed
    result = comparison.compare(
        data, out, entrants, range(first, first + seeds), given=given_split, work=Work(cache, force=force)
    )
    _print(result)
    if as_json:
        click.echo(printable_json(json.dumps(result, indent=1)))
    else:
        data_out(str(out / "report.html"))


def _print(result: dict[str, Any]) -> None:
    from trainer.comparison import COSTS, FIGURES
    from trainer.report import measured

    table = Table(title=f"{result['captures']} test captures, {len(result['seeds'])} seeds")
    names = [row["name"] for row in result["summary"]]
    table.add_column("")
    for name in names:
        table.add_column(plain(name), justify="right")
    for key, title in (*FIGURES, *COSTS):
        table.add_row(title, *(measured(row[key], key) for row in result["summary"]))
    console = terminal(stderr=True)
    console.print(table)
    for row in result["best_two"]["mcnemar"]:
        first, second = result["best_two"]["names"]
        said = (
            f"seed {row['seed']}: only {first} right {row['only_first_right']}, only {second} right "
            f"{row['only_second_right']}, McNemar's exact p {row['p']:.3g}"
        )
        console.print(plain(said))
