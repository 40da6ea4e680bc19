"""The marks of labelled captures, as the worker would set them: they say which captures count for a case."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from contract.decisions import all_marks
from contract.novelty import Novelty
from contract.quality import measure
from trainer.assess import Scored
from trainer.traits import in_threads


def marked(scored: Scored, known: Novelty | None, quality: Mapping[str, Any]) -> Scored:
    """The same captures with their marks: by `known`, the reference for novelty, and by that for quality."""
    novelties = [None] * len(scored.rows) if known is None else known.of(scored.found.embedding).tolist()
    measures = in_threads(lambda row: measure(np.asarray(scored.pixels[row])), scored.rows.tolist())
    marks = [
        [mark.code for mark in all_marks(novelty, one, quality)]
        for novelty, one in zip(novelties, measures, strict=True)
    ]
    return replace(scored, cases=replace(scored.cases, marks=marks))
