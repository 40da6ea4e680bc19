"""An even choice among many."""

import numpy as np
from numpy.typing import NDArray


def evenly_spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the places 0 to `count` - 1, spread evenly over them, in order."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
