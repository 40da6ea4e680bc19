"""The kinds of nucleated cells and what sets them apart.

They follow textbook descriptions (WHO Classification of Haematolymphoid Tumours; Bain, Blood Cells; the FAB criteria
for lymphoblasts; McKenna et al. on haematogones), simplified so that the classes differ visibly at low resolution. They
are drawings, not biology: real precursors overlap far more, and laboratories separate them by immunophenotype.

- Haematogones (Benign): small, round smooth nucleus, hardly any cytoplasm, dark homogeneous "smudged" chromatin,
  nucleoli absent or indistinct. Mature lymphocytes are mixed in.
- Early pre-B: medium-sized, scanty cytoplasm, fairly fine chromatin, indented or cleft nucleus, nucleoli indistinct.
- Pre-B: larger, a moderate rim of basophilic cytoplasm, coarse clumps of chromatin, one or two nucleoli, vacuoles.
- Pro-B: largest, eccentric nucleus with fine, open, pale chromatin and large nucleoli, pale irregular cytoplasm.
"""

from dataclasses import dataclass
from enum import StrEnum

LABELS = ("Benign", "Early", "Pre", "Pro")


class Kind(StrEnum):
    """A kind of nucleated cell."""

    HAEMATOGONE = "haematogone"
    LYMPHOCYTE = "lymphocyte"
    EARLY = "early pre-B"
    PRE = "pre-B"
    PRO = "pro-B"
    NEUTROPHIL = "neutrophil"


KIND_OF_LABEL = {"Benign": Kind.HAEMATOGONE, "Early": Kind.EARLY, "Pre": Kind.PRE, "Pro": Kind.PRO}

Limits = tuple[float, float]


@dataclass(frozen=True)
class Anatomy:
    """How a kind of cell with one round nucleus looks. Pairs are the limits of a uniform distribution.

    Lengths are pixels at full size (11.8 px/µm); densities are multiples of the stain's unit.
    """

    diameter: Limits
    nucleus: Limits
    """Diameter of the nucleus as a share of the cell's."""
    eccentricity: Limits
    """How far the nucleus is off centre: 0 in the middle, 1 touching the membrane."""
    nuclear_waviness: float
    """Relative amplitude of the outline's harmonics."""
    cell_waviness: float
    clefts: tuple[float, ...]
    """Probabilities of 0, 1, 2 clefts in the nucleus."""
    cleft_depth: Limits
    chromatin: Limits
    """Mean density of the nucleus."""
    clump_size: Limits
    clump_contrast: Limits
    grain_contrast: Limits
    nucleoli: tuple[float, ...]
    """Probabilities of 0, 1, 2, ... nucleoli."""
    nucleolus_diameter: Limits
    nucleolus_clarity: Limits
    """Share of the chromatin's density that is missing in a nucleolus."""
    cytoplasm: Limits
    """Basophilia: density of methylene blue in the cytoplasm."""
    blebs: Limits
    vacuoles: tuple[float, ...] = (1.0,)


ANATOMY: dict[Kind, Anatomy] = {
    Kind.HAEMATOGONE: Anatomy(
        diameter=(84, 104),
        nucleus=(0.90, 0.95),
        eccentricity=(0.0, 0.6),
        nuclear_waviness=0.010,
        cell_waviness=0.015,
        clefts=(0.94, 0.06),
        cleft_depth=(0.06, 0.14),
        chromatin=(1.02, 1.18),
        clump_size=(20, 28),
        clump_contrast=(0.06, 0.12),
        grain_contrast=(0.03, 0.06),
        nucleoli=(0.85, 0.15),
        nucleolus_diameter=(8, 11),
        nucleolus_clarity=(0.06, 0.14),
        cytoplasm=(0.36, 0.58),
        blebs=(0.0, 0.02),
    ),
    Kind.LYMPHOCYTE: Anatomy(
        diameter=(92, 112),
        nucleus=(0.76, 0.86),
        eccentricity=(0.5, 1.0),
        nuclear_waviness=0.016,
        cell_waviness=0.025,
        clefts=(0.7, 0.3),
        cleft_depth=(0.06, 0.16),
        chromatin=(1.00, 1.14),
        clump_size=(15, 22),
        clump_contrast=(0.09, 0.17),
        grain_contrast=(0.02, 0.04),
        nucleoli=(0.95, 0.05),
        nucleolus_diameter=(8, 11),
        nucleolus_clarity=(0.06, 0.14),
        cytoplasm=(0.16, 0.30),
        blebs=(0.0, 0.03),
    ),
    Kind.EARLY: Anatomy(
        diameter=(96, 115),
        nucleus=(0.86, 0.92),
        eccentricity=(0.1, 0.8),
        nuclear_waviness=0.042,
        cell_waviness=0.025,
        clefts=(0.10, 0.55, 0.35),
        cleft_depth=(0.20, 0.46),
        chromatin=(0.88, 1.02),
        clump_size=(8, 11),
        clump_contrast=(0.07, 0.13),
        grain_contrast=(0.06, 0.10),
        nucleoli=(0.55, 0.45),
        nucleolus_diameter=(9, 13),
        nucleolus_clarity=(0.14, 0.26),
        cytoplasm=(0.30, 0.48),
        blebs=(0.0, 0.04),
    ),
    Kind.PRE: Anatomy(
        diameter=(104, 123),
        nucleus=(0.70, 0.79),
        eccentricity=(0.1, 0.7),
        nuclear_waviness=0.026,
        cell_waviness=0.025,
        clefts=(0.80, 0.20),
        cleft_depth=(0.08, 0.20),
        chromatin=(0.92, 1.06),
        clump_size=(13, 18),
        clump_contrast=(0.26, 0.38),
        grain_contrast=(0.03, 0.06),
        nucleoli=(0.10, 0.55, 0.35),
        nucleolus_diameter=(11, 15),
        nucleolus_clarity=(0.38, 0.55),
        cytoplasm=(0.42, 0.62),
        blebs=(0.0, 0.04),
        vacuoles=(0.6, 0.2, 0.12, 0.08),
    ),
    Kind.PRO: Anatomy(
        diameter=(114, 136),
        nucleus=(0.74, 0.83),
        eccentricity=(0.6, 1.0),
        nuclear_waviness=0.028,
        cell_waviness=0.032,
        clefts=(0.75, 0.25),
        cleft_depth=(0.08, 0.20),
        chromatin=(0.62, 0.76),
        clump_size=(7, 10),
        clump_contrast=(0.06, 0.11),
        grain_contrast=(0.07, 0.11),
        nucleoli=(0.0, 0.30, 0.42, 0.28),
        nucleolus_diameter=(16, 25),
        nucleolus_clarity=(0.50, 0.70),
        cytoplasm=(0.22, 0.36),
        blebs=(0.04, 0.12),
    ),
}
"""All kinds except the neutrophil, which has its own drawing function."""

NEUTROPHIL_DIAMETER: Limits = (122, 142)
"""10 to 12 µm."""
