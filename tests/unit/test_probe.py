"""The head by logistic regression: what scikit-learn answers is what the network answers then."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from contract.errors import SettingsError  # noqa: E402
from tests.support.discs import RECIPE, draw_discs  # noqa: E402
from trainer import model, probe  # noqa: E402
from trainer.augment import to_unit  # noqa: E402
from trainer.batches import TrainingSet  # noqa: E402
from trainer.config import ModelTable, load_config  # noqa: E402
from trainer.data import read_data  # noqa: E402
from trainer.fit import fit  # noqa: E402
from trainer.run import decode_all  # noqa: E402

TINY = ModelTable(architecture="test_efficientnet", initial_weights="none")
LOGISTIC = """
[[training.phases]]
solver = "logistic"
stages = [{size = 64, epochs = 1}]
copies = 1
"""


def features_of(labels: int, count: int = 120, width: int = 256):
    rng = np.random.default_rng(1)
    targets = rng.integers(0, labels, count)
    apart = rng.normal(size=(labels, width))
    return (5 + apart[targets] + rng.normal(size=(count, width)) * 3).astype(np.float32), targets


@pytest.mark.parametrize("labels", [2, 4])
def test_the_head_answers_what_scikit_learn_does(labels):
    network = model.build_network(TINY, labels).eval()
    features, targets = features_of(labels, width=network.head.classifier.in_features)
    weights = np.linspace(0.5, 2.0, labels)
    loss, accuracy = probe.fit_head(network, [features], targets, weights, 0.1)
    expected = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, class_weight=dict(enumerate(weights)), max_iter=1000)
    ).fit(features, targets)
    assert np.allclose(probe.probabilities(network, features), expected.predict_proba(features), atol=1e-4)
    assert accuracy == expected.score(features, targets)
    assert 0 < loss < np.log(labels)


def test_augmented_copies_together_count_as_the_recipe_says():
    network = model.build_network(TINY, 4).eval()
    passes = [features_of(4, width=network.head.classifier.in_features)[0] + shift for shift in (0, 0.4, 0.8)]
    targets = features_of(4)[1]
    probe.fit_head(network, passes, targets, np.ones(4), 0.1, copies_weight=0.5)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(
        np.concatenate(passes), np.tile(targets, 3),
        logisticregression__sample_weight=np.repeat([1.0, 0.25, 0.25], len(targets)),
    )  # fmt: skip
    assert np.allclose(probe.probabilities(network, passes[0]), expected.predict_proba(passes[0]), atol=1e-4)


def test_smoothed_labels_are_those_of_the_loss_by_steps():
    network = model.build_network(TINY, 4).eval()
    features, targets = features_of(4, width=network.head.classifier.in_features)
    weights, penalty = np.array([0.5, 1.0, 1.5, 1.0]), 0.01
    probe.fit_head(network, [features], targets, weights, penalty, label_smoothing=0.1)
    # In the standardised features the head is the one place where the gradient of the penalised loss is nil.
    mean, deviation = torch.tensor(features.mean(axis=0)), torch.tensor(features.std(axis=0))
    classifier = network.head.classifier
    weight = (classifier.weight.detach() * deviation).requires_grad_()
    bias = (classifier.bias.detach() + classifier.weight.detach() @ mean).requires_grad_()
    logits = (torch.tensor(features) - mean) / deviation @ weight.T + bias
    soft = torch.nn.functional.one_hot(torch.tensor(targets), 4) * 0.9 + 0.1 / 4
    losses = torch.nn.functional.cross_entropy(logits, soft, reduction="none") * torch.tensor(weights)[targets]
    gradients = torch.autograd.grad(penalty * losses.sum() + weight.square().sum() / 2, (weight, bias))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-3
    hard = torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none")
    hard_loss = (penalty * (hard * torch.tensor(weights)[targets]).sum() + weight.square().sum() / 2).float()
    assert float(torch.autograd.grad(hard_loss, bias)[0].abs().max()) > 1e-2  # which it is not without smoothing


def test_a_dense_head_is_refused_by_name():
    network = model.build_network(TINY.model_copy(update={"head": "dense"}), 4)
    with pytest.raises(SettingsError, match=r'model\.head = "linear"'):
        probe.fit_head(network, [np.zeros((4, 8), np.float32)], np.arange(4), np.ones(4), 1.0)


def test_frozen_features_are_those_that_torch_pools():
    torch.manual_seed(0)
    table = TINY.model_copy(update={"stain_normalisation": ("density", "white", "grey"), "stages": 3})
    network = model.build_network(table, 4).eval()
    captures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    features = probe.FrozenFeatures(network, 64).of([captures[:3], captures[3:]])
    with torch.inference_mode():
        expected = network.pooled(to_unit(torch.from_numpy(captures))).numpy()
    assert features.shape == expected.shape == (5, 3 * network.backbone.model.feature_info[2]["num_chs"])
    assert np.allclose(features, expected, atol=1e-4)


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return draw_discs(tmp_path_factory.mktemp("discs"))


def training_set(discs, config, tmp_path):
    data = read_data(discs, config.data)
    numbers = np.arange(len(data.captures))
    pixels = decode_all(data, config.image, tmp_path / "cache").pixels
    held_out = numbers % 4 == 0
    return TrainingSet(pixels, data.targets(), numbers[~held_out], numbers[held_out], "probe")


def recipe(tmp_path, phases: str):
    head, rest = RECIPE.split("[[training.phases]]", 1)
    (tmp_path / "probe.toml").write_text(head + phases + "[augment]" + rest.split("[augment]", 1)[1])
    return load_config(tmp_path / "probe.toml")


def test_a_probe_moves_the_head_alone(discs, tmp_path):
    config = recipe(tmp_path, LOGISTIC)
    torch.manual_seed(config.training.seed)
    begun = model.build_network(config.model, 4).state_dict()
    fitted = fit(config, training_set(discs, config, tmp_path), tmp_path / "checkpoint")
    moved = {name for name, value in fitted.network.state_dict().items() if not torch.equal(value, begun[name])}
    assert moved == {"head.classifier.weight", "head.classifier.bias"}
    (epoch,) = fitted.history
    assert epoch["frozen"]
    assert epoch["validation_accuracy"] > 0.5  # by random features; chance is 0.25


def test_fine_tuning_after_a_probe_begins_with_its_head_and_keeps_the_better(discs, tmp_path):
    gentle = "[[training.phases]]\nstages = [{size = 64, epochs = 2}]\nlearning_rate = 1e-9\n"
    config = recipe(tmp_path, LOGISTIC + gentle)
    data = training_set(discs, config, tmp_path)
    fitted = fit(config, data, tmp_path / "checkpoint")
    assert [epoch["phase"] for epoch in fitted.history] == [1, 2, 2]
    assert [epoch["frozen"] for epoch in fitted.history] == [True, False, False]
    best = max(fitted.history, key=lambda epoch: (epoch["validation_macro_f1"], -epoch["validation_loss"]))
    assert fitted.best_epoch == best["epoch"]
    alone = fit(recipe(tmp_path, LOGISTIC), data, tmp_path / "alone").network.head.classifier.weight
    assert torch.allclose(fitted.network.head.classifier.weight, alone, atol=1e-4)  # at such a rate it stays there


def test_a_logistic_phase_of_two_epochs_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="one stage of one epoch"):
        recipe(tmp_path, LOGISTIC.replace("epochs = 1", "epochs = 2"))


def test_nothing_is_probed_that_begins_at_random(tmp_path):
    """Features of random weights have learnt nothing; from scratch the phases that train are what is left."""
    gentle = "[[training.phases]]\nstages = [{size = 64, epochs = 2}]\nlearning_rate = 1e-3\n"
    assert [phase.solver for phase in recipe(tmp_path, LOGISTIC + gentle).resolved().training.phases] == ["gradient"]
    with pytest.raises(SettingsError, match="initial_weights"):
        recipe(tmp_path, LOGISTIC).resolved()
