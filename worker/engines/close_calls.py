"""Close calls again in float32: what a coarser arithmetic might decide otherwise is decided by the exact one."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from worker.engines.base import Engine, Pending, Predictions


def close_calls(probabilities: NDArray[np.float32], margin: float) -> list[int]:
    """Rows of [N, L] whose two highest probabilities lie closer together than `margin`."""
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return [int(row) for row in np.flatnonzero(first - second < margin)]


def margin_of(bundle: Bundle, precision: str) -> float:
    """How close two probabilities may lie to be doubted in this precision: twice what the bundle tolerates of it."""
    return 2 * bundle.manifest.golden_tolerance[precision]


class CloseCalls:
    """A fast engine and an exact one as one engine. See `worker.engines.base.Engine`.

    Where the two highest probabilities of a capture lie closer together than `margin`, all of its outputs are the exact
    engine's. Two probabilities that are each off by at most t cannot change places where they lie 2 t apart or more.

    One batch more than the fast engine takes may be under way: while the exact one looks at the close calls of the
    oldest, the fast one has its hands full.
    """

    def __init__(self, fast: Engine, exact: Engine, margin: float) -> None:
        self.name, self.precision, self.device = fast.name, fast.precision, fast.device
        self.shares_cores, self.max_batch = fast.shares_cores, fast.max_batch
        self.depth = fast.depth + 1
        self._fast = fast
        self._exact = exact
        self._margin = margin
        self._first_look: deque[_Batch] = deque()

    def start(self, batch: RGBImage) -> Pending:
        if len(self._first_look) == self._fast.depth:
            self._look_again()
        started = _Batch(batch, self._fast.start(batch))
        self._first_look.append(started)
        return lambda: self._decided(started)

    def close(self) -> None:
        self._fast.close()
        self._exact.close()

    def _look_again(self) -> None:
        """Take what the fast engine finds in its oldest batch, and begin with the close calls."""
        batch = self._first_look.popleft()
        try:
            batch.found = batch.pending()
            batch.rows.extend(close_calls(batch.found.probabilities, self._margin))
            self._begin_rows(batch)
        except EngineError as error:
            batch.error = error

    def _begin_rows(self, batch: "_Batch") -> None:
        while batch.rows and len(batch.flying) < self._exact.depth:
            row = batch.rows.popleft()
            # One by one: for each size of batch the engine would have to compile another model.
            batch.flying.append((row, self._exact.start(batch.pixels[row : row + 1])))

    def _decided(self, batch: "_Batch") -> Predictions:
        while batch in self._first_look:
            self._look_again()
        if batch.error is not None:
            raise batch.error
        assert batch.found is not None
        while batch.flying:
            row, pending = batch.flying.popleft()
            exact = pending()
            self._begin_rows(batch)
            batch.found.probabilities[row] = exact.probabilities[0]
            batch.found.embedding[row] = exact.embedding[0]
            if batch.found.cam is not None and exact.cam is not None:
                batch.found.cam[row] = exact.cam[0]
        return batch.found


@dataclass(eq=False)
class _Batch:
    """A batch on its way. `rows` are close calls that wait for the exact engine, `flying` those that it has."""

    pixels: RGBImage
    pending: Pending
    found: Predictions | None = None
    error: EngineError | None = None
    rows: deque[int] = field(default_factory=deque)
    flying: deque[tuple[int, Pending]] = field(default_factory=deque)
