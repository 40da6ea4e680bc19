"""Measures what a bundle that knows only drawings calls novel: held-out drawings should not be novel, real smears and
photographs should. The table also shows each block of the embedding alone.
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
STAGES = ("first", "last")
"""Those whose features make up an embedding."""
SEED, PER_PATIENT = 90210, 8
"""Seed of drawings that no bundle was trained on. Of each patient there are few, because a strange stain makes all of a
patient's captures novel: of 32 patients with 40 captures each, one such patient was 3 %."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), default="bundles/demo.bundle", show_default=True)
@click.option("--captures", default=1280, show_default=True, help="Number of drawings.")
@click.option(
    "--smears", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True,
    help="A folder of real captures; may be given again.",
)  # fmt: skip
@work_option
@json_option
def command(bundle: Path, captures: int, smears: tuple[Path, ...], work: Path | None, json_file: Path | None) -> None:
    """Share of held-out drawings, real smears and photographs that a bundle calls novel."""
    opened = Bundle.open(bundle)
    novelty = read_novelty(opened)
    if novelty is None:
        raise UsageError(f"{bundle} has no reference for novelty; `screen reference` takes one")
    spec = opened.manifest.image
    with work_folder(work) as folder:
        engine, _ = open_engine(opened, EngineOptions("auto", "auto", folder / "cache"))
        files = files_of(drawings(folder, captures, SEED, PER_PATIENT), captures)
        sets = {"drawings of other patients": _decoded(files, spec)}
        for smear_folder in smears:
            sets[f"real smears: {smear_folder.name}"] = _decoded(
                [file for file in sorted(smear_folder.rglob("*")) if file.suffix.lower() in SUFFIXES], spec
            )
        sets["photographs, whole and in parts"] = photographs(spec.size)
        figures: dict[str, Any] = {
            "bundle": opened.manifest.name, "engine": f"{engine.name}/{engine.precision}",
            "sets": {name: _figures(pixels, opened, engine, novelty) for name, pixels in sets.items()},
        }  # fmt: skip
    rows = [(name, *shares.values()) for name, shares in figures["sets"].items()]
    columns = ("", "captures", "novel", *(f"by the {stage} stage alone" for stage in STAGES), "median", "excluded")
    finish("novelty", figures, [table(f"What {opened.manifest.name} calls novel", columns, rows)], json_file)


def _decoded(files: Sequence[Path], spec: ImageSpec) -> list[RGBImage]:
    return [decode(file.read_bytes(), spec).pixels for file in files]


def photographs(side: int) -> list[RGBImage]:
    """The sample photographs of matplotlib and scikit-learn, whole and cut into 4, 9 and 16 parts."""
    images = [Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB")]
    images += [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [
        np.asarray(image.resize((side, side), box=(x * image.width / n, y * image.height / n,
                                                   (x + 1) * image.width / n, (y + 1) * image.height / n)))
        for image in images for n in (1, 2, 3, 4) for x in range(n) for y in range(n)
    ]  # fmt: skip


def _figures(pixels: Sequence[RGBImage], bundle: Bundle, engine: Engine, reference: Novelty) -> dict[str, Any]:
    embedding = np.concatenate(
        [infer(engine, np.stack(pixels[start : start + BATCH])).embedding for start in range(0, len(pixels), BATCH)]
    )
    novelty = reference.of(embedding)
    novel_by_block = [block.distances(embedding) > block.threshold for block in reference.blocks]
    policy, quality = bundle.manifest.case_policy, bundle.manifest.reference["quality"]
    excluded = [
        is_novel or bool(policy.excludes(mark.code for mark in marks_of(measure(capture), quality)))
        for capture, is_novel in zip(pixels, novelty > 1, strict=True)
    ]
    return {
        "captures": len(pixels),
        "novel": rounded(float((novelty > 1).mean())),
        **{stage: rounded(float(block.mean())) for stage, block in zip(STAGES, novel_by_block, strict=True)},
        "median": rounded(float(np.median(novelty))),
        "excluded": rounded(float(np.mean(excluded))),
    }
