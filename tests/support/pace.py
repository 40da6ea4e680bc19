"""A pace of training that nobody measured: no trial of `screen train` runs, and what a test patches is the training."""

from collections import defaultdict

import pytest

from trainer import estimate
from trainer.estimate import Pace


def without_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a hundredth of a second for every capture."""
    monkeypatch.setattr(estimate, "trial", lambda *_: Pace(defaultdict(lambda: 0.01), validation=0.01))
