"""Compares a run's captures with the reference of its bundle: how far their distributions have drifted apart."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from contract.drift import FEWEST, LIMIT, chance, reference_bins, stability_index
from contract.states import CaptureState
from db.engine import AnyRow
from db.models import Capture
from db.reused import ORIGINAL, of_original
from db.runs import RunRow

LOOKED_AT = 20_000
"""About this many captures are read: with so many, chance moves the index by less than 0.001."""
NAMES = {
    "p_all": "probability of ALL", "red_green": "red to green", "blue_green": "blue to green", "bar": "scale bar",
    "nuclei": "area of nuclei", "nucleated": "area of nucleated cells", "cells": "area of cells",
    "clipped": "cut-off light",
}  # fmt: skip
"""Measures in words, if the name of the measure is not a word."""


@dataclass(frozen=True)
class Drift:
    """The population stability index of one measure over `captures` of `patients` of a run. `limit` is the larger of
    LIMIT and the index that chance can reach with this many patients; `far`: the index is above it, and the patients
    are enough to tell.
    """

    measure: str
    index: float
    limit: float
    captures: int
    patients: int

    @property
    def far(self) -> bool:
        return self.index > self.limit and self.patients >= FEWEST


def drift_of(connection: Connection, run: RunRow) -> list[Drift]:
    """The drift of every measure in the bundle's reference, the largest index first; empty without a reference.

    In a large run only every n-th capture is read, about LOOKED_AT in all.
    """
    bins = reference_bins(run.manifest.reference)
    if not bins:
        return []
    screened = (Capture.run_id == run.id) & (Capture.state == CaptureState.SCREENED)
    every = 1 + connection.execute(select(func.count()).where(screened)).scalar_one() // LOOKED_AT
    rows = connection.execute(
        select(Capture.case_id, of_original("quality"), Capture.novelty, Capture.p_all)
        .outerjoin(ORIGINAL, ORIGINAL.id == Capture.reused_from)
        .where(screened, Capture.id % every == 0)
    ).all()
    drifts = []
    for name, reference in bins.items():
        measured = [(value, row.case_id) for row in rows if (value := _value(name, row)) is not None]
        values = [value for value, _ in measured]
        patients = len({case_id for _, case_id in measured})
        if values:
            index = stability_index(reference, reference.count(values), patients)
            limit = max(LIMIT, chance(reference, patients))
            drifts.append(Drift(name, index, limit, len(values), patients))
    return sorted(drifts, key=lambda drift: -drift.index)


def drift_warning(drifts: Sequence[Drift]) -> str | None:
    """A sentence without its full stop if some measure is above its limit, otherwise None."""
    far = [f"{NAMES.get(drift.measure, drift.measure)} {drift.index:.1f}" for drift in drifts if drift.far]
    if not far:
        return None
    return (
        f"the captures of this run differ from those that the bundle knows: {', '.join(far)} (population stability "
        f"index, remarkable from {LIMIT}); read its results with care"
    )


def _value(name: str, row: AnyRow) -> float | None:
    value: float | None = getattr(row, name) if name in ("novelty", "p_all") else (row.quality or {}).get(name)
    return value
