"""Which captures of an archive are the microscope's own, without a label: those of its consistent majority, as far as
they look like a blood smear at all.

A capture belongs to the majority if a chain of close neighbours in the first stage's features joins it with most others
(DBSCAN, Ester et al. 1996): photographs lie scattered, captures of another kind of slide make a smaller cluster of
their own. A covariance fitted robustly (Rousseeuw's MCD) was tried first and does not do: patients differ in stain, so
a microscope's captures are several clouds, of which it keeps the densest alone.
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
"""Readable captures and patients that are asked for. A third of the patients, two at least, fit the threshold of
novelty, three at least are the reference; and with fewer captures the largest cluster is a matter of chance."""
MAJORITY = 0.6
"""Share of the smear-like captures that must belong together, or nobody can tell which are the microscope's."""
SMEAR_LIKE = 0.5
"""Share of the archive's captures that must look like a smear: of four sets of smears 88 to 100 % do, of photographs
and of histology at most 1 % (docs/training.md)."""
NUCLEATED = 0.005
"""A smear shows at least this share of blue to purple after normalisation of its stain; a field of erythrocytes alone
shows less, and may still belong to the majority."""
COVERED = 0.75
"""And at most this share of it is darker than its background: of photographs there is hardly any background."""
NEIGHBOURS = 3
REACH = 1.5
"""Two captures are close if they are no further apart than this many times the median distance of a capture from its
third nearest of other patients: with 1.0 half of a sound archive was left out, with 2.0 clusters of other smears
were joined."""
COMPONENTS = 8
CLIPPED = 8.0
"""Deviations from the median beyond which a feature counts no further: a photograph must not turn the axes."""
BLURRED = 4.0
"""Robust deviations of log sharpness below the median from which a capture is out of focus."""


@dataclass(frozen=True)
class Majority:
    """`own` bool [N]: the microscope's captures; `space` [N, d]: where they were compared; how many were left out as
    no smear (`unlike_smears`), as not of the majority (`apart`), and as empty or out of focus (`poor`).
    """

    own: NDArray[np.bool_]
    space: NDArray[np.float64]
    unlike_smears: int
    apart: int
    poor: int


def majority(looked: Looked, widths: list[int]) -> Majority:
    """The captures that a reference may be taken of. Raises DataError where there are too few, where they are no
    smears, or where they do not belong together.
    """
    patients = looked.patient_numbers()
    _refuse_few(len(patients), len(np.unique(patients)), FEWEST_CAPTURES, "readable captures")
    measures = looked.measures
    smear = measures["cells"] <= COVERED
    typical = smear & (measures["nucleated"] >= NUCLEATED)
    if typical.mean() < SMEAR_LIKE:
        raise DataError(
            f"only {typical.mean():.0%} of the captures look like a blood smear (stained nuclei, bright background; "
            f"at least {SMEAR_LIKE:.0%} are needed): nothing was adapted. Name an archive of smears; of a microscope "
            "whose smears look otherwise, label some captures and train"
        )
    space = compared(looked.answers.embedding[:, : widths[0]])
    together = _largest(space, patients)
    poor = _poor(measures, smear & together)
    own = smear & together & ~poor
    if (smear & together).sum() < MAJORITY * smear.sum():
        raise DataError(
            f"only {(smear & together).sum()} of {smear.sum()} smear-like captures belong together, fewer than "
            f"{MAJORITY:.0%}: which are the microscope's cannot be told. Adapt to captures of one microscope and one "
            "stain at a time"
        )
    _refuse_few(int(own.sum()), len(np.unique(patients[own])), int(MAJORITY * FEWEST_CAPTURES), "captures to go by")
    return Majority(
        own=own,
        space=space,
        unlike_smears=int((~smear).sum()),
        apart=int((smear & ~together).sum()),
        poor=int((smear & together & poor).sum()),
    )


def compared(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features [N, G] of the network's first stage as points [N, d] in which distances mean something: their first
    principal components, once each feature is centred and scaled by median and median deviation.

    The last stage is left out: it parts captures by their labels, and of an archive with four of them a
    third hung together.
    """
    own = features.astype(np.float64)
    apart = own - np.median(own, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(apart), axis=0), 1e-6 + 0.05 * own.std(axis=0))
    scaled = np.clip(apart / scale, -CLIPPED, CLIPPED)
    return np.asarray(PCA(min(COMPONENTS, *scaled.shape), random_state=0).fit_transform(scaled), np.float64)


def _largest(space: NDArray[np.float64], patients: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points belong to the largest cluster.

    How far neighbours are is measured between patients: a series of one field lies close together, whatever it is of.
    """
    distances = cdist(space, space)
    of_others = np.where(patients[:, None] == patients[None], np.inf, distances)
    reach = REACH * float(np.median(np.partition(of_others, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]))
    clusters = DBSCAN(eps=reach, min_samples=NEIGHBOURS + 1, metric="precomputed").fit_predict(distances)
    sizes = np.bincount(clusters[clusters >= 0], minlength=1)
    return np.asarray((clusters == sizes.argmax()) & (sizes.max() > 0))


def _poor(measures: dict[str, NDArray[np.float64]], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Captures without cells or out of focus, judged by the others: a reference must not make them known."""
    cells, sharpness = measures["cells"], np.log(np.maximum(measures["sharpness"], 1e-3))
    if not among.any():
        return ~among
    middle = float(np.median(sharpness[among]))
    spread = 1.4826 * float(np.median(np.abs(sharpness[among] - middle)))
    empty = cells < EMPTY * float(np.median(cells[among]))
    return np.asarray(empty | (sharpness < middle - BLURRED * max(spread, 0.1)))


def _refuse_few(captures: int, patients: int, fewest: int, what: str) -> None:
    if captures < fewest or patients < FEWEST_PATIENTS:
        raise DataError(
            f"{captures} {what} of {patients} patients; a reference needs at least {fewest} of "
            f"{FEWEST_PATIENTS} patients: add captures of the same microscope"
        )
