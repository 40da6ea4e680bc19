"""`screen evaluate`: a bundle on other labelled captures, or its recipe by cross-validation."""

import json
from pathlib import Path

import click
from rich.table import Table

from contract.bundle import Bundle
from contract.errors import UsageError
from contract.outputs import OutputFolder
from contract.printable import printable_json
from contract.terminal import plain, terminal
from trainer.config import load_config
from trainer.options import cache_option, require_train_extra


@click.command("evaluate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=OutputFolder(),
    help="Write report.html, evaluation.json and the figures as PNG to this folder.",
)
@click.option(
    "--split", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Score only the captures of one part of this split.csv, see --only.",
)  # fmt: skip
@click.option(
    "--only",
    default="test",
    show_default=True,
    type=click.Choice(["train", "validation", "test"]),
    help="With --split: score this part.",
)
@click.option(
    "--audit-captures", default=600, show_default=True, type=click.IntRange(min=0),
    help="Use at most this many captures in the robustness audit; 0 leaves it out.",
)  # fmt: skip
@click.option(
    "--cross-validate", "folds", type=click.IntRange(2, 20),
    help="Train instead: by the bundle's recipe on DATA, once for each of this many folds, into OUT.",
)  # fmt: skip
@cache_option
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def evaluate(
    bundle: Path,
    data: Path,
    out: Path | None,
    split: Path | None,
    only: str,
    audit_captures: int,
    folds: int | None,
    cache: Path,
    as_json: bool,
) -> None:
    """Score BUNDLE on the labelled captures in DATA, through its exported graph.

    DATA is as for `screen train`; its labels must be among the bundle's. Nothing is fitted on it, so this is an
    external validation if the bundle has not seen the captures. It reports how many of them it was trained on.
    """
    require_train_extra()
    from trainer import external, run
    from trainer.crossval import pool

    opened = Bundle.open(bundle)
    if folds:
        if out is None or split is not None:
            raise UsageError("--cross-validate needs --out for its bundles, and makes its own splits: no --split")
        config = load_config(bundle / "config.toml")
        prepared = run.prepare(data, config, cache)
        bundles = run.cross_validate(prepared, out, config, folds, work=run.Work(cache))
        result = pool(prepared, bundles, out)
    else:
        result, figures = external.evaluate(
            opened, data, cache=cache, split=split, only=only, audit_captures=audit_captures
        )
        if out is not None:
            external.write(out, result, figures)
            terminal(stderr=True).print(plain(f"report: {out / 'report.html'}"), soft_wrap=True)
        if not as_json:
            _print(result)
    if as_json:
        click.echo(printable_json(json.dumps(result, indent=1)))


def _print(result: dict) -> None:  # type: ignore[type-arg]
    metrics, data = result["metrics"], result["data"]
    low, high = metrics["accuracy_interval"]
    table = Table(title=plain(f"{result['bundle']['name']} on {data['captures']} captures"), show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("accuracy", f"{metrics['accuracy']:.4f} ({low:.4f} to {high:.4f})")
    for name, value in metrics["shortcuts"].items():
        table.add_row(f"  {name}", f"{value:.4f}")
    table.add_row("macro F1", f"{metrics['macro_f1']:.4f}")
    for name in ("sensitivity", "specificity"):
        rate = metrics["all_versus_benign"][name]
        shown = "-" if rate["value"] is None else f"{rate['value']:.4f} ({rate['hits']} of {rate['of']})"
        table.add_row(f"{name} for ALL, per capture", shown)
    table.add_row("expected calibration error", f"{metrics['calibration']['ece']:.4f}")
    for unit in ("patient", "block"):
        if counts := metrics.get(f"per_{unit}"):
            table.add_row(f"verdicts right, per {unit}", f"{counts['verdicts_right']} of {counts['patients']}")
    robustness = metrics.get("robustness", {"lines": [], "masking": {"lines": []}, "findings": []})
    for line in (*robustness["lines"], *robustness["masking"]["lines"]):
        table.add_row(f"  {line['change']}", f"{line['accuracy']:.4f}")
    console = terminal()
    console.print(table)
    if data["trained_on"]:
        console.print(
            f"{data['trained_on']} of these captures trained or tuned this bundle: this is not an external validation.",
            style="bold red",
        )
    for sentence in robustness["findings"]:
        console.print(plain(sentence))
