"""A run's captures against the reference of its bundle: how far their distributions have drifted apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select

from contract.bundle import Manifest
from contract.drift import FEWEST, LIMIT, chance, reference_bins, stability_index
from contract.errors import NoSuchRun
from contract.states import CaptureState
from db.engine import reading
from db.models import BundleRow, Capture, Run

LOOKED_AT = 20_000
"""Captures, about, that are looked at: with so many, chance moves the index by less than 0.001."""


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
            index, limit = (
                stability_index(of_reference, counts.tolist(), patients),
                max(LIMIT, chance(of_reference, patients)),
            )
            found.append(Drift(name, index, limit, len(known), patients))
    return sorted(found, key=lambda one: -one.index)


def _value(name: str, row: Any) -> float | None:
    value: float | None = getattr(row, name) if name in ("novelty", "p_all") else (row.quality or {}).get(name)
    return value
