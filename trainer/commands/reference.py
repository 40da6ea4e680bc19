"""`screen reference`: computes a bundle's reference statistics again."""

from pathlib import Path

import click

from contract.bundle import Bundle
from contract.outputs import NewFolder
from trainer.options import cache_option, require_train_extra


@click.command("reference")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=NewFolder())
@click.option(
    "--split", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Use this split.csv instead of the bundle's own: training captures give the classes, validation captures"
        " the threshold of novelty.",
)  # fmt: skip
@cache_option
def reference(bundle: Path, data: Path, out: Path, split: Path | None, cache: Path) -> None:
    """Write a copy of BUNDLE to OUT with reference statistics of the labelled captures in DATA.

    A worker compares captures with these statistics to call them novel or out of focus. The network, its calibration
    and its case rule stay as they are; the copy has another digest. DATA is as for `screen train`.
    """
    require_train_extra()
    from trainer.renew import renew

    opened = Bundle.open(bundle)
    click.echo(renew(opened, data, out, split=split, cache=cache).digest)
