"""`python -m benchmarks NAME`: performance, side by side with what it is compared to, as ratios.

Each prints a table and, with `--json FILE`, writes the figures with machine, versions and commit.
"""

import importlib
import sys

import click

from contract.errors import ScreeningError

COMMANDS = {
    "throughput": "Captures per second: engine, decoding, pipeline, whole system, and what people use today.",
    "engines": "Every engine, precision and batch size that this machine can run, beside torch.",
    "scale": "Thousands to a million captures with an engine that costs nothing.",
    "workers": "One to eight workers with an engine that sleeps.",
    "decode": "Ways to decode a capture: speed, and what they change.",
    "novelty": "What a bundle calls novel: held-out captures, real smears, photographs.",
    "looks": "What frozen features are worth on looks that they have not seen.",
    "adaptation": "What `screen adapt` makes of another microscope: what it knows afterwards, and what it must not.",
    "document": "Make docs/benchmarks.md from the figures in benchmarks/results.",
}


class LazyGroup(click.Group):
    """Imports a benchmark when it is called: some need torch, most do not."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"benchmarks.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Benchmarks"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup)
def benchmarks() -> None:
    """Performance, side by side with what it is compared to. Run them on a machine that does nothing else."""


if __name__ == "__main__":
    try:
        benchmarks()
    except ScreeningError as error:
        click.secho(f"benchmarks: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
