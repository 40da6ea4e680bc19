"""`screen data`: fetch the public data set, audit any data set, cut its cells out."""

import json
from pathlib import Path

import click
from rich.table import Table

from contract.files import whole_folder
from contract.outputs import NewFolder, OutputFile
from contract.printable import printable_json
from contract.terminal import data_out, plain, terminal
from trainer.options import cache_option, require_train_extra


@click.group("data")
def data() -> None:
    """Fetch or audit labelled captures, or cut out their cells."""


@data.command("fetch")
@click.argument("out", type=NewFolder())
def fetch(out: Path) -> None:
    """Download the public set of Aria et al. (3,256 captures) from Kaggle to OUT, and print its path."""
    require_train_extra()
    from trainer.fetch import fetch as download

    data_out(str(download(out)))


@data.command("audit")
@click.argument("root", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
@click.option(
    "--html",
    type=OutputFile(),
    help="Also write the findings as an HTML page to this file.",
)
@click.option(
    "--bits",
    default=4,
    show_default=True,
    type=click.IntRange(0, 16),
    help="Call captures near-duplicates if their 64-bit hashes differ in at most this many bits.",
)
@cache_option
def audit(root: Path, as_json: bool, html: Path | None, bits: int, cache: Path) -> None:
    """Look for causes of figures that are too good: duplicates, scale bars, and labels that colour alone predicts."""
    require_train_extra()
    from trainer import report
    from trainer.audit import audit as audit_captures
    from trainer.audit import warnings

    findings, figures = audit_captures(root, cache, bits)
    sentences = warnings(findings)
    if html is not None:
        report.render("audit.html", html, figures, a=findings, warnings=sentences)
        terminal(stderr=True).print(plain(f"page: {html}"), soft_wrap=True)
    if as_json:
        click.echo(printable_json(json.dumps(findings | {"warnings": sentences}, indent=1)))
    else:
        _print(findings, sentences)


@data.command("cells")
@click.argument("root", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=NewFolder(), help="Write the cells to this new folder.")
@click.option(
    "--blot/--no-blot",
    default=True,
    show_default=True,
    help="Paint over what is beside a cell, in the colour of the background.",
)
def cells(root: Path, out: Path, blot: bool) -> None:
    """Cut every nucleated cell out of the labelled captures in DATA: a folder for each label, with labels.csv.

    `screen train OUT --recipe cell` trains a network on them. Only the path of labels.csv is printed on stdout.
    """
    require_train_extra()
    from trainer.cell_cuts import cut_set
    from trainer.data import find_captures
    from trainer.labelled import LABELS_FILE
    from trainer.progress import bar, say

    captures = find_captures(root)
    with whole_folder(out) as folder, bar("cutting", len(captures.captures)) as progress:
        cut = cut_set(root, captures, folder, blot=blot, progress=progress.advance)
    found = ", ".join(f"{label} {count}" for label, count in sorted(cut.cells.items()))
    say(f"{cut.cells.total()} cells: {found}")
    if cut.without:
        say(f"{len(cut.without)} captures have no whole nucleated cell, {cut.without[0]} first")
    if cut.unreadable:
        path, why = next(iter(cut.unreadable.items()))
        say(f"warning: {len(cut.unreadable)} files cannot be decoded, {path} first: {why}")
    data_out(str(out / LABELS_FILE))


def _print(findings: dict, sentences: list[str]) -> None:  # type: ignore[type-arg]
    console = terminal()
    patients = "" if findings["patients"] is None else f" of {findings['patients']} patients"
    table = Table(title=f"{findings['captures']} captures{patients}")
    for column in ("label", "captures", "unreadable", "mean R G B", "sharpness", "scale bars"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, row in findings["labels"].items():
        if row["readable"]:
            cells = (
                " ".join(f"{mean:.0f}" for mean in row["mean_rgb"]),
                f"{row['sharpness_median']:.0f}",
                str(row["scale_bars"]),
            )
        else:
            cells = ("-", "-", "-")
        table.add_row(plain(label), str(row["captures"]), str(row["captures"] - row["readable"]), *cells)
    console.print(table)
    sizes = ", ".join(f"{size['width']}x{size['height']} ({size['captures']})" for size in findings["sizes"][:6])
    console.print(f"sizes: {sizes}")
    for kind in ("exact_duplicates", "near_duplicates"):
        console.print(f"{kind.replace('_', ' ')}: {findings[kind]['pairs']} pairs, "
                      f"{findings[kind]['with_different_labels']} with different labels")  # fmt: skip
    for name, accuracy in findings["shortcuts"]["accuracy"].items():
        console.print(f"predicted by {name}: {accuracy:.1%} (chance {findings['shortcuts']['chance']:.1%})")
    for sentence in sentences:
        console.print(plain(f"! {sentence}"), style="red", highlight=False)
