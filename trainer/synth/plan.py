"""Decides what a capture contains and where, before anything is drawn."""

from dataclasses import dataclass, replace

import numpy as np

from trainer.synth import HEIGHT, WIDTH
from trainer.synth.cells import cell_diameter
from trainer.synth.kinds import KIND_OF_LABEL, Kind
from trainer.synth.looks import Look
from trainer.synth.seeds import between, capture_rngs, count_rng
from trainer.synth.small import RED_DIAMETER
from trainer.synth.stain import Patient, block_of, patient_of

EMPTY_FIELDS = 0.09
"""Share of fields without a nucleated cell; as every count here, the same for all labels, so it reveals nothing."""
COUNT_SHARES = (0.20, 0.24, 0.22, 0.16, 0.11, 0.07)
"""Shares of 1 to 6 nucleated cells among the other fields; the mean is 2.95."""
LEUKAEMIC_EMPTY_FIELDS, LEUKAEMIC_SPARSE_FIELDS = 0.04, 0.30
"""Shares of fields with none and with 1 to 6 nucleated cells in the looks with crowded fields; the others have more."""
CROWD = (5, 40)
NEUTROPHIL_FIELDS = 0.05
LYMPHOCYTES = {"Benign": 0.22, "Early": 0.05, "Pre": 0.05, "Pro": 0.05}
"""Chance that a nucleated cell, except the first of a field, is an ordinary lymphocyte."""
BAR_SHOWN = 0.85
"""Share of captures with a scale bar, where the patient's microscope burns one in."""
_CANDIDATES = 14
_CROWD_CANDIDATES = 80
_CROWD_OVERLAP = 0.12
"""The share of two cells' radii together by which cells of a crowd may overlap."""
_CROWD_OUTSIDE = 0.2
"""How far centres of a crowd may lie outside the frame, as a share of the cell's diameter."""
_PRESSED = 0.7
"""Share of touching cells that press each other flat; of the others the later lies over the earlier."""
_STACK_STEP = (0.28, 0.55)
"""Distance of neighbours in a stack of erythrocytes, as a share of their diameter."""


@dataclass(frozen=True)
class Placed:
    """A nucleated cell: its kind, centre and diameter in px."""

    kind: Kind
    x: int
    y: int
    diameter: float
    seed: int
    """The cell is drawn from this seed alone, so it can be drawn again without its field."""
    sides: tuple[tuple[float, float], ...] = ()
    """Where neighbours press it flat: bearings in radians and distances from its centre in px."""


@dataclass(frozen=True)
class Smudge:
    """A smudge cell: its centre, mean diameter in px, and how much it is smeared in which direction (radians)."""

    x: int
    y: int
    diameter: float
    stretch: float
    direction: float


@dataclass(frozen=True)
class CapturePlan:
    """Everything in a capture. Positions are centres in px; erythrocytes may lie partly outside."""

    label: str
    nucleated: tuple[Placed, ...]
    red_cells: tuple[tuple[float, float], ...]
    platelets: tuple[tuple[int, int, float], ...]
    """x, y, diameter"""
    smudges: tuple[Smudge, ...]
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
    count = _count(count_rng(seed, block_of(patient), capture), shared.look)
    kinds = _kinds(rng, shared.label, count)
    if shared.look is Look.PINK:
        nucleated = _place_nucleated(rng, kinds, shared.magnification)
    else:
        nucleated = _place_crowd(rng, kinds, shared)
    platelets = min(12, int(rng.poisson(shared.platelets)))
    return CapturePlan(
        label=shared.label,
        nucleated=nucleated,
        red_cells=_place_red_cells(rng, shared, nucleated),
        platelets=tuple(_platelet(rng, shared) for _ in range(platelets)),
        smudges=tuple(_place_smudge(rng, shared, nucleated) for _ in range(min(5, rng.poisson(shared.smudges)))),
        scale_bar=shared.bar is not None and rng.random() < BAR_SHOWN,
        blur=float(np.clip(shared.blur + rng.normal(0, 0.35), 0, 3.0)),
        gain=float(np.exp(rng.normal(0, 0.015))),
    )


def _count(rng: np.random.Generator, look: Look) -> int:
    """Number of nucleated cells in a field of this look, except neutrophils."""
    chance = rng.random()
    if look is Look.PINK:
        return 0 if chance < EMPTY_FIELDS else 1 + int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))
    if chance < LEUKAEMIC_EMPTY_FIELDS:
        return 0
    if chance < LEUKAEMIC_EMPTY_FIELDS + LEUKAEMIC_SPARSE_FIELDS:
        return int(rng.integers(1, 7))
    fewest, most = CROWD
    return fewest + int((most + 1 - fewest) * rng.random() ** 1.4)


def _kinds(rng: np.random.Generator, label: str, count: int) -> list[Kind]:
    if count == 0:
        return []
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
        placed.append(Placed(kind, *best, diameter, _cell_seed(rng)))
    return tuple(placed)


def _cell_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


def _place_crowd(rng: np.random.Generator, kinds: list[Kind], patient: Patient) -> tuple[Placed, ...]:
    """Place the cells anywhere in the frame, also across its edge; many lie against another, none covers another."""
    placed: list[Placed] = []
    for index, kind in enumerate(kinds):
        diameter = cell_diameter(rng, kind) * patient.magnification
        # The first cell shows the label, so it lies almost completely inside the frame.
        outside = diameter * (_CROWD_OUTSIDE if index else -0.42)
        low, high = np.full(2, -outside), np.array([WIDTH, HEIGHT]) + outside
        candidates = rng.uniform(low, high, (_CROWD_CANDIDATES, 2))
        best = candidates[0]
        if placed:
            others = np.array([(cell.x, cell.y, cell.diameter / 2) for cell in placed])
            if rng.random() < patient.touching:
                neighbours = others[rng.integers(len(others), size=_CROWD_CANDIDATES)]
                reach = (neighbours[:, 2] + diameter / 2) * rng.uniform(1 - _CROWD_OVERLAP, 1.0, _CROWD_CANDIDATES)
                bearing = rng.uniform(0, 2 * np.pi, _CROWD_CANDIDATES)
                around = np.column_stack([np.cos(bearing), np.sin(bearing)]) * reach[:, None]
                candidates = np.clip(neighbours[:, :2] + around, low, high)
            gaps = np.hypot(*(candidates[:, None] - others[None, :, :2]).transpose(2, 0, 1))
            room = (gaps / (others[:, 2] + diameter / 2)).min(axis=1)
            free = np.flatnonzero(room >= 1 - _CROWD_OVERLAP)
            best = candidates[free[0] if len(free) else int(np.argmax(room))]
        placed.append(Placed(kind, round(best[0]), round(best[1]), diameter, _cell_seed(rng)))
    return _pressed(rng, placed)


def _pressed(rng: np.random.Generator, cells: list[Placed]) -> tuple[Placed, ...]:
    """Let most of the cells that overlap press each other flat, where their outlines cross."""
    sides: list[list[tuple[float, float]]] = [[] for _ in cells]
    for second, cell in enumerate(cells):
        for first, other in enumerate(cells[:second]):
            distance = float(np.hypot(cell.x - other.x, cell.y - other.y))
            radii = other.diameter / 2, cell.diameter / 2
            if not 0 < distance < sum(radii) or rng.random() > _PRESSED:
                continue
            bearing = float(np.arctan2(cell.y - other.y, cell.x - other.x))
            reach = (distance * distance + radii[0] ** 2 - radii[1] ** 2) / (2 * distance)
            sides[first].append((bearing, reach))
            sides[second].append((bearing + np.pi, distance - reach))
    return tuple(replace(cell, sides=tuple(pressed)) for cell, pressed in zip(cells, sides, strict=True))


def _place_red_cells(
    rng: np.random.Generator, patient: Patient, nucleated: tuple[Placed, ...]
) -> tuple[tuple[float, float], ...]:
    """Scatter erythrocytes away from nucleated cells; some touch a neighbour, the others keep their distance."""
    count = max(24, round(rng.normal(patient.red_cells, 4)))
    if patient.look is not Look.PINK:
        # The number of nucleated cells decides, not their area, which differs between labels.
        count = max(24, round(count * (1 - len(nucleated) / 75)))
    diameter = RED_DIAMETER * patient.magnification
    blocked = np.array([(cell.x, cell.y, cell.diameter / 2 + diameter * 0.44) for cell in nucleated]).reshape(-1, 3)
    centres = np.empty((count, 2))
    size = np.array([WIDTH, HEIGHT])
    heading: float | None = None
    for index in range(count):
        candidates = rng.uniform(-0.4 * diameter, size + 0.4 * diameter, (_CANDIDATES, 2))
        if index > 0 and rng.random() < patient.stacked:
            # The next of a stack, which bends a little from cell to cell.
            heading = (between(rng, (0, 2 * np.pi)) if heading is None else heading) + rng.normal(0, 0.3)
            bearings, step = heading + rng.normal(0, 0.15, _CANDIDATES), between(rng, _STACK_STEP) * diameter
            candidates = centres[index - 1] + step * np.column_stack([np.cos(bearings), np.sin(bearings)])
            candidates = np.clip(candidates, -0.45 * diameter, size + 0.45 * diameter)
            centres[index] = candidates[int(np.argmax(_room(candidates, centres[:0], blocked, diameter)))]
            continue
        heading = None
        if index > 0 and rng.random() < patient.clumping:
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


def _platelet(rng: np.random.Generator, patient: Patient) -> tuple[int, int, float]:
    x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
    return x, y, between(rng, (24, 44)) * patient.magnification


def _place_smudge(rng: np.random.Generator, patient: Patient, nucleated: tuple[Placed, ...]) -> Smudge:
    """Place a smudge cell where the most room is between nucleated cells; these lie over it."""
    candidates = rng.integers((0, 0), (WIDTH, HEIGHT), (_CANDIDATES, 2))
    others = np.array([(cell.x, cell.y) for cell in nucleated]).reshape(-1, 2)
    room = np.hypot(*(candidates[:, None] - others[None]).transpose(2, 0, 1)).min(axis=1, initial=np.inf)
    x, y = (int(place) for place in candidates[int(np.argmax(room))])
    diameter = between(rng, (110, 175)) * patient.magnification
    return Smudge(x, y, diameter, between(rng, (1.0, 1.7)), between(rng, (0, 2 * np.pi)))
