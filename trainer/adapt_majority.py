"""Which captures of an archive are the microscope's own, decided without labels: those that look like a blood smear and
belong to the archive's consistent majority.

A capture belongs to the majority if a chain of close neighbours in the first stage's features joins it with most others
(DBSCAN, Ester et al. 1996): photographs lie scattered, and captures of another kind of slide make a smaller cluster of
their own. A covariance fitted robustly (Rousseeuw's MCD) was tried first and did not work: patients differ in stain, so
a microscope's captures form several clouds, and the covariance keeps only the densest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN
from sklearn.decomposition import PCA

from contract.errors import DataError
from contract.quality import EMPTY
from trainer.adapt_archive import Looked

FEWEST_CAPTURES, FEWEST_PATIENTS = 100, 5
"""The fewest readable captures and patients. A third of the patients, at least two, fit the threshold of novelty, and
at least three are the reference. With fewer captures, chance decides which cluster is the largest."""
MAJORITY = 0.6
"""The share of the smear-like captures that must belong together; below it, the microscope's are unclear."""
SMEAR_LIKE = 0.5
"""The share of the archive's captures that must look like a smear: in four sets of smears 88 to 100 % do, in
photographs and in histology at most 1 % (docs/training.md)."""
COVERED = 0.75
"""At most this share of a smear is darker than its background; photographs have hardly any background."""
NEIGHBOURS = 3
REACH = 1.5
"""Two captures are close if they are no further apart than this many times the median distance of a capture from its
third nearest capture of other patients. With 1.0, half of a good archive was left out; with 2.0, clusters of other
smears were joined."""
COMPONENTS = 8
CLIPPED = 8.0
"""A feature is cut off at this many deviations from the median: a photograph must not turn the axes."""
BLURRED = 4.0
"""A capture is out of focus if its log sharpness is more than this many robust deviations below the median."""


@dataclass(frozen=True)
class Majority:
    """`own` bool [N]: the microscope's captures; `space` [N, d]: the points that were compared. The counts say how many
    captures were left out as no smear (`unlike_smears`), as not of the majority (`apart`), and as empty or out of focus
    (`poor`).
    """

    own: NDArray[np.bool_]
    space: NDArray[np.float64]
    unlike_smears: int
    apart: int
    poor: int


def majority(sample: Looked, widths: list[int]) -> Majority:
    """The captures that a reference may be taken from. Raises DataError if there are too few, if they are no smears, or
    if they do not belong together.
    """
    patients = sample.patient_numbers()
    _refuse_few(len(patients), len(np.unique(patients)), FEWEST_CAPTURES, "readable captures")
    measures = sample.measures
    smear = measures["cells"] <= COVERED
    typical = smear & sample.with_cells  # a field of erythrocytes alone may still belong to the majority
    if typical.mean() < SMEAR_LIKE:
        raise DataError(
            f"only {typical.mean():.0%} of the captures look like a blood smear (stained nuclei, bright background; "
            f"at least {SMEAR_LIKE:.0%} are needed): nothing was adapted. Name an archive of smears; if the "
            "smears of this microscope look different, label some captures and train"
        )
    space = compared(sample.answers.embedding[:, : widths[0]])
    together = _largest(space, patients)
    poor = _poor(measures, smear & together)
    own = smear & together & ~poor
    if (smear & together).sum() < MAJORITY * smear.sum():
        raise DataError(
            f"only {(smear & together).sum()} of {smear.sum()} smear-like captures belong together, fewer than "
            f"{MAJORITY:.0%}: it is unclear which are the microscope's. Adapt to captures of one microscope and one "
            "stain at a time"
        )
    _refuse_few(int(own.sum()), len(np.unique(patients[own])), int(MAJORITY * FEWEST_CAPTURES), "usable captures")
    return Majority(
        own=own,
        space=space,
        unlike_smears=int((~smear).sum()),
        apart=int((smear & ~together).sum()),
        poor=int((smear & together & poor).sum()),
    )


def compared(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features [N, G] of the network's first stage as points [N, d] whose distances can be compared: each feature is
    centred by its median and scaled by its median deviation, then the first principal components are taken.

    The last stage is not used: it separates captures by their labels, and in an archive with four labels only a third
    of the captures hung together.
    """
    features = features.astype(np.float64)
    centred = features - np.median(features, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(centred), axis=0), 1e-6 + 0.05 * features.std(axis=0))
    scaled = np.clip(centred / scale, -CLIPPED, CLIPPED)
    return np.asarray(PCA(min(COMPONENTS, *scaled.shape), random_state=0).fit_transform(scaled), np.float64)


def _largest(space: NDArray[np.float64], patients: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points belong to the largest cluster.

    The distance of neighbours is measured between patients, because a series of one field lies close together, whatever
    it shows.
    """
    distances = cdist(space, space)
    of_others = np.where(patients[:, None] == patients[None], np.inf, distances)
    reach = REACH * float(np.median(np.partition(of_others, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]))
    clusters = DBSCAN(eps=reach, min_samples=NEIGHBOURS + 1, metric="precomputed").fit_predict(distances)
    sizes = np.bincount(clusters[clusters >= 0], minlength=1)
    return np.asarray((clusters == sizes.argmax()) & (sizes.max() > 0))


def _poor(measures: dict[str, NDArray[np.float64]], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Captures without cells or out of focus, compared with the others: a reference must not make them known."""
    cells, sharpness = measures["cells"], np.log(np.maximum(measures["sharpness"], 1e-3))
    if not candidates.any():
        return ~candidates
    middle = float(np.median(sharpness[candidates]))
    spread = 1.4826 * float(np.median(np.abs(sharpness[candidates] - middle)))
    empty = cells < EMPTY * float(np.median(cells[candidates]))
    return np.asarray(empty | (sharpness < middle - BLURRED * max(spread, 0.1)))


def _refuse_few(captures: int, patients: int, fewest: int, kind: str) -> None:
    if captures < fewest or patients < FEWEST_PATIENTS:
        raise DataError(
            f"{captures} {kind} of {patients} patients; a reference needs at least {fewest} of "
            f"{FEWEST_PATIENTS} patients: add captures of the same microscope"
        )
