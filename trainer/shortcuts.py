"""What simple classifiers reach without looking at a cell: six colour numbers, or the corners alone.

An accuracy that is not well above these may be theirs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.traits import Traits

FOLDS = 5
COMPONENTS = 40
COLOUR_LINEAR, COLOUR_TREES = "colour, logistic regression", "colour, boosted trees"
CORNER_LINEAR = "corners, logistic regression"
CLASSIFIERS: dict[str, tuple[str, Callable[[], Any]]] = {
    COLOUR_LINEAR: ("colour", lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))),
    COLOUR_TREES: ("colour", lambda: HistGradientBoostingClassifier(max_iter=150, random_state=0)),
    CORNER_LINEAR: (
        "corners",
        lambda: make_pipeline(
            StandardScaler(), PCA(COMPONENTS, random_state=0), LogisticRegression(max_iter=2000, C=0.1)
        ),
    ),
}
"""Name -> which trait it sees, and how it is made. Colour: means and deviations of R, G, B."""


def on_split(
    traits: Traits, targets: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy of each classifier, fitted on the rows `train` and scored on the rows `test`."""
    found = {}
    for name, (trait, make) in CLASSIFIERS.items():
        x = getattr(traits, trait)
        if trait == "corners" and len(train) <= COMPONENTS:
            continue  # too few captures for so many components
        found[name] = float(make().fit(x[train], targets[train]).score(x[test], targets[test]))
    return found


def cross_validated(
    traits: Traits, targets: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> dict[str, float]:
    """Accuracy of each classifier by cross-validation in which no group is on both sides; empty if groups are too few.

    Labels with fewer groups than two are left out.
    """
    per_label = {int(t): len(np.unique(groups[targets == t])) for t in np.unique(targets)}
    kept = np.isin(targets, [t for t, count in per_label.items() if count >= 2])
    folds = min([FOLDS, *(count for count in per_label.values() if count >= 2)])
    if len(np.unique(targets[kept])) < 2 or kept.sum() * (folds - 1) / folds <= COMPONENTS / 2:
        return {}
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    found = {}
    for name, (trait, make) in CLASSIFIERS.items():
        if trait == "corners" and kept.sum() * (folds - 1) / folds * 0.8 <= COMPONENTS:
            continue
        x = getattr(traits, trait)[kept]
        called = cross_val_predict(make(), x, targets[kept], groups=groups[kept], cv=cut)
        found[name] = float((called == targets[kept]).mean())
    return found
