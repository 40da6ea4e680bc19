"""Labelled captures that a tiny network learns in seconds: discs, whose size is the label; and a recipe for them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LABELS = ["Benign", "Early", "Pre", "Pro"]
RECIPE = """
name = "tiny"
notice = "knows only discs"
[model]
architecture = "test_efficientnet"
initial_weights = "none"
dropout = 0.1
[image]
size = 64
[training]
batch_size = 16
ema_decay = 0.9
[[training.phases]]
stages = [{size = 48, epochs = 1}]
schedule = "cosine"
learning_rate = 5e-3
[[training.phases]]
stages = [{size = 48, epochs = 1}, {size = 64, epochs = 2}]
learning_rate = "find"
[augment]
scale = 0.02
cutmix = 0.3
corner_mask = 0.2
[export]
precision = "half"
half_graph = false
golden = 6
[case]
exclude = ["out_of_focus", "empty_field", "novel"]
"""


def draw_discs(root: Path, patients: int = 16, captures: int = 10, *, seed: int = 0) -> Path:
    """`captures` of each of `patients` patients, whose labels take turns; returns `root`, which holds a labels.csv."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        label = patient % 4
        (root / f"p{patient:02d}").mkdir()
        for number in range(captures):
            image = Image.new("RGB", (128, 96), tuple(int(v) for v in rng.integers(200, 250, 3)))
            draw = ImageDraw.Draw(image)
            radius = 4 + 5 * label
            for x, y in rng.integers(20, 76, (4, 2)):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(120, 60, 150))
            path = f"p{patient:02d}/{number}.jpg"
            image.save(root / path)
            rows.append((path, f"p{patient:02d}", LABELS[label], "north" if patient < 8 else "south"))
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("path", "patient", "label", "site"), *rows])
    return root
