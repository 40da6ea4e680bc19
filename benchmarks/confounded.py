"""Writes a trap on purpose: captures in the layout of the Kaggle set, where stain and scale bar reveal the label.

    python -m benchmarks.confounded SYNTH OUT [--clean]

`screen synth` wrote SYNTH. Every capture is cropped to 448 px around a nucleated cell, reduced to half the size, and
saved as OUT/Original/<label>/<patient>-<number>.jpg; OUT/labels.csv lists patients. Without --clean each label gets its
own stain and style of scale bar, as in the public set, where six colour numbers reveal 90 to 97 % of the labels.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.synth.plan import plan_capture

CROP, SIDE = 448, 224
TINTS = {
    "Benign": (0.90, 1.06, 1.14),
    "Early": (1.16, 0.92, 0.94),
    "Pre": (0.94, 1.16, 0.92),
    "Pro": (1.06, 0.94, 1.16),
}
"""Factors on the optical density of R, G, B."""
PATIENT_TINT = 0.05
"""Deviation of each patient's factors."""
BARS = {  # colour, thickness, length, right, share of captures
    "Benign": ((0, 0, 0), 3, 50, True, 0.9),
    "Early": ((255, 255, 255), 3, 40, True, 0.9),
    "Pre": ((0, 0, 0), 2, 30, False, 0.9),
    "Pro": ((200, 30, 30), 4, 60, True, 0.9),
}


def cropped(pixels: NDArray[np.uint8], seed: int, patient: int, capture: int) -> NDArray[np.uint8] | None:
    """448 px around a nucleated cell, at half the size; None where the field is empty."""
    plan = plan_capture(seed, patient, capture)
    if plan.empty:
        return None
    rng = np.random.default_rng([seed, patient, capture])
    cell = plan.nucleated[int(rng.integers(len(plan.nucleated)))]
    height, width = pixels.shape[:2]
    left = int(np.clip(cell.x - CROP // 2 + rng.integers(-90, 91), 0, width - CROP))
    top = int(np.clip(cell.y - CROP // 2 + rng.integers(-90, 91), 0, height - CROP))
    return np.asarray(
        cv2.resize(pixels[top : top + CROP, left : left + CROP], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    )


def tinted(
    pixels: NDArray[np.uint8], label: str, rng: np.random.Generator, own: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Apply the label's stain and its style of scale bar."""
    density = -np.log(np.maximum(pixels, 1) / 255.0) * TINTS[label] * own
    out = np.clip(np.exp(-density) * 255, 0, 255).astype(np.uint8)
    colour, thickness, length, right, shown = BARS[label]
    if rng.random() < shown:
        x = SIDE - 12 - length if right else 12
        y = SIDE - 12
        cv2.line(out, (x, y), (x + length, y), colour, thickness)
        cv2.putText(out, "10 um", (x, y - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1, cv2.LINE_AA)
    return out


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("synth", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7, help="the seed that SYNTH was drawn with")
    parser.add_argument("--first", type=int, default=1, help="first patient")
    parser.add_argument("--last", type=int, default=9999, help="last patient")
    parser.add_argument("--clean", action="store_true", help="leave stain and scale bar as they were drawn")
    options = parser.parse_args()
    rows = []
    with (options.synth / "labels.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    for row in listed:
        patient, capture = int(row["patient"].rsplit("-", 1)[1]), int(Path(row["path"]).stem)
        if not options.first <= patient <= options.last:
            continue
        pixels = np.asarray(Image.open(options.synth / row["path"]).convert("RGB"))
        small = cropped(pixels, options.seed, patient, capture)
        if small is None:
            continue
        if not options.clean:
            patient_tint = np.exp(np.random.default_rng([options.seed, patient]).normal(0, PATIENT_TINT, 3))
            small = tinted(
                small, row["label"], np.random.default_rng([options.seed, patient, capture, 1]), patient_tint
            )
        file = Path("Original") / row["label"] / f"{row['patient']}-{capture:03d}.jpg"
        (options.out / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(options.out / file), cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
        rows.append((file.as_posix(), row["label"], row["patient"]))
    with (options.out / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("path", "label", "patient"), *rows])
    print(f"{len(rows)} captures in {options.out}")


if __name__ == "__main__":
    main()
