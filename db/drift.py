"""A run's captures against the reference of its bundle: how far their distributions have drifted apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from contract.drift import FEWEST, LIMIT, chance, reference_bins, stability_index
from contract.states import CaptureState
from db.models import Capture
from db.runs import RunRow

LOOKED_AT = 20_000
"""Captures, about, that are looked at: with so many, chance moves the index by less than 0.001."""
NAMES = {
    "p_all": "probability of ALL", "red_green": "red to green", "blue_green": "blue to green", "bar": "scale bar",
    "nucleated": "area of nucleated cells", "cells": "area of cells", "clipped": "cut-off light",
}  # fmt: skip
"""Of measures, in words, where the name of the measure is not one."""


@dataclass(frozen=True)
class Drift:
    """The population stability index of one measure over so many captures and patients of a run; `far` where it is
    above `limit`, which is that of the measure or what chance can do with so few patients, and they are enough to tell.
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
    """Of every measure that the bundle's reference knows, the farthest first; empty without a reference.

    Of a large run every so-manieth capture is looked at.
    """
    bins = reference_bins(run.manifest.reference)
    if not bins:
        return []
    screened = (Capture.run_id == run.id) & (Capture.state == CaptureState.SCREENED)
    every = 1 + connection.execute(select(func.count()).where(screened)).scalar_one() // LOOKED_AT
    rows = connection.execute(
        select(Capture.case_id, Capture.quality, Capture.novelty, Capture.p_all).where(
            screened, Capture.id % every == 0
        )
    ).all()
    found = []
    for name, of_reference in bins.items():
        values = [(value, row.case_id) for row in rows if (value := _value(name, row)) is not None]
        known = np.array([value for value, _ in values], float)
        patients = len({case_id for _, case_id in values})
        counts = np.bincount(
            np.searchsorted(of_reference.edges, known, side="left"), minlength=len(of_reference.shares)
        )
        if len(known):
            index = stability_index(of_reference, counts.tolist(), patients)
            limit = max(LIMIT, chance(of_reference, patients))
            found.append(Drift(name, index, limit, len(known), patients))
    return sorted(found, key=lambda drift: -drift.index)


def drift_warning(drifts: Sequence[Drift]) -> str | None:
    """A sentence, without its full stop, where some measure is beyond its limit; else None."""
    far = [f"{NAMES.get(drift.measure, drift.measure)} {drift.index:.1f}" for drift in drifts if drift.far]
    if not far:
        return None
    return (
        f"the captures of this run differ from those that the bundle knows: {', '.join(far)} (population stability "
        f"index, remarkable from {LIMIT}); read its results with care"
    )


def _value(name: str, row: Any) -> float | None:
    value: float | None = getattr(row, name) if name in ("novelty", "p_all") else (row.quality or {}).get(name)
    return value
