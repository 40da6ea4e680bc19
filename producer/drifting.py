"""Whether a run's captures are still those that its bundle knows, in words."""

from collections.abc import Sequence

from contract.drift import LIMIT
from db.drift import Drift

NAMES = {"p_all": "probability of ALL", "red_green": "red to green", "blue_green": "blue to green", "bar": "scale bar",
         "nucleated": "area of nucleated cells", "cells": "area of cells", "clipped": "cut-off light"}  # fmt: skip


def drift_warning(found: Sequence[Drift]) -> str | None:
    """A sentence where something is beyond the limit, else None."""
    far = [f"{NAMES.get(one.measure, one.measure)} {one.index:.1f}" for one in found if one.far]
    if not far:
        return None
    return (
        f"the captures of this run differ from those that the bundle knows: {', '.join(far)} (population stability "
        f"index, remarkable from {LIMIT}); read its results with care"
    )
