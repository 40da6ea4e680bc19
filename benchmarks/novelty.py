"""What a bundle finds novel: held-out captures of its own domain should not be, real smears and photographs should,
to a bundle that knows only drawings. Each block of the embedding is shown by itself, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib import cbook
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.captures import drawings, files_of
from benchmarks.record import finish, json_option, rounded, table, work_folder, work_option
from contract.bundle import Bundle
from contract.errors import UsageError
from contract.imaging import SUFFIXES, ImageSpec, RGBImage, decode
from contract.novelty import Novelty, read_novelty
from contract.quality import marks_of, measure
from worker.engines.base import Engine, EngineOptions, infer
from worker.engines.registry import open_engine

BATCH = 16
SEED = 90210
"""Of drawings that no bundle was trained on."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), default="bundles/demo.bundle", show_default=True)
@click.option("--captures", default=1280, show_default=True, help="Drawings.")
@click.option(
    "--smears", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True,
    help="A folder of real captures; may be given again.",
)  # fmt: skip
@work_option
@json_option
def command(bundle: Path, captures: int, smears: tuple[Path, ...], work: Path | None, json_file: Path | None) -> None:
    """What share of held-out drawings, real smears and photographs a bundle calls novel."""
    opened = Bundle.open(bundle)
    known = read_novelty(opened)
    if known is None:
        raise UsageError(f"{bundle} has no reference for novelty; `screen reference` takes one")
    spec = opened.manifest.image
    with work_folder(work) as folder:
        engine, _ = open_engine(opened, EngineOptions("auto", "auto", folder / "cache"))
        files = files_of(drawings(folder, captures, SEED), captures)
        sets = {"drawings of other patients": _decoded(files, spec)}
        for one in smears:
            sets[f"real smears: {one.name}"] = _decoded(
                [file for file in sorted(one.rglob("*")) if file.suffix.lower() in SUFFIXES], spec
            )
        sets["photographs, whole and in parts"] = photographs(spec.size)
        figures: dict[str, Any] = {
            "bundle": opened.manifest.name, "engine": f"{engine.name}/{engine.precision}",
            "sets": {name: _of(pixels, opened, engine, known) for name, pixels in sets.items()},
        }  # fmt: skip
    rows = [(name, *one.values()) for name, one in figures["sets"].items()]
    columns = ("", "captures", "novel", "by the first stage alone", "by the last alone", "median", "excluded")
    finish("novelty", figures, [table(f"What {opened.manifest.name} calls novel", columns, rows)], json_file)


def _decoded(files: Sequence[Path], spec: ImageSpec) -> list[RGBImage]:
    return [decode(file.read_bytes(), spec).pixels for file in files]


def photographs(side: int) -> list[RGBImage]:
    """The photographs that matplotlib and scikit-learn bring along, whole and cut into 4, 9 and 16 parts."""
    images = [Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB")]
    images += [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [
        np.asarray(image.resize((side, side), box=(x * image.width / n, y * image.height / n,
                                                   (x + 1) * image.width / n, (y + 1) * image.height / n)))
        for image in images for n in (1, 2, 3, 4) for x in range(n) for y in range(n)
    ]  # fmt: skip


def _of(pixels: Sequence[RGBImage], bundle: Bundle, engine: Engine, known: Novelty) -> dict[str, Any]:
    embedding = np.concatenate(
        [infer(engine, np.stack(pixels[start : start + BATCH])).embedding for start in range(0, len(pixels), BATCH)]
    )
    novelty = known.of(embedding)
    alone = [block.distances(embedding) > block.threshold for block in known.blocks]
    policy, reference = bundle.manifest.case_policy, bundle.manifest.reference["quality"]
    excluded = [
        strange or bool(policy.excludes(mark.code for mark in marks_of(measure(one), reference)))
        for one, strange in zip(pixels, novelty > 1, strict=True)
    ]
    return {
        "captures": len(pixels),
        "novel": rounded(float((novelty > 1).mean())),
        "first_stage": rounded(float(alone[0].mean())),
        "last_stage": rounded(float(alone[-1].mean())),
        "median": rounded(float(np.median(novelty))),
        "excluded": rounded(float(np.mean(excluded))),
    }
