"""Makes every random number depend on a seed, a patient and a capture, and never on the order of the work."""

import numpy as np

PATIENT, LABELS, MATERIAL, LOOKS, COUNTS = range(5)
"""First number of the spawn key: the purpose of the generator."""


def patient_rng(seed: int, patient: int) -> np.random.Generator:
    """Generator of the parameters that a patient's captures share."""
    return np.random.default_rng(np.random.SeedSequence([seed, patient], spawn_key=(PATIENT,)))


def material_rng(seed: int, patient: int) -> np.random.Generator:
    """Generator of the erythrocytes and the sensor noise that a patient's captures are drawn from."""
    return np.random.default_rng(np.random.SeedSequence([seed, patient], spawn_key=(MATERIAL,)))


def block_rng(seed: int, block: int) -> np.random.Generator:
    """Generator of the order of labels in one block of patients."""
    return np.random.default_rng(np.random.SeedSequence([seed, block], spawn_key=(LABELS,)))


def looks_rng(seed: int, blocks: int) -> np.random.Generator:
    """Generator of the order of looks in one row of blocks."""
    return np.random.default_rng(np.random.SeedSequence([seed, blocks], spawn_key=(LOOKS,)))


def count_rng(seed: int, block: int, capture: int) -> np.random.Generator:
    """Generator of the number of nucleated cells, the same for all patients of a block, thus for all labels."""
    return np.random.default_rng(np.random.SeedSequence([seed, block, capture], spawn_key=(COUNTS,)))


def capture_rngs(seed: int, patient: int, capture: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Two generators of a capture: one for its contents and their places, one for drawing it."""
    plan, pixels = np.random.SeedSequence([seed, patient, capture]).spawn(2)
    return np.random.default_rng(plan), np.random.default_rng(pixels)


def between(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A uniform random number between two limits."""
    return float(rng.uniform(limits[0], limits[1]))
