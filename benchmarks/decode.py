"""Compares ways to decode a capture to the network's square: speed of one core, and changes in the result.

Every way gives the same side. The reference is full decoding with Pillow and its antialiasing resize: the table shows
the mean difference in grey levels and, with a bundle, how the probabilities change.
"""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.captures import drawings, files_of
from benchmarks.record import finish, json_option, median, rounded, table, work_folder, work_option
from contract.bundle import Bundle
from contract.imaging import ImageSpec, RGBImage, decode
from worker.engines.base import EngineOptions, infer
from worker.engines.registry import open_engine

ROUNDS = 3
Way = Callable[[bytes, int], RGBImage]


def pillow(data: bytes, side: int) -> RGBImage:
    """Full decoding and antialiasing bilinear resize: the reference for all other ways."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def _pillow_draft(data: bytes, side: int) -> RGBImage:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (round(1.25 * side), round(1.25 * side)))
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def _simplejpeg_full(data: bytes, side: int) -> RGBImage:
    full = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
    return np.asarray(full.resize((side, side), Image.Resampling.BILINEAR))


def _opencv_reduced(data: bytes, side: int) -> RGBImage:
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    scale = max(factor for factor in flags if factor == 1 or min(width, height) // factor >= 1.25 * side)
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), flags[scale]), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    return np.asarray(cv2.resize(decoded, (side, side)), np.uint8)


def _opencv_any(data: bytes, side: int) -> RGBImage:
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    return np.asarray(cv2.resize(decoded, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _ours(**spec: Any) -> Way:
    return lambda data, side: decode(data, ImageSpec(size=side, **spec)).pixels


OURS = {
    "ours: bilinear, at least 2 S": _ours(),
    "ours: bilinear, at least 1.25 S": _ours(jpeg_oversampling=1.25),
    "ours: linear, at least 1.25 S": _ours(jpeg_oversampling=1.25, resampling="linear"),
}
JPEG_WAYS: dict[str, Way] = {
    "Pillow, full": pillow,
    "Pillow, draft": _pillow_draft,
    "simplejpeg, full": _simplejpeg_full,
    "OpenCV, reduced, linear": _opencv_reduced,
    **OURS,
}
OTHER_WAYS: dict[str, Way] = {
    "Pillow, full": pillow,
    "OpenCV, area": _opencv_any,
    "ours: bilinear": _ours(),
    "ours: linear": _ours(resampling="linear"),
}


KINDS = (
    ("JPEG", (1024, 768), 300),
    ("JPEG", (1024, 768), 128),
    ("JPEG", (2592, 1944), 300),
    ("PNG", (1024, 768), 300),
    ("TIFF", (1024, 768), 300),
)


@click.command()
@click.option("--captures", default=100, show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="Also show how this bundle's probabilities change.")
@click.option(
    "--archive", type=click.Path(path_type=Path, exists=True), help="Captures for the probabilities; default: drawings."
)
@work_option
@json_option
def command(
    captures: int, bundle: Path | None, archive: Path | None, work: Path | None, json_file: Path | None
) -> None:
    """Compare Pillow, Pillow's draft mode, simplejpeg, OpenCV and our decoder, by format and size."""
    with work_folder(work) as folder:
        files = files_of(drawings(folder, captures), captures)
        figures: dict[str, Any] = {"captures": len(files), "formats": {}}
        tables = []
        for kind, size, side in KINDS:
            name = f"{kind} {size[0]}x{size[1]} to {side}"
            data = [_encoded(file, kind, size) for file in files[: captures if size[0] <= 1024 else captures // 4]]
            rows = _measured(JPEG_WAYS if kind == "JPEG" else OTHER_WAYS, data, side)
            figures["formats"][name] = rows
            first = next(iter(rows.values()))["captures_per_s"]
            tables.append(
                table(
                    name,
                    ("", "captures/s of a core", "times Pillow", "grey levels apart"),
                    [
                        (way, row["captures_per_s"], rounded(row["captures_per_s"] / first), row["difference"])
                        for way, row in rows.items()
                    ],
                )
            )
        if bundle is not None:
            shown = sorted(archive.rglob("*.jp*g")) if archive else files
            figures["probabilities"] = _probabilities(Bundle.open(bundle), shown, folder)
            tables.append(
                table(
                    f"Probabilities of {figures['probabilities']['bundle']}, {len(shown)} captures, to full decoding",
                    ("", "same label", "largest difference", "mean"),
                    [(way, *row.values()) for way, row in figures["probabilities"]["ways"].items()],
                )
            )
        finish("decode", figures, tables, json_file)


def _encoded(file: Path, kind: str, size: tuple[int, int]) -> bytes:
    image = Image.open(file).convert("RGB")
    if image.size == size and kind == "JPEG":
        return file.read_bytes()
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _measured(ways: dict[str, Way], data: Sequence[bytes], side: int) -> dict[str, dict[str, Any]]:
    """Rates and differences by way; the ways take turns, and a rate is the median of the rounds."""
    cv2.setNumThreads(1)
    references = [pillow(content, side).astype(int) for content in data[:20]]
    rates: dict[str, list[float | None]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            for content in data:
                way(content, side)
            rates[name].append(len(data) / (time.perf_counter() - began))
    return {
        name: {
            "captures_per_s": rounded(median(rates[name])),
            "difference": rounded(
                float(
                    np.mean(
                        [
                            np.abs(way(content, side) - reference).mean()
                            for content, reference in zip(data, references, strict=False)
                        ]
                    )
                )
            ),
        }
        for name, way in ways.items()
    }


def _probabilities(bundle: Bundle, files: Sequence[Path], folder: Path) -> dict[str, Any]:
    engine, _ = open_engine(bundle, EngineOptions("openvino", "float32", folder / "cache"))
    side = bundle.manifest.image.size
    data = [file.read_bytes() for file in files]

    def answers(way: Way) -> Any:
        batches = [data[start : start + 8] for start in range(0, len(data), 8)]
        predictions = [infer(engine, np.stack([way(content, side) for content in batch])) for batch in batches]
        return np.concatenate([prediction.probabilities for prediction in predictions])

    full = answers(pillow)
    ways = {}
    for name, way in OURS.items():
        reduced = answers(way)
        differences = np.abs(reduced - full)
        ways[name] = {
            "same_label": rounded(float((reduced.argmax(1) == full.argmax(1)).mean())),
            "largest": rounded(float(differences.max())),
            "mean": rounded(float(differences.mean())),
        }
    return {"bundle": bundle.manifest.name, "captures": len(files), "side": side, "ways": ways}
