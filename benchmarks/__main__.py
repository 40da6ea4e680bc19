"""`python -m benchmarks NAME`: measures performance beside other tools and shows ratios.

Each benchmark prints a table and, with `--json FILE`, writes the figures with machine, versions and commit.
"""

import sys

import click

from contract.errors import ScreeningError
from producer.lazy import Lazy, LazyGroup

BENCHMARKS = {
    "throughput": "Captures per second: engine, decoding, pipeline, whole system, and tools that people use today.",
    "engines": "Every engine, precision and batch size that this machine can run, beside torch.",
    "scale": "Thousands to a million captures with an engine that takes no time.",
    "age": "Hundreds of nights of one archive, thousands of patients: what a night and what a case costs.",
    "workers": "One to eight workers with an engine that sleeps.",
    "decode": "Ways to decode a capture: their speed, and how they change its pixels.",
    "cells": "Nucleated cells that are found on drawings, boxes and segmentations, and what that costs.",
    "novelty": "Share of captures that a bundle calls novel: held-out captures, real smears, photographs.",
    "looks": "Accuracy of frozen features on looks that they have not seen.",
    "cellwise": "Cells called one by one beside whole captures, on looks that they have not seen.",
    "adaptation": "What a bundle knows after `screen adapt` to another microscope, and what must stay novel.",
    "document": "Make docs/benchmarks.md from the figures in benchmarks/results.",
}
SECTIONS = {"Benchmarks": {name: Lazy(f"benchmarks.{name}:command", text) for name, text in BENCHMARKS.items()}}
"""Some benchmarks need torch, most do not."""


@click.group(cls=LazyGroup, sections=SECTIONS)
def benchmarks() -> None:
    """Measure performance beside other tools. Run these on a machine that does nothing else."""


if __name__ == "__main__":
    try:
        benchmarks()
    except ScreeningError as error:
        click.secho(f"benchmarks: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
