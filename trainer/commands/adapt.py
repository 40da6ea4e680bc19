"""`screen adapt`: a bundle for another microscope, from captures without labels."""

from pathlib import Path

import click

from contract.bundle import Bundle
from contract.options import patient_depth_option
from contract.outputs import NewFolder
from trainer.options import require_train_extra


@click.command("adapt")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=NewFolder(), help="Write the new bundle to this folder.")
@click.option(
    "--forget-parent",
    is_flag=True,
    help="Let captures that only the parent knows become novel, for a bundle that serves only the new microscope.",
)
@click.option(
    "--draw",
    default=48,
    show_default=True,
    type=click.IntRange(min=2),
    help="Draw this many captures for labelling: half of them at random, half near the border.",
)
@click.option(
    "--labels", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Measure the accuracy with OUT.to-label.csv of an earlier call, after its labels were filled in.",
)  # fmt: skip
@patient_depth_option()
def adapt(
    bundle: Path,
    archive: Path,
    out: Path,
    forget_parent: bool,
    draw: int,
    labels: Path | None,
    patient_depth: int,
) -> None:
    """Make a bundle from BUNDLE for the microscope that the unlabelled captures in ARCHIVE come from.

    ARCHIVE is as for `screen submit`: a folder per patient. With the new bundle, a worker compares captures with these
    ones, as well as with those that BUNDLE knew, to call them novel or out of focus. Without labels nobody knows how
    accurate the new bundle is there: OUT.to-label.csv names captures to label. Prints the new digest.
    """
    require_train_extra()
    from trainer.adapt import Wanted
    from trainer.adapt import adapt as adapted

    click.echo(adapted(Bundle.open(bundle), archive, out, Wanted(forget_parent, draw, labels, patient_depth)).digest)
