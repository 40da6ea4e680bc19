"""`screen synth`: synthetic captures, for demonstrations, tests and the demo bundle."""

import sys
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contract.outputs import OutputFile, OutputFolder
from contract.terminal import data_out, terminal


@click.command("synth")
@click.argument("out", type=OutputFolder())
@click.option(
    "--patients", default=12, show_default=True, type=click.IntRange(1, 9999), help="Draw this many patients."
)
@click.option(
    "--captures",
    default=24,
    show_default=True,
    type=click.IntRange(1, 999),
    help="Draw this many captures of each patient.",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="Use this seed; the same seed gives the same bytes.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), show_default="one for each core", help="Draw with this many processes."
)
@click.option(
    "--cells",
    type=OutputFile(),
    help="Also list the nucleated cells of all captures in this CSV: box and kind of each.",
)
def synth(out: Path, patients: int, captures: int, seed: int, processes: int | None, cells: Path | None) -> None:
    """Write synthetic captures to OUT: a folder per patient, and labels.csv.

    They are drawings of blood smears, not biology. Captures that OUT already holds are kept. Only the path of
    labels.csv is printed on stdout.
    """
    from trainer.synth.archive import write_archive

    console = terminal(stderr=True)
    columns = (TextColumn("Drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Drawing", total=patients * captures)
        labels = write_archive(
            out,
            patients,
            captures,
            seed,
            processes=processes,
            progress=lambda done: bar.advance(task, done),
            cells=cells,
        )
    data_out(str(labels))
