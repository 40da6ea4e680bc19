"""`python -m benchmarks NAME`: performance, side by side with what it is compared to, as ratios.

Each prints a table and, with `--json FILE`, writes the figures with machine, versions and commit.
"""

import sys

import click

from contract.errors import ScreeningError
from producer.lazy import Lazy, LazyGroup

BENCHMARKS = {
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
SECTIONS = {"Benchmarks": {name: Lazy(f"benchmarks.{name}:command", text) for name, text in BENCHMARKS.items()}}
"""Some need torch, most do not."""


@click.group(cls=LazyGroup, sections=SECTIONS)
def benchmarks() -> None:
    """Performance, side by side with what it is compared to. Run them on a machine that does nothing else."""


if __name__ == "__main__":
    try:
        benchmarks()
    except ScreeningError as error:
        click.secho(f"benchmarks: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
