"""Decides what a capture contains and where, before anything is drawn."""

from dataclasses import dataclass

import numpy as np

from trainer.synth import HEIGHT, WIDTH
from trainer.synth.cells import cell_diameter
from trainer.synth.kinds import KIND_OF_LABEL, Kind
from trainer.synth.seeds import between, capture_rngs
from trainer.synth.small import RED_DIAMETER
from trainer.synth.stain import Patient, patient_of

EMPTY_FIELDS = 0.09
"""Share of fields without a nucleated cell; as every count here, the same for all labels, so it reveals nothing."""
COUNT_SHARES = (0.20, 0.24, 0.22, 0.16, 0.11, 0.07)
"""Shares of 1 to 6 nucleated cells among the other fields; the mean is 2.95."""
NEUTROPHIL_FIELDS = 0.05
LYMPHOCYTES = {"Benign": 0.22, "Early": 0.05, "Pre": 0.05, "Pro": 0.05}
"""Chance that a nucleated cell, except the first of a field, is an ordinary lymphocyte."""
BAR_SHOWN = 0.85
"""Share of captures with a scale bar, where the patient's microscope burns one in."""
_CANDIDATES = 14


@dataclass(frozen=True)
class Placed:
    """A nucleated cell: its kind, centre and diameter in px."""

    kind: Kind
    x: int
    y: int
    diameter: float


@dataclass(frozen=True)
class CapturePlan:
    """Everything in a capture. Positions are centres in px; erythrocytes may lie partly outside."""

    label: str
    nucleated: tuple[Placed, ...]
    red_cells: tuple[tuple[float, float], ...]
    platelets: tuple[tuple[int, int, float], ...]
    """x, y, diameter"""
    scale_bar: bool
    blur: float
    """Sigma in px."""
    gain: float
    """Brightness relative to the patient's brightness."""

    @property
    def empty(self) -> bool:
        """Whether the field contains no nucleated cell."""
        return not self.nucleated


def plan_capture(seed: int, patient: int, capture: int) -> CapturePlan:
    """Decide what capture `capture` of patient `patient` (both count from 1) shows."""
    shared = patient_of(seed, patient)
    rng, _pixels = capture_rngs(seed, patient, capture)
    nucleated = _place_nucleated(rng, _kinds(rng, shared.label), shared.magnification)
    platelets = min(12, int(rng.poisson(shared.platelets)))
    return CapturePlan(
        label=shared.label,
        nucleated=nucleated,
        red_cells=_place_red_cells(rng, shared, nucleated),
        platelets=tuple(_platelet(rng) for _ in range(platelets)),
        scale_bar=shared.bar is not None and rng.random() < BAR_SHOWN,
        blur=float(np.clip(shared.blur + rng.normal(0, 0.35), 0, 2.5)),
        gain=float(np.exp(rng.normal(0, 0.015))),
    )


def _kinds(rng: np.random.Generator, label: str) -> list[Kind]:
    if rng.random() < EMPTY_FIELDS:
        return []
    count = 1 + int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))
    kinds = [KIND_OF_LABEL[label]]
    for _ in range(count - 1):
        kinds.append(Kind.LYMPHOCYTE if rng.random() < LYMPHOCYTES[label] else KIND_OF_LABEL[label])
    if rng.random() < NEUTROPHIL_FIELDS:
        kinds.append(Kind.NEUTROPHIL)
    return kinds


def _place_nucleated(rng: np.random.Generator, kinds: list[Kind], magnification: float) -> tuple[Placed, ...]:
    """Place the cells so that they hardly touch and lie almost completely inside the frame."""
    placed: list[Placed] = []
    for kind in kinds:
        diameter = cell_diameter(rng, kind) * magnification
        edge = int(diameter * 0.42)
        best, best_gap = (0, 0), -np.inf
        for _ in range(_CANDIDATES):
            x, y = int(rng.integers(edge, WIDTH - edge)), int(rng.integers(edge, HEIGHT - edge))
            gap = min(
                (np.hypot(x - cell.x, y - cell.y) - (diameter + cell.diameter) / 2 for cell in placed), default=np.inf
            )
            if gap > best_gap:
                best, best_gap = (x, y), gap
            if gap > -4:
                break
        placed.append(Placed(kind, *best, diameter))
    return tuple(placed)


def _place_red_cells(
    rng: np.random.Generator, patient: Patient, nucleated: tuple[Placed, ...]
) -> tuple[tuple[float, float], ...]:
    """Scatter erythrocytes away from nucleated cells; some touch a neighbour, the others keep their distance."""
    count = int(np.clip(rng.normal(patient.red_cells, 4), 36, 84))
    diameter = RED_DIAMETER * patient.magnification
    blocked = np.array([(cell.x, cell.y, cell.diameter / 2 + diameter * 0.44) for cell in nucleated]).reshape(-1, 3)
    centres = np.empty((count, 2))
    size = np.array([WIDTH, HEIGHT])
    for index in range(count):
        candidates = rng.uniform(-0.4 * diameter, size + 0.4 * diameter, (_CANDIDATES, 2))
        clump = index > 0 and rng.random() < patient.clumping
        if clump:
            candidates[:] = centres[rng.integers(index)]
            bearing, reach = rng.uniform(0, 2 * np.pi, _CANDIDATES), rng.uniform(0.45, 0.95, _CANDIDATES) * diameter
            candidates += np.column_stack([np.cos(bearing), np.sin(bearing)]) * reach[:, None]
            candidates = np.clip(candidates, -0.45 * diameter, size + 0.45 * diameter)
        centres[index] = candidates[int(np.argmax(_room(candidates, centres[:index], blocked, diameter)))]
    return tuple((float(x), float(y)) for x, y in centres)


def _room(candidates: np.ndarray, centres: np.ndarray, blocked: np.ndarray, diameter: float) -> np.ndarray:
    """Score of each candidate [N, 2]: distance to other cells, up to about one diameter, less a penalty for overlap."""
    distances = np.hypot(*(candidates[:, None] - centres[None]).transpose(2, 0, 1)) if len(centres) else None
    room = np.minimum(distances.min(axis=1), diameter * 1.02) if distances is not None else np.zeros(len(candidates))
    if len(blocked):
        gap = np.hypot(*(candidates[:, None] - blocked[None, :, :2]).transpose(2, 0, 1)) - blocked[None, :, 2]
        room = room + 20 * np.minimum(gap.min(axis=1), 0)
    return np.asarray(room)


def _platelet(rng: np.random.Generator) -> tuple[int, int, float]:
    x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
    return x, y, between(rng, (24, 44))
