"""A run's captures against the reference of its bundle: how far their distributions have drifted apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select

from contract.bundle import Manifest
from contract.drift import FEWEST, LIMIT, reference_bins, stability_index
from contract.errors import NoSuchRun
from contract.states import CaptureState
from db.engine import reading
from db.models import BundleRow, Capture, Run

LOOKED_AT = 20_000
"""Captures, about, that are looked at: with so many, chance moves the index by less than 0.001."""


@dataclass(frozen=True)
class Drift:
    """The population stability index of one measure over so many captures of a run; `far` where it is above the limit
    and the captures are enough to say so.
    """

    measure: str
    index: float
    captures: int

    @property
    def far(self) -> bool:
        return self.index > LIMIT and self.captures >= FEWEST


def drift(engine: Engine, run_id: int) -> list[Drift]:
    """Of every measure that the bundle's reference knows, the farthest first; empty without a reference.

    Of a large run every so-manieth capture is looked at. Raises NoSuchRun.
    """
    with reading(engine) as connection:
        stored = connection.execute(
            select(BundleRow.manifest).join(Run, Run.bundle_digest == BundleRow.digest).where(Run.id == run_id)
        ).scalar()
        if stored is None:
            raise NoSuchRun(f"there is no run {run_id}; `screen status` lists the runs")
        bins = reference_bins(Manifest.model_validate(stored).reference)
        if not bins:
            return []
        screened = (Capture.run_id == run_id) & (Capture.state == CaptureState.SCREENED)
        every = 1 + connection.execute(select(func.count()).where(screened)).scalar_one() // LOOKED_AT
        rows = connection.execute(
            select(Capture.quality, Capture.novelty, Capture.p_all).where(screened, Capture.id % every == 0)
        ).all()
    found = []
    for name, of_reference in bins.items():
        values = [_value(name, row) for row in rows]
        known = np.array([value for value in values if value is not None], float)
        counts = np.bincount(
            np.searchsorted(of_reference.edges, known, side="left"), minlength=len(of_reference.shares)
        )
        if len(known):
            found.append(Drift(name, stability_index(of_reference, counts.tolist()), len(known)))
    return sorted(found, key=lambda one: -one.index)


def _value(name: str, row: Any) -> float | None:
    value: float | None = getattr(row, name) if name in ("novelty", "p_all") else (row.quality or {}).get(name)
    return value
