"""The accuracy of simple classifiers that do not look at a cell: they see six colour numbers, or only the corners.

A network whose accuracy is not well above these may use the same shortcuts.
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
"""Name -> the trait that it sees, and a function that makes it. Colour: means and deviations of R, G, B."""


def on_split(
    traits: Traits, targets: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy of each classifier, fitted on the rows `train` and scored on the rows `test`."""
    accuracies = {}
    for name, (trait, make) in CLASSIFIERS.items():
        x = getattr(traits, trait)
        if trait == "corners" and len(train) <= COMPONENTS:
            continue  # too few captures for this many components
        accuracies[name] = float(make().fit(x[train], targets[train]).score(x[test], targets[test]))
    return accuracies


def cross_validated(
    traits: Traits, targets: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> dict[str, float]:
    """Accuracy of each classifier by cross-validation that never divides a group; empty if there are too few groups.

    Labels with fewer than two groups are left out.
    """
    per_label = {int(label): len(np.unique(groups[targets == label])) for label in np.unique(targets)}
    kept = np.isin(targets, [label for label, count in per_label.items() if count >= 2])
    folds = min([FOLDS, *(count for count in per_label.values() if count >= 2)])
    if len(np.unique(targets[kept])) < 2 or kept.sum() * (folds - 1) / folds <= COMPONENTS / 2:
        return {}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    accuracies = {}
    for name, (trait, make) in CLASSIFIERS.items():
        if trait == "corners" and kept.sum() * (folds - 1) / folds * 0.8 <= COMPONENTS:
            continue
        x = getattr(traits, trait)[kept]
        called = cross_val_predict(make(), x, targets[kept], groups=groups[kept], cv=splitter)
        accuracies[name] = float((called == targets[kept]).mean())
    return accuracies
