"""`screen bundle show|verify`."""

from pathlib import Path

import click

from contract.bundle import Bundle
from producer.output import json_out, say

BUNDLE = click.Path(path_type=Path)


@click.group()
def bundle() -> None:
    """Show or verify a bundle, the folder that `screen train` writes."""


@bundle.command()
@click.argument("path", type=BUNDLE)
def verify(path: Path) -> None:
    """Check every file of the bundle PATH against its digest."""
    opened = Bundle.open(path)
    say(f"{opened.manifest.name}: {len(opened.manifest.files)} files match their digests")
    click.echo(opened.digest)


@bundle.command()
@click.argument("path", type=BUNDLE)
def show(path: Path) -> None:
    """Print the manifest of the bundle PATH as JSON, with its digest."""
    opened = Bundle.open(path)
    json_out({"digest": opened.digest, **opened.manifest.model_dump(mode="json")})
