"""Archives of tiny captures, whose colour is their label."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"Benign": (230, 200, 205), "Early": (120, 190, 120), "Pre": (90, 120, 210), "Pro": (150, 70, 170)}


def picture(label: str, *, seed: int = 0, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """An RGB image in the label's colour with a little noise, so that no two are alike."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8))


def jpeg(label: str, *, seed: int = 0, size: tuple[int, int] = (96, 80)) -> bytes:
    """The image as the bytes of a JPEG."""
    return encode(picture(label, seed=seed, size=size), "JPEG")


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_archive(root: Path, patients: dict[str, str], captures: int) -> Path:
    """`patients` maps a folder's name to its label; each gets `captures` files."""
    for number, (patient, label) in enumerate(patients.items()):
        folder = root / patient
        folder.mkdir(parents=True)
        for index in range(captures):
            (folder / f"{index:03d}.jpg").write_bytes(jpeg(label, seed=number * 10_000 + index))
    return root
