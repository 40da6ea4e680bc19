"""Close calls: where a coarser arithmetic might decide differently from float32, an engine in float32 decides."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from contract.bundle import Bundle
from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.novelty import Novelty, read_novelty
from contract.predictions import Predictions
from worker.engines.base import Engine, Pending


@dataclass(frozen=True)
class Doubt:
    """What is too close to call: the two highest probabilities are less than `margin` apart, or novelty is less than
    `tolerance` away from 1, the border that decides whether a capture counts.

    Two probabilities with an error of at most t each cannot change places where they are 2 t apart or more. Where the
    error of novelty is at most t, and above 1 at most t times its value, novelty cannot cross 1 from further away.
    """

    margin: float
    tolerance: float = 0.0
    known: Novelty | None = None

    @classmethod
    def of(cls, bundle: Bundle, precision: str) -> "Doubt":
        """The doubt that follows from what the bundle tolerates in this precision. Raises BundleError."""
        manifest = bundle.manifest
        tolerance = manifest.novelty_tolerance[precision]
        return cls(2 * manifest.golden_tolerance[precision], tolerance, read_novelty(bundle))

    def rows(self, answers: Predictions) -> list[int]:
        """The captures of a batch that are too close to call."""
        second, first = np.partition(answers.probabilities, -2, axis=1)[:, -2:].T
        close = first - second < self.margin
        if self.known is not None:
            close |= np.abs(self.known.of(answers.embedding) - 1) < self.tolerance
        return [int(row) for row in np.flatnonzero(close)]


class CloseCalls:
    """A fast engine and an exact one as one engine. See `worker.engines.base.Engine`.

    Where a capture is too close to call, all its outputs come from the exact engine.

    One batch more than the fast engine takes may be under way: while the exact engine works on the close calls of the
    oldest batch, the fast engine still has all the batches that it can take.
    """

    def __init__(self, fast: Engine, exact: Engine, doubt: Doubt) -> None:
        self.name, self.precision, self.device = fast.name, fast.precision, fast.device
        self.shares_cores, self.max_batch = fast.shares_cores, fast.max_batch
        self.depth = fast.depth + 1
        self._fast = fast
        self._exact = exact
        self._doubt = doubt
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
        """Take the fast engine's predictions for its oldest batch, and begin with the close calls."""
        batch = self._first_look.popleft()
        try:
            batch.predictions = batch.pending()
            batch.rows.extend(self._doubt.rows(batch.predictions))
            self._begin_rows(batch)
        except EngineError as error:
            batch.error = error

    def _begin_rows(self, batch: "_Batch") -> None:
        while batch.rows and len(batch.flying) < self._exact.depth:
            row = batch.rows.popleft()
            # One by one, because the engine would have to compile another model for each size of batch.
            batch.flying.append((row, self._exact.start(batch.pixels[row : row + 1])))

    def _decided(self, batch: "_Batch") -> Predictions:
        while batch in self._first_look:
            self._look_again()
        if batch.error is not None:
            raise batch.error
        predictions = batch.predictions
        assert predictions is not None
        while batch.flying:
            row, pending = batch.flying.popleft()
            exact = pending()
            self._begin_rows(batch)
            predictions.probabilities[row] = exact.probabilities[0]
            predictions.embedding[row] = exact.embedding[0]
            if predictions.cam is not None and exact.cam is not None:
                predictions.cam[row] = exact.cam[0]
        return predictions


@dataclass(eq=False)
class _Batch:
    """A batch under way. `rows` are close calls that wait for the exact engine, `flying` are those that it has."""

    pixels: RGBImage
    pending: Pending
    predictions: Predictions | None = None
    error: EngineError | None = None
    rows: deque[int] = field(default_factory=deque)
    flying: deque[tuple[int, Pending]] = field(default_factory=deque)
