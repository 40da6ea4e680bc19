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
FEWEST = 200
"""Captures below which chance alone often goes beyond the limit: nothing is said of fewer."""
P_ALL_EDGES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Bounds between the bins of P(ALL): its quantiles would all lie near 0 and 1."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_EMPTY = 1e-4
"""A bin without captures counts as this share, for the logarithm."""


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


def stability_index(bins: Bins, counts: Sequence[int]) -> float:
    """The index of a run's `counts` per bin against the reference's shares; 0 where they are alike."""
    found = np.maximum(np.asarray(counts, float) / max(1, sum(counts)), _EMPTY)
    expected = np.maximum(np.asarray(bins.shares), _EMPTY)
    return float(((found - expected) * np.log(found / expected)).sum())
