"""Augmentation, network, folding and figures, each against something worked out another way."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from contract.errors import SettingsError, Unavailable  # noqa: E402
from trainer import evaluate, model  # noqa: E402
from trainer.augment import Augment, resize, to_unit  # noqa: E402
from trainer.config import AugmentTable, ModelTable  # noqa: E402
from trainer.fold import folded  # noqa: E402
from trainer.report import curves, figure  # noqa: E402

TINY = ModelTable(architecture="test_efficientnet", initial_weights="none")
NOTHING = AugmentTable(
    flips=False, quarter_turns=False, scale=0, translation=0, stain_scale=0, stain_shift=0, brightness=0, contrast=0,
    white_balance=0, blur=0, noise=0,
)  # fmt: skip


def some_captures(count: int = 6, side: int = 64):
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def augment(**changes):
    return Augment(NOTHING.model_copy(update=changes), torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    tiny = model.build_network(TINY, 4).train()
    with torch.no_grad():
        for _ in range(4):  # running statistics and affine parameters unlike those a network begins with
            tiny(to_unit(some_captures(16)))
        for parameter in tiny.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return tiny.eval()


def test_no_augmentation_changes_nothing():
    captures = some_captures()
    assert torch.allclose(augment()(captures, 64), to_unit(captures), atol=1 / 200)


def test_flips_and_quarter_turns_move_whole_pixels():
    captures = some_captures(1)
    x = to_unit(captures)
    wanted = [torch.rot90(y, k, (2, 3)) for y in (x, x.flip(3)) for k in range(4)]
    step = augment(flips=True, quarter_turns=True)
    seen = set()
    for _ in range(60):
        y = step(captures, 64)
        near = [i for i, w in enumerate(wanted) if torch.allclose(y, w, atol=1 / 200)]
        assert len(near) == 1
        seen.add(near[0])
    assert seen == set(range(8))


def test_stain_jitter_scales_a_pure_stain_in_density():
    density = torch.nn.functional.normalize(torch.tensor([0.65, 0.70, 0.29]), dim=0)
    pure = (255 * torch.exp(-0.7 * density)).round().to(torch.uint8).expand(200, 32, 32, 3)
    jittered = augment(stain_scale=0.2)(pure, 32)
    ratio = -torch.log(jittered[:, :, 0, 0]) / -torch.log(to_unit(pure)[:, :, 0, 0])
    assert 0.79 < ratio.min() < 0.85
    assert 1.15 < ratio.max() < 1.21
    assert (ratio - ratio.mean(dim=1, keepdim=True)).abs().max() < 0.02  # all channels alike: the hue stays


@pytest.mark.parametrize(
    "change", [{"brightness": 0.3}, {"contrast": 0.3}, {"white_balance": 0.3}, {"blur": 1.0}, {"noise": 0.2},
               {"scale": 0.2}, {"translation": 0.2}, {"rotation": 20.0}, {"stain_shift": 0.2}],
)  # fmt: skip
def test_each_step_changes_something_stays_in_range_and_repeats(change):
    captures = some_captures(24)
    first, second = augment(**change)(captures, 64), augment(**change)(captures, 64)
    assert torch.equal(first, second)
    assert (first - to_unit(captures)).abs().max() > 0.05
    assert first.min() >= 0
    assert first.max() <= 1


def test_smaller_stages_average_over_pixels():
    assert resize(to_unit(some_captures()), 32).shape == (6, 3, 32, 32)
    checkers = torch.zeros(1, 1, 64, 64)
    checkers[..., ::2, ::2] = 1
    checkers[..., 1::2, 1::2] = 1
    assert resize(checkers, 32)[..., 4:-4, 4:-4].sub(0.5).abs().max() < 0.05


def test_the_mean_of_the_activation_map_is_the_logit(network):
    captures = some_captures()
    with torch.no_grad():
        probabilities, cam, embedding = model.Exportable(network, 1.7)(captures)
        logits = network(to_unit(captures))
    assert cam.shape[:2] == (6, 4)
    assert embedding.shape == (6, network.backbone.num_features)
    assert torch.allclose(cam.mean(dim=(2, 3)), logits, atol=1e-5)
    assert torch.allclose(probabilities, torch.softmax(logits / 1.7, dim=1), atol=1e-6)


def test_folding_and_rounding(network):
    x = to_unit(some_captures())
    small = folded(network, 64)
    assert not [m for m in small.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        assert torch.allclose(small(x), network(x), atol=1e-4)
        model.round_to_half(small)
        assert torch.allclose(small(x), network(x), atol=5e-2)
    assert all(torch.equal(p, p.half().float()) for p in small.parameters() if p.ndim >= 2)


def test_initial_weights_from_a_file(network, tmp_path):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "w.safetensors")
    table = TINY.model_copy(update={"initial_weights": str(tmp_path / "w.safetensors")})
    loaded = model.build_network(table, 3)  # three labels: the classifier is new, the rest is loaded
    assert torch.equal(loaded.backbone.conv_stem.weight, network.backbone.conv_stem.weight)
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(SettingsError, match="has no fitting"):
        model.build_network(table, 4)
    with pytest.raises(SettingsError, match="cannot be read"):
        model.build_network(TINY.model_copy(update={"initial_weights": str(tmp_path / "none")}), 4)


def test_no_download_stops_the_run(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(model.timm, "create_model", offline)
    with pytest.raises(Unavailable, match="ImageNet weights of test_efficientnet cannot be downloaded"):
        model.build_network(TINY.model_copy(update={"initial_weights": "imagenet"}), 4)


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_an_unknown_architecture_is_named(weights):
    with pytest.raises(SettingsError, match="no_such_net"):
        model.build_network(ModelTable(architecture="no_such_net", initial_weights=weights), 4)


def test_a_head_without_an_activation_map_is_refused():
    with pytest.raises(SettingsError, match="no exact activation map"):
        model.build_network(ModelTable(architecture="test_vit", initial_weights="none"), 4)


def test_figures_against_a_case_worked_by_hand():
    targets = np.array([0, 0, 1, 1, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    found = evaluate.capture_metrics(targets, probabilities, ["a", "b", "c"], 0)
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert found["accuracy"] == pytest.approx(0.8)
    b = found["per_class"]["b"]
    assert (b["precision"], b["recall"], b["specificity"]) == (pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3))
    assert b["f1"] == pytest.approx(0.8)
    assert found["all_auc"] == pytest.approx(5.5 / 6)  # six pairs: five in order, one tied
    assert found["ece"] == pytest.approx((2 * abs(0.7 - 0.5) + 3 * abs(0.8 - 1)) / 5)


def test_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(4, p=row) for row in p])
    assert evaluate.fit_temperature(3.0 * logits, targets) == pytest.approx(3.0, rel=0.05)


def patients(scores: list[tuple[int, float]], captures: int = 4):
    """Captures of patients, each with its target and P(ALL): targets, probabilities, names."""
    targets = np.repeat([t for t, _ in scores], captures)
    p = np.repeat([s for _, s in scores], captures)
    return targets, np.stack([1 - p, p], axis=1), np.repeat([f"p{i}" for i in range(len(scores))], captures).tolist()


def test_thresholds_of_patients_that_do_not_overlap():
    targets, p, names = patients([(0, 0.1), (0, 0.3), (1, 0.7), (1, 0.9)])
    policy, basis = evaluate.fit_case_policy(targets, p, names, 0, 3)
    assert policy.benign_at_most == policy.all_at_least == pytest.approx(0.5)
    assert basis["patients_benign"] == basis["patients_all"] == 2
    found = evaluate.patient_metrics(policy, ["Benign", "Pro"], "Benign", targets, p, names)
    assert (found["verdicts_right"], found["subtypes_right"], found["subtypes_of"]) == (4, 2, 2)


def test_thresholds_of_patients_that_overlap_leave_a_narrow_band():
    targets, p, names = patients([(0, 0.1), (0, 0.2), (0, 0.6), (1, 0.5), (1, 0.8), (1, 0.9), (1, 0.95)])
    policy, _ = evaluate.fit_case_policy(targets, p, names, 0, 3)
    assert 0 < policy.all_at_least - policy.benign_at_most <= 0.1
    assert policy.benign_at_most >= 0.3
    assert policy.all_at_least <= 0.7


def test_curves_cope_with_one_epoch_and_missing_figures():
    row = {"loss": 1.2, "validation_loss": None, "validation_accuracy": 0.5}
    assert "polyline" in curves([row])
    assert figure(None) == "–"
