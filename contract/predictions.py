"""What a bundle's graph answers for a batch of captures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    """Outputs for a batch of N: probabilities float32 [N, L]; cam float32 [N, L, h, w], or None where the bundle
    has no activation map; embedding float32 [N, D].
    """

    probabilities: NDArray[np.float32]
    cam: NDArray[np.float32] | None
    embedding: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The predictions of consecutive batches, at least one, as those of one batch."""
        cams = [part.cam for part in parts if part.cam is not None]
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate(cams) if cams else None,
            np.concatenate([part.embedding for part in parts]),
        )

    def first(self, count: int) -> "Predictions":
        """Those for the first `count` captures."""
        cam = None if self.cam is None else self.cam[:count]
        return Predictions(self.probabilities[:count], cam, self.embedding[:count])

    def with_first_stage(self, exact: NDArray[np.float32]) -> "Predictions":
        """The same, with `exact` float32 [N, G] in place of the first G columns of the embedding, the first stage's."""
        embedding = np.concatenate([exact, self.embedding[:, exact.shape[1] :]], axis=1)
        return Predictions(self.probabilities, self.cam, embedding)
