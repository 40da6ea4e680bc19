"""How far a run's captures differ from those that its bundle knows: the population stability index.

Of a measure, its reference says which share of captures lies between which bounds; the index compares with the shares
of the run: sum over bins of (run - reference) ln(run / reference), the symmetric Kullback-Leibler divergence of the two
(Jeffreys 1946; the name, and the limits 0.1 and 0.25, are those of credit scoring, Siddiqi 2006).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

LIMIT = 0.25
"""From here on the run's captures are another population than the reference's, by the usual reading."""
FEWEST = 30
"""Patients below which nothing is said: captures of one patient are alike, so a few patients fill a few bins."""
_Z = 3.0902
"""Quantile of the normal distribution at 99.9 %."""
P_ALL_EDGES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Bounds between the bins of P(ALL): its quantiles would all lie near 0 and 1."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_EMPTY = 1e-4
"""A share counts as this much at least, for the logarithm."""


class Bins(BaseModel):
    """Ascending `edges`, and the share of the reference's captures in each of the len(edges) + 1 bins that they part;
    an edge belongs to the bin below it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[np.float64], edges: Sequence[float] | None = None) -> "Bins":
        """Bins between the quantiles of `values` [N], or between these edges, with the shares of the values."""
        chosen = np.unique(np.quantile(values, _QUANTILES) if edges is None else np.asarray(edges, float))
        counts = np.bincount(np.searchsorted(chosen, values, side="left"), minlength=len(chosen) + 1)
        return cls(edges=tuple(chosen.tolist()), shares=tuple((counts / len(values)).tolist()))


def reference_bins(reference: Mapping[str, Any]) -> dict[str, Bins]:
    """What `Manifest.reference` knows of: the quality measures, `novelty` and `p_all`, each with its bins."""
    return {name: Bins.model_validate(stored) for name, stored in reference.get("drift", {}).items()}


def chance(bins: Bins, patients: int) -> float:
    """The index that chance alone exceeds once in a thousand runs of so many patients, at most.

    Without drift the index is chi-squared, with a degree of freedom less than bins, divided by the number of
    independent values (Yurdakul & Naranjo 2020, Journal of Risk Model Validation 14(4)); these are patients rather than
    captures. The quantile by Wilson and Hilferty (1931).
    """
    freedom = max(1, len(bins.shares) - 1)
    quantile = freedom * float(1 - 2 / (9 * freedom) + _Z * (2 / (9 * freedom)) ** 0.5) ** 3
    return quantile / max(1, patients)


def stability_index(bins: Bins, counts: Sequence[int], patients: int) -> float:
    """The index of a run's `counts` per bin against the reference's shares; 0 where they are alike.

    A bin that none of so many patients fell into counts as half a patient: with few, an empty one says little.
    """
    least = max(_EMPTY, 0.5 / max(1, patients))
    found = np.maximum(np.asarray(counts, float) / max(1, sum(counts)), least)
    expected = np.maximum(np.asarray(bins.shares), _EMPTY)
    return float(((found - expected) * np.log(found / expected)).sum())
