"""`screen data`: fetch the public data set, and audit any."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from trainer.options import cache_option, require_train_extra


@click.group("data")
def data() -> None:
    """Fetch or audit labelled captures."""


@data.command("fetch")
@click.argument("out", type=click.Path(path_type=Path))
def fetch(out: Path) -> None:
    """Download the public set of Aria et al. (3,256 captures) from Kaggle to OUT, whose path is printed."""
    require_train_extra()
    from trainer.fetch import fetch as download

    click.echo(download(out))


@data.command("audit")
@click.argument("root", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the findings as an HTML page to this file.",
)
@click.option(
    "--bits",
    default=4,
    show_default=True,
    type=click.IntRange(0, 16),
    help="Call captures near-duplicates whose 64-bit hashes differ in at most this many bits.",
)
@cache_option
def audit(root: Path, as_json: bool, html: Path | None, bits: int, cache: Path) -> None:
    """Look for what makes figures too good: duplicates, scale bars, and labels that colour alone can tell."""
    require_train_extra()
    from trainer import report
    from trainer.audit import audit as look
    from trainer.audit import warnings

    found, figures = look(root, cache, bits)
    said = warnings(found)
    if html is not None:
        report.render("audit.html", html, figures, a=found, warnings=said)
        Console(file=sys.stderr).print(f"page: {html}")
    if as_json:
        click.echo(json.dumps(found | {"warnings": said}, indent=1))
    else:
        _print(found, said)


def _print(found: dict, said: list[str]) -> None:  # type: ignore[type-arg]
    console = Console()
    patients = "" if found["patients"] is None else f" of {found['patients']} patients"
    table = Table(title=f"{found['captures']} captures{patients}")
    for column in ("label", "captures", "unreadable", "mean R G B", "sharpness", "scale bars"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, row in found["labels"].items():
        if row["readable"]:
            shown = (
                " ".join(f"{v:.0f}" for v in row["mean_rgb"]),
                f"{row['sharpness_median']:.0f}",
                str(row["scale_bars"]),
            )
        else:
            shown = ("-", "-", "-")
        table.add_row(label, str(row["captures"]), str(row["captures"] - row["readable"]), *shown)
    console.print(table)
    sizes = ", ".join(f"{one['width']}x{one['height']} ({one['captures']})" for one in found["sizes"][:6])
    console.print(f"sizes: {sizes}")
    for kind in ("exact_duplicates", "near_duplicates"):
        console.print(f"{kind.replace('_', ' ')}: {found[kind]['pairs']} pairs, "
                      f"{found[kind]['with_different_labels']} with different labels")  # fmt: skip
    for name, accuracy in found["shortcuts"]["accuracy"].items():
        console.print(f"told by {name}: {accuracy:.1%} (chance {found['shortcuts']['chance']:.1%})")
    for sentence in said:
        console.print(f"! {sentence}", style="red", highlight=False)
