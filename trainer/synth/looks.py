"""The looks of captures: how a laboratory's stain and camera show the same cells.

PINK is the look of the BCCD data set: few nucleated cells among pink erythrocytes at full size. The other four are
those of the public ALL set, each chosen by eye by comparison with it: bright fields at a lower magnification, violet
nuclei, grey to blue erythrocytes. There they go with a diagnosis; here every look is drawn for every label.
"""

from dataclasses import dataclass
from enum import StrEnum

Limits = tuple[float, float]
Densities = tuple[float, float, float]
"""Optical densities of R, G, B for one unit of a stain."""


class Look(StrEnum):
    """A look of captures."""

    PINK = "pink"
    GREY = "grey"
    LILAC = "lilac"
    BLUE = "blue"
    PALE = "pale"


LOOKS_IN_TURN = (Look.PINK,) * 4 + (Look.GREY, Look.LILAC, Look.BLUE, Look.PALE)
"""Each block of four patients, one of each label, has one look; eight blocks in a row have these, in a random order."""


@dataclass(frozen=True)
class LeukaemicLook:
    """Stain and field of a look with crowded fields. Pairs are the limits of a uniform distribution."""

    white: Densities
    """R, G, B of an empty place; above 255 the camera is overexposed."""
    erythrocytes: Densities
    chromatin: Densities
    cytoplasm: Densities
    smear: Densities
    """Of smudge cells, the remains of burst nuclei."""
    red_cells: Limits
    """Mean number of erythrocytes in a field without nucleated cells."""
    stacked: Limits
    """Share of erythrocytes that lie in stacks."""
    pallor: Limits
    full: float
    """Share of erythrocytes without a pale centre."""
    crenation: Limits
    """Relative amplitude of the spikes of erythrocytes."""


LEUKAEMIC: dict[Look, LeukaemicLook] = {
    Look.GREY: LeukaemicLook(
        white=(252, 257, 247),
        erythrocytes=(0.32, 0.26, 0.14),
        chromatin=(0.41, 0.62, 0.045),
        cytoplasm=(0.75, 0.80, 0.06),
        smear=(0.17, 0.36, 0.06),
        red_cells=(110, 185),
        stacked=(0.10, 0.45),
        pallor=(0.45, 0.95),
        full=0.30,
        crenation=(0.0, 0.03),
    ),
    Look.LILAC: LeukaemicLook(
        white=(250, 256, 249),
        erythrocytes=(0.40, 0.33, 0.14),
        chromatin=(0.43, 0.68, 0.025),
        cytoplasm=(0.80, 0.90, 0.05),
        smear=(0.18, 0.38, 0.05),
        red_cells=(100, 165),
        stacked=(0.25, 0.70),
        pallor=(0.20, 0.70),
        full=0.40,
        crenation=(0.0, 0.05),
    ),
    Look.BLUE: LeukaemicLook(
        white=(247, 255, 252),
        erythrocytes=(0.47, 0.33, 0.09),
        chromatin=(0.37, 0.59, 0.02),
        cytoplasm=(1.05, 0.90, 0.05),
        smear=(0.19, 0.36, 0.06),
        red_cells=(95, 155),
        stacked=(0.15, 0.55),
        pallor=(0.75, 1.0),
        full=0.15,
        crenation=(0.0, 0.02),
    ),
    Look.PALE: LeukaemicLook(
        white=(258, 259, 252),
        erythrocytes=(0.28, 0.23, 0.11),
        chromatin=(0.17, 0.37, 0.012),
        cytoplasm=(0.30, 0.58, 0.02),
        smear=(0.08, 0.28, 0.02),
        red_cells=(85, 145),
        stacked=(0.0, 0.40),
        pallor=(0.60, 1.0),
        full=0.35,
        crenation=(0.0, 0.02),
    ),
}
LEUKAEMIC_MAGNIFICATION: Limits = (0.72, 0.84)
"""Relative to the full size: a blast is 70 to 110 px wide, 1/11 to 1/7 of the height, as in the public ALL set."""
VIGNETTE_COLOUR: Densities = (0.7, 0.4, -0.15)
"""Vignetting of R, G, B in these looks: the middle of a field is yellowish and its corners are bluish."""
