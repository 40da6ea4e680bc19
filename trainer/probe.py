"""The head fitted in one go on frozen features: logistic regression by scikit-learn, written into the linear layer.

On looks that a network has not seen, little training can be worth more than much (docs/model.md): what every recipe
has to beat, and what somebody with fifty captures starts from.
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
"""At most, of L-BFGS; it usually ends long before."""
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
    """Fit the network's linear head on pooled features [N, F]: of the captures of `targets` [N] as they are, which are
    the first of `passes`, and of augmented copies, all others, which together count `copies_weight` for a capture's 1.

    `weights` [L] says how much a capture of each label counts; `inverse_penalty` is scikit-learn's C. With
    `label_smoothing` that share of every capture counts for all L labels alike (Szegedy et al. 2016). Features are
    standardised for the fit, and the head takes that into its weights. Returns the mean log loss and the accuracy on
    what was fitted. Raises SettingsError for a head that is not linear.
    """
    if not isinstance(network.head, LinearHead):
        raise SettingsError('training.phases: solver "logistic" fits a linear head; set model.head = "linear"')
    labels = np.tile(targets, len(passes))
    of_pass = np.array([1.0, *[copies_weight / max(len(passes) - 1, 1)] * (len(passes) - 1)])
    counts = weights[labels] * of_pass.repeat(len(targets))
    scaler = StandardScaler()
    features = scaler.fit_transform(np.concatenate(passes))
    fitted = LogisticRegression(C=inverse_penalty, max_iter=ITERATIONS).fit(
        *_smoothed(features, labels, counts, len(weights), label_smoothing)
    )
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


def _smoothed(
    features: Features, labels: NDArray[np.int64], counts: NDArray[np.float64], classes: int, share: float
) -> tuple[Features, NDArray[np.int64], NDArray[np.float64]]:
    """The rows as they are where `share` is 0; else each once for every label, counting as that label's share of it.

    scikit-learn takes one label for a row, and a row that is repeated with weights is the loss of a soft label.
    """
    if not share:
        return features, labels, counts
    every = np.repeat(np.arange(classes), len(labels))
    of_label = np.where(every == np.tile(labels, classes), 1 - share, 0.0) + share / classes
    return np.tile(features, (classes, 1)), every, np.tile(counts, classes) * of_label


@torch.inference_mode()
def probabilities(network: Network, features: Features) -> NDArray[np.float64]:
    """Of captures with these pooled features, [N, F] -> uncalibrated probabilities [N, L]."""
    head = network.head.eval()
    logits = head(torch.from_numpy(features).to(next(head.parameters()).device))
    found: NDArray[np.float64] = torch.softmax(logits.double(), dim=1).cpu().numpy()
    return found


class FrozenFeatures:
    """The pooled features of a network as it serves: through its exported graph, a third of torch's time on a CPU."""

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
    """The head by logistic regression, the same on every device: its mean log loss and accuracy on the training
    captures, and its probabilities of the validation captures.
    """
    size, weights = phase.stages[0].size, class_weights(data, len(config.data.labels), config.training.balance)
    frozen = FrozenFeatures(network, size)

    def features(rows: NDArray[np.int64], prepare: Callable[[Tensor], Tensor]) -> Features:
        captures = (captures for captures, _ in batches(data, rows, config.training.batch_size))
        return frozen.of(from_unit(prepare(one.to(fabric.device))) for one in captures)

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
