"""The head fitted in one go on frozen features: logistic regression by scikit-learn, written into the linear layer.

On looks that a network has not seen, little training can be worth more than much (docs/model.md): what every recipe
has to beat, and what somebody with fifty captures starts from.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from contract.errors import SettingsError
from trainer.model import LinearHead, Network

ITERATIONS = 1000
"""At most, of L-BFGS; it usually ends long before."""
Features = NDArray[np.float64]


def fit_head(
    network: Network,
    passes: Sequence[Features],
    targets: NDArray[np.int64],
    weights: NDArray[np.float64],
    inverse_penalty: float,
) -> tuple[float, float]:
    """Fit the network's linear head on pooled features [N, F], each of `passes` of the captures of `targets` [N].

    `weights` [L] says how much a capture of each label counts; `inverse_penalty` is scikit-learn's C. Features are
    standardised for the fit, and the head takes that into its weights. Returns the mean log loss and the accuracy on
    what was fitted. Raises SettingsError for a head that is not linear.
    """
    if not isinstance(network.head, LinearHead):
        raise SettingsError('training.phases: solver "logistic" fits a linear head; set model.head = "linear"')
    labels = np.tile(targets, len(passes))
    scaler = StandardScaler()
    features = scaler.fit_transform(np.concatenate(passes))
    fitted = LogisticRegression(
        C=inverse_penalty, class_weight=dict(enumerate(weights.tolist())), max_iter=ITERATIONS
    ).fit(features, labels)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(coefficients) == 1:  # of two labels scikit-learn keeps the second one's alone
        coefficients, intercepts = np.vstack([-coefficients, coefficients]) / 2, np.r_[-intercepts, intercepts] / 2
    weight = coefficients / scaler.scale_
    with torch.no_grad():
        classifier = network.head.classifier
        classifier.weight.copy_(torch.from_numpy(weight))
        classifier.bias.copy_(torch.from_numpy(intercepts - weight @ scaler.mean_))
    likelihood = fitted.predict_proba(features)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean()), float(fitted.score(features, labels))


@torch.inference_mode()
def pooled(network: Network, batches: Iterable[Tensor]) -> Features:
    """Pooled features [N, F] of batches float [n, 3, S, S] in 0..1, by the network as it is when it serves."""
    network.eval()
    return np.concatenate([network.pooled(batch).double().cpu().numpy() for batch in batches])
