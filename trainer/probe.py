"""The head fitted in one go on frozen features: logistic regression by scikit-learn, written into the linear layer.

On looks that a network has not seen, a little training can give better results than a lot (docs/model.md). So every
recipe has to beat this one, and a user with fifty captures starts from it.
"""

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from contract.bundle import MODEL
from contract.errors import SettingsError
from trainer.augment import Augment, from_unit, resize, to_unit
from trainer.batches import TrainingSet, batches, class_weights
from trainer.config import Config, Phase
from trainer.graph import GraphRunner, export_graph, graph_outputs
from trainer.model import Exportable, LinearHead, Network

ITERATIONS = 1000
"""Most iterations of L-BFGS; it usually ends long before."""
Features = NDArray[np.float32]


def fit_head(
    network: Network,
    passes: Sequence[Features],
    targets: NDArray[np.int64],
    weights: NDArray[np.float64],
    inverse_penalty: float,
    copies_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> tuple[float, float]:
    """Fit the network's linear head on pooled features [N, F] of captures with the labels `targets` [N].

    The first of `passes` holds the features of the captures as they are, all others those of augmented copies. A
    capture counts 1, and all its copies together count `copies_weight`. `weights` [L] says how much a capture of each
    label counts; `inverse_penalty` is scikit-learn's C. With `label_smoothing`, that share of every capture counts for
    all L labels equally (Szegedy et al. 2016). The fit standardises the features, and the head's weights include that.
    Returns the mean log loss and the accuracy on the fitted features. Raises SettingsError for a head that is not
    linear.
    """
    if not isinstance(network.head, LinearHead):
        raise SettingsError('training.phases: solver "logistic" fits a linear head; set model.head = "linear"')
    labels = np.tile(targets, len(passes))
    pass_weights = np.array([1.0, *[copies_weight / max(len(passes) - 1, 1)] * (len(passes) - 1)])
    counts = weights[labels] * pass_weights.repeat(len(targets))
    scaler = StandardScaler()
    features = scaler.fit_transform(np.concatenate(passes))
    regression = LogisticRegression(C=inverse_penalty, max_iter=ITERATIONS).fit(
        *_smoothed(features, labels, counts, len(weights), label_smoothing)
    )
    coefficients, intercepts = regression.coef_, regression.intercept_
    if len(coefficients) == 1:  # with two labels, scikit-learn keeps only those of the second
        coefficients, intercepts = np.vstack([-coefficients, coefficients]) / 2, np.r_[-intercepts, intercepts] / 2
    weight = coefficients / scaler.scale_
    with torch.no_grad():
        classifier = network.head.classifier
        classifier.weight.copy_(torch.from_numpy(weight))
        classifier.bias.copy_(torch.from_numpy(intercepts - weight @ scaler.mean_))
    likelihood = regression.predict_proba(features)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean()), float(regression.score(features, labels))


def _smoothed(
    features: Features, labels: NDArray[np.int64], counts: NDArray[np.float64], classes: int, share: float
) -> tuple[Features, NDArray[np.int64], NDArray[np.float64]]:
    """The rows unchanged where `share` is 0; otherwise each row once for every label, weighted by that label's share.

    scikit-learn takes one label for each row; a row repeated with these weights has the loss of a soft label.
    """
    if not share:
        return features, labels, counts
    repeated_labels = np.repeat(np.arange(classes), len(labels))
    label_share = np.where(repeated_labels == np.tile(labels, classes), 1 - share, 0.0) + share / classes
    return np.tile(features, (classes, 1)), repeated_labels, np.tile(counts, classes) * label_share


@torch.inference_mode()
def probabilities(network: Network, features: Features) -> NDArray[np.float64]:
    """Pooled features of captures [N, F] -> their uncalibrated probabilities [N, L]."""
    head = network.head.eval()
    logits = head(torch.from_numpy(features).to(next(head.parameters()).device))
    uncalibrated: NDArray[np.float64] = torch.softmax(logits.double(), dim=1).cpu().numpy()
    return uncalibrated


class FrozenFeatures:
    """The pooled features of a network by its exported graph, which on a CPU takes a third of torch's time."""

    def __init__(self, network: Network, size: int) -> None:
        exportable = Exportable(copy.deepcopy(network).cpu().eval(), 1.0)
        with tempfile.TemporaryDirectory(prefix="features-") as folder:
            file = Path(folder) / MODEL
            export_graph(exportable, size, file, half=False)
            self._runner = GraphRunner(file, graph_outputs(exportable))
        self._begin, _ = exportable.widths()

    def of(self, batches: Iterable[NDArray[np.uint8]]) -> Features:
        """Batches of captures, uint8 [n, S, S, 3] -> [N, F]."""
        return np.concatenate([self._runner.predict(batch).embedding[:, self._begin :] for batch in batches])


def fit_on_training(
    config: Config, data: TrainingSet, network: Network, augment: Augment, phase: Phase, fabric: Fabric
) -> tuple[float, float, NDArray[np.float64]]:
    """Fit the head by logistic regression, the same on every device. Returns its mean log loss and accuracy on the
    training captures, and its probabilities for the validation captures.
    """
    size, weights = phase.stages[0].size, class_weights(data, len(config.data.labels), config.training.balance)
    frozen = FrozenFeatures(network, size)

    def features(rows: NDArray[np.int64], prepare: Callable[[Tensor], Tensor]) -> Features:
        capture_batches = (captures for captures, _ in batches(data, rows, config.training.batch_size))
        return frozen.of(from_unit(prepare(captures.to(fabric.device))) for captures in capture_batches)

    def plain(captures: Tensor) -> Tensor:
        return resize(to_unit(captures), size)

    copies = [features(data.train, lambda captures: augment(captures, size)) for _ in range(phase.copies)]
    passes = [features(data.train, plain), *copies]
    loss, accuracy = fit_head(
        network,
        passes,
        data.targets[data.train],
        weights.double().numpy(),
        phase.inverse_penalty,
        phase.copies_weight,
        config.training.label_smoothing,
    )
    network.load_state_dict(fabric.broadcast(network.state_dict()))
    return loss, accuracy, probabilities(network, features(data.validation, plain))
