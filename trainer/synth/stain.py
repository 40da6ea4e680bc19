"""What a patient's captures share: stain, light, focus, density and size of cells. None depends on the label.

Colours are optical densities: light that passes through amounts c of stains with absorption vectors v is
white * exp(-c·v) (Beer-Lambert), so overlapping cells are darker.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.synth import HEIGHT, WIDTH
from trainer.synth.kinds import LABELS
from trainer.synth.looks import (
    LEUKAEMIC,
    LEUKAEMIC_MAGNIFICATION,
    LOOKS_IN_TURN,
    VIGNETTE_COLOUR,
    Densities,
    LeukaemicLook,
    Look,
)
from trainer.synth.seeds import between, block_rng, looks_rng, material_rng, patient_rng
from trainer.synth.shapes import Plane, noise
from trainer.synth.small import red_sprites

METHYLENE_BLUE = np.array([0.8348, 0.5136, 0.1963])
EOSIN = np.array([0.0928, 0.9541, 0.2831])
"""Absorption of R, G, B in a Giemsa stain: the "Giemsa" vectors of the ImageJ plugin Colour Deconvolution (Landini)."""
HAEMOGLOBIN = np.array([0.12, 0.58, 0.80])
"""Absorbs blue and green; chosen by eye by comparison with captures of the BCCD data set."""

RED_SPRITES = 28
NOISE_MARGIN = 64
"""A capture's noise is a window of the patient's noise, moved by at most this many px."""


@dataclass(frozen=True)
class Dust:
    """A speck on the camera or condenser, at the same place in every capture of a patient."""

    x: int
    y: int
    radius: float
    density: float


@dataclass(frozen=True)
class BarStyle:
    """How a patient's microscope burns in its scale bar."""

    micrometres: int
    corner: tuple[bool, bool]
    """(right, bottom)"""
    colour: tuple[int, int, int]
    thickness: int
    font: int
    text_scale: float
    ticks: bool
    boxed: bool


@dataclass(frozen=True)
class Patient:
    """Parameters of a patient's captures."""

    label: str
    look: Look
    absorption: NDArray[np.float64]
    """[4 stains, RGB]: absorption per unit of eosin (erythrocytes), chromatin stain, methylene blue, smears."""
    white: NDArray[np.float64]
    """RGB of an empty place, 0 to 255."""
    red_cells: float
    """Mean number of erythrocytes in a field."""
    clumping: float
    """Share of erythrocytes that join a neighbour."""
    stacked: float
    """Share of erythrocytes that lie in stacks."""
    opacity: float
    """The share of an erythrocyte that one over it hides, 0 to 1."""
    platelets: float
    smudges: float
    """Mean number of smudge cells in a field."""
    touching: float
    """Share of nucleated cells in a crowded field that lie against another."""
    magnification: float
    blur: float
    """Mean sigma of the focus blur, px."""
    light: tuple[float, float, float]
    """Vignetting at the corners, and the gradient's x and y, in optical density."""
    light_colour: Densities
    """R, G, B of the vignetting and the gradient."""
    bar: BarStyle | None
    dust: tuple[Dust, ...]
    pallor: float
    """How pale the centres of erythrocytes are, 0 to 1."""
    red_shape: float
    """Relative amplitude of irregular outlines of erythrocytes."""
    crenation: float
    """Relative amplitude of the spikes of erythrocytes."""
    full: float
    """Share of erythrocytes without a pale centre."""
    grain: float
    """Sigma of the sensor noise, grey levels."""


@dataclass(frozen=True)
class Material:
    """The material for drawing a patient's captures; slower to make than the parameters, and no plan needs it."""

    red_sprites: list[Plane]
    noise: NDArray[np.int8]
    """Sensor noise [HEIGHT + margin, WIDTH + margin, 3] in grey levels."""


def label_of(seed: int, patient: int) -> str:
    """The label of a patient (counting from 1): every block of four patients has each label once, in a random order."""
    block, place = divmod(patient - 1, len(LABELS))
    return LABELS[int(block_rng(seed, block).permutation(len(LABELS))[place])]


def block_of(patient: int) -> int:
    """The block of four patients, one of each label, that a patient (counting from 1) belongs to; counts from 0."""
    return (patient - 1) // len(LABELS)


def look_of(seed: int, patient: int) -> Look:
    """The look of a patient (counting from 1). The four patients of a block share it, so it tells nothing of labels."""
    blocks, place = divmod(block_of(patient), len(LOOKS_IN_TURN))
    return LOOKS_IN_TURN[int(looks_rng(seed, blocks).permutation(len(LOOKS_IN_TURN))[place])]


@lru_cache(maxsize=2)
def patient_of(seed: int, patient: int) -> Patient:
    """The parameters of one patient (counting from 1)."""
    rng, label, look = patient_rng(seed, patient), label_of(seed, patient), look_of(seed, patient)
    pink = _pink_patient(rng, label)
    return pink if look is Look.PINK else _leukaemic_patient(rng, pink, look, LEUKAEMIC[look])


def _pink_patient(rng: np.random.Generator, label: str) -> Patient:
    vignette, direction, slope = between(rng, (0.0, 0.14)), between(rng, (0, 2 * np.pi)), between(rng, (0.0, 0.06))
    return Patient(
        label=label,
        look=Look.PINK,
        absorption=_absorption(rng),
        white=between(rng, (208, 240)) * (1 + rng.normal(0, 0.02, 3)),
        red_cells=between(rng, (42, 78)),
        clumping=between(rng, (0.05, 0.40)),
        stacked=0.0,
        opacity=0.0,
        platelets=between(rng, (1.5, 7.0)),
        smudges=0.0,
        touching=0.0,
        magnification=float(np.clip(rng.normal(1, 0.02), 0.95, 1.05)),
        blur=between(rng, (0.3, 1.7)),
        light=(vignette, slope * np.cos(direction), slope * np.sin(direction)),
        light_colour=(1.0, 1.0, 1.0),
        bar=_bar_style(rng) if rng.random() < 0.35 else None,
        dust=tuple(_dust(rng) for _ in range(rng.poisson(1.2))),
        pallor=between(rng, (0.45, 1.0)),
        red_shape=between(rng, (0.012, 0.026)),
        crenation=0.0,
        full=0.07,
        grain=between(rng, (1.0, 3.2)),
    )


def _leukaemic_patient(rng: np.random.Generator, patient: Patient, look: Look, field: LeukaemicLook) -> Patient:
    """The patient in a look with crowded fields: another stain and field, the same label, light, bar and dust."""
    stains = np.array([field.erythrocytes, field.chromatin, field.cytoplasm, field.smear])
    strengths = rng.normal(1, 0.06, (4, 1)) * rng.normal(1, 0.03, (4, 3))
    return replace(
        patient,
        look=look,
        absorption=stains * np.clip(strengths, 0.8, 1.2),
        white=np.array(field.white) * (1 + rng.normal(0, 0.008, 3)),
        red_cells=between(rng, field.red_cells),
        stacked=between(rng, field.stacked),
        opacity=0.6,
        smudges=between(rng, (0.2, 2.4)),
        touching=between(rng, (0.15, 0.65)),
        magnification=between(rng, LEUKAEMIC_MAGNIFICATION),
        blur=between(rng, (0.3, 2.2)),
        light_colour=VIGNETTE_COLOUR,
        pallor=between(rng, field.pallor),
        red_shape=between(rng, (0.02, 0.045)),
        crenation=between(rng, field.crenation),
        full=field.full,
    )


@lru_cache(maxsize=2)
def material_of(seed: int, patient: int) -> Material:
    """The erythrocytes and the sensor noise of one patient (counting from 1)."""
    shared, rng = patient_of(seed, patient), material_rng(seed, patient)
    return Material(
        red_sprites=red_sprites(
            rng, RED_SPRITES, shared.pallor, shared.red_shape, full=shared.full, crenation=shared.crenation
        ),
        noise=_sensor_noise(rng, shared.grain),
    )


def _absorption(rng: np.random.Generator) -> NDArray[np.float64]:
    """Erythrocytes take up eosin and contain haemoglobin; chromatin takes up azure and eosin, together purple.

    This look has no smears.
    """
    haem, purple = between(rng, (0.35, 0.75)), between(rng, (0.30, 0.46))
    red = (1 - haem) * EOSIN + haem * HAEMOGLOBIN + between(rng, (0.18, 0.36)) * METHYLENE_BLUE
    chromatin = (1 - purple) * METHYLENE_BLUE + purple * EOSIN
    strengths = [between(rng, (0.34, 0.52)), between(rng, (1.10, 1.50)), between(rng, (0.75, 1.15))]
    vectors = np.stack([red, chromatin, METHYLENE_BLUE + between(rng, (0.0, 0.25)) * EOSIN])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.array(strengths)[:, None] * rng.normal(1, 0.02, (3, 3))
    return np.vstack([vectors, np.zeros(3)])


def _bar_style(rng: np.random.Generator) -> BarStyle:
    colours = ((0, 0, 0), (255, 255, 255), (30, 30, 30), (40, 150, 230), (220, 40, 40))
    right, bottom = rng.random() < 0.7, rng.random() < 0.85
    return BarStyle(
        micrometres=int(rng.choice([5, 10, 10, 10, 20])),
        corner=(right, bottom),
        colour=colours[int(rng.integers(len(colours)))],
        thickness=int(rng.integers(2, 8)),
        font=int(rng.integers(0, 4)),
        text_scale=between(rng, (0.6, 1.0)),
        ticks=rng.random() < 0.35,
        boxed=rng.random() < 0.2,
    )


def _dust(rng: np.random.Generator) -> Dust:
    x, y = int(rng.integers(20, WIDTH - 20)), int(rng.integers(20, HEIGHT - 20))
    return Dust(x, y, between(rng, (3, 11)), between(rng, (0.03, 0.10)))


def _sensor_noise(rng: np.random.Generator, sigma: float) -> NDArray[np.int8]:
    """Noise of `sigma` grey levels, partly the same in all channels and slightly smooth, as after demosaicing."""
    shape = (HEIGHT + NOISE_MARGIN, WIDTH + NOISE_MARGIN)
    shared = noise(rng, shape, 1.0)
    channels = np.stack([0.75 * shared + 0.7 * noise(rng, shape, 1.6) for _ in range(3)], axis=-1)
    return np.asarray(np.clip(np.rint(channels * sigma), -127, 127), dtype=np.int8)
