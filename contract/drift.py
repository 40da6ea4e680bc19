"""How far a run's captures differ from those that its bundle knows: the population stability index.

The reference of a measure says which share of captures lies between which bounds. The index compares these shares with
those of the run: sum over bins of (run - reference) ln(run / reference), which is their symmetric Kullback-Leibler
divergence (Jeffreys 1946). The name and the limits 0.1 and 0.25 come from credit scoring (Siddiqi 2006).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

LIMIT = 0.25
"""From this index on, the usual reading is that the run's captures are another population than the reference's."""
FEWEST = 30
"""With fewer patients there is no warning: captures of one patient are alike, so few patients fill few bins."""
_Z = 3.0902
"""Quantile of the normal distribution at 99.9 %."""
P_ALL_EDGES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Bounds between the bins of P(ALL), because its quantiles would all lie near 0 and 1."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_EMPTY = 1e-4
"""The smallest value of a share, so that its logarithm exists."""


class Bins(BaseModel):
    """Ascending `edges`, and the share of the reference's captures in each of the len(edges) + 1 bins between them; an
    edge belongs to the bin below it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[np.float64], edges: Sequence[float] | None = None) -> "Bins":
        """Bins between `edges`, by default the quantiles of `values` [N], with the share of the values in each."""
        chosen = np.unique(np.quantile(values, _QUANTILES) if edges is None else np.asarray(edges, float))
        counts = _counts(chosen, values)
        return cls(edges=tuple(chosen.tolist()), shares=tuple((counts / len(values)).tolist()))

    def count(self, values: ArrayLike) -> list[int]:
        """How many of these values lie in each bin, [len(edges) + 1]."""
        return [int(count) for count in _counts(np.asarray(self.edges), values)]


def _counts(edges: NDArray[np.float64], values: ArrayLike) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def reference_bins(reference: Mapping[str, Any]) -> dict[str, Bins]:
    """The bins of each measure in `Manifest.reference`: the quality measures, `novelty` and `p_all`."""
    return {name: Bins.model_validate(stored) for name, stored in reference.get("drift", {}).items()}


def chance(bins: Bins, patients: int) -> float:
    """The index that chance alone exceeds at most once in a thousand runs of this many patients.

    Without drift the index is chi-squared, with one degree of freedom less than bins, divided by the number of
    independent values (Yurdakul & Naranjo 2020, Journal of Risk Model Validation 14(4)). Patients are such values,
    captures are not. The quantile is computed as by Wilson and Hilferty (1931).
    """
    freedom = max(1, len(bins.shares) - 1)
    quantile = freedom * float(1 - 2 / (9 * freedom) + _Z * (2 / (9 * freedom)) ** 0.5) ** 3
    return quantile / max(1, patients)


def stability_index(bins: Bins, counts: Sequence[int], patients: int) -> float:
    """The index of a run's `counts` per bin against the reference's shares; 0 if they are equal.

    An empty bin counts as half a patient: with few patients an empty bin says little.
    """
    least = max(_EMPTY, 0.5 / max(1, patients))
    observed = np.maximum(np.asarray(counts, float) / max(1, sum(counts)), least)
    expected = np.maximum(np.asarray(bins.shares), _EMPTY)
    return float(((observed - expected) * np.log(observed / expected)).sum())
