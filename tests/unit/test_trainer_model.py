"""Augmentation, network, folding and figures, each against something worked out another way."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from torchvision.transforms.v2.functional import gaussian_blur  # noqa: E402

from contract.errors import ExportError, SettingsError  # noqa: E402
from trainer import graph, model, stain  # noqa: E402
from trainer.augment import Augment, resize, to_unit  # noqa: E402
from trainer.comparison import PAPER_BACKBONES  # noqa: E402
from trainer.config import AugmentTable, ModelTable, load_config  # noqa: E402
from trainer.devices import Devices  # noqa: E402
from trainer.export import UNCALIBRATED  # noqa: E402
from trainer.fold import folded  # noqa: E402
from trainer.optim import optimization, parameter_groups, suggest  # noqa: E402
from trainer.report import figure, measured, rate  # noqa: E402

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
    "change", [{"brightness": 0.3}, {"contrast": 0.3}, {"white_balance": 0.3}, {"blur": 1.0}, {"defocus": 0.03},
               {"noise": 0.2}, {"scale": 0.2}, {"translation": 0.2}, {"rotation": 20.0}, {"stain_shift": 0.2}],
)  # fmt: skip
def test_each_step_changes_something_stays_in_range_and_repeats(change):
    captures = some_captures(24)
    first, second = augment(**change)(captures, 64), augment(**change)(captures, 64)
    assert torch.equal(first, second)
    assert (first - to_unit(captures)).abs().max() > 0.05
    assert first.min() >= 0
    assert first.max() <= 1


def test_defocus_is_a_gaussian_of_its_own_deviation_along_each_axis(monkeypatch):
    captures = to_unit(some_captures(2))
    monkeypatch.setattr(Augment, "_choose", lambda self, count, share: torch.arange(count))
    monkeypatch.setattr(Augment, "_uniform", lambda self, *shape, by: torch.tensor([[1.0, 2.0], [-2.0, 0.0]]))
    blurred = augment(defocus=0.05)._defocus(captures.clone())
    assert torch.allclose(blurred[0], gaussian_blur(captures[0], [21, 21], [1.0, 2.0]), atol=2e-3)
    assert torch.allclose(blurred[1], gaussian_blur(captures[1], [21, 1], [2.0, 0.1]), atol=2e-3)


def test_smaller_stages_average_over_pixels():
    assert resize(to_unit(some_captures()), 32).shape == (6, 3, 32, 32)
    checkers = torch.zeros(1, 1, 64, 64)
    checkers[..., ::2, ::2] = 1
    checkers[..., 1::2, 1::2] = 1
    assert resize(checkers, 32)[..., 4:-4, 4:-4].sub(0.5).abs().max() < 0.05


def test_statistics_of_a_map_are_its_mean_deviation_and_texture():
    stripes = torch.zeros(2, 3, 4, 6)
    stripes[1, 2, :, ::2] = 3.0
    level, striped = model.statistics(stripes)
    assert level.tolist() == [0.0] * 9
    assert striped.tolist() == pytest.approx([0, 0, 1.5, 0, 0, 1.5, 0, 0, 1.5]), "3 across, 0 down"


def test_the_mean_of_the_activation_map_is_the_logit(network):
    captures = some_captures()
    with torch.no_grad():
        probabilities, embedding, _, cam = model.Exportable(network, 1.7)(captures)
        logits = network(to_unit(captures))
    assert cam.shape[:2] == (6, 4)
    shallow, deep = model.Exportable(network, 1.7).widths()
    assert deep == network.backbone.num_features
    assert embedding.shape == (6, shallow + deep)
    with torch.no_grad():
        first = network.backbone.forward_intermediates(torch.cat(network.views(to_unit(captures))), indices=[0])[1][0]
    assert torch.allclose(embedding[:, :shallow], model.statistics(first), atol=1e-6)
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


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_an_unknown_architecture_is_named(weights):
    with pytest.raises(SettingsError, match="no_such_net"):
        model.build_network(ModelTable(architecture="no_such_net", initial_weights=weights), 4)


@pytest.mark.parametrize(
    ("change", "mapped"),
    [
        ({"stain_normalisation": ("density",)}, True),
        ({"second_input": "hsv"}, True),
        ({"second_input": "hsv", "stain_normalisation": ("density",)}, True),
        ({"stain_normalisation": ("density", "white", "grey"), "stages": 2}, True),
        ({"second_input": "hsv", "head": "dense"}, False),
        ({"architecture": "mobilenetv3_small_050"}, False),  # a convolution behind the pooling
        ({"architecture": "test_vit"}, False),
    ],
)
@pytest.mark.parametrize("flips", [1, 2, 4])
def test_every_head_exports_and_only_a_linear_one_has_a_map(change, mapped, flips):
    torch.manual_seed(0)
    network = model.build_network(TINY.model_copy(update=change), 4).eval()
    torch.nn.init.normal_(network.head.classifier.weight)
    exportable = model.Exportable(network, 2.0, flips).eval()
    captures = some_captures(3)
    with torch.no_grad():
        probabilities, embedding, first_stage, *cam = exportable(captures)
        x = to_unit(captures)
        views = [network(torch.flip(x, mirror) if mirror else x) for mirror in ([], [3], [2], [2, 3])[:flips]]
        logits = torch.stack(views).mean(dim=0)
    assert torch.allclose(probabilities, torch.softmax(logits / 2.0, dim=1), atol=1e-5)
    assert exportable.has_cam == mapped == bool(cam)
    if mapped:
        assert torch.allclose(cam[0].mean(dim=(2, 3)), logits, atol=1e-4)
        assert embedding.shape[1] == sum(exportable.widths())
    assert torch.equal(embedding[:, : first_stage.shape[1]], first_stage)


def test_two_inputs_mean_the_same_in_training_and_after():
    """Batch norms that saw each view by itself would keep the mixture of both, and fit neither."""
    torch.manual_seed(0)
    two = model.build_network(TINY.model_copy(update={"second_input": "hsv"}), 4).train()
    torch.nn.init.normal_(two.head.classifier.weight)
    for norm in (m for m in two.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 0.3
    captures = some_captures(8)
    captures[:, :, :40] = torch.tensor([95, 60, 150], dtype=torch.uint8)  # nucleated; else the second view is black
    with torch.no_grad():
        for _ in range(20):
            learning = two(to_unit(captures))
        apart = (two.eval()(to_unit(captures)) - learning).abs().mean() / learning.std()
    assert apart < 0.2  # 0.06; 17 where each view went through by itself


def test_a_mirrored_map_is_mirrored_back(network):
    captures = some_captures(2)
    captures[:, :, 32:] = 255  # all that there is to see lies on the left
    with torch.no_grad():
        *_, plain = model.Exportable(network, 1.0, 1)(captures)
        *_, both = model.Exportable(network, 1.0, 2)(captures)
    plain, both = (cam - cam.mean(dim=(2, 3), keepdim=True) for cam in (plain, both))
    assert torch.nn.functional.cosine_similarity(plain.flatten(1), both.flatten(1)).min() > 0.8
    assert torch.nn.functional.cosine_similarity(plain.flatten(1), both.flip(3).flatten(1)).max() < 0.8


def test_a_frozen_backbone_does_not_move_and_keeps_its_statistics():
    torch.manual_seed(0)
    network = model.build_network(TINY, 4)
    network.freeze(True)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        torch.nn.functional.cross_entropy(network(to_unit(some_captures(8))), torch.arange(8) % 4).backward()
        optimizer.step()
    assert all(p.grad is None for p in network.backbone.parameters())
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.classifier.weight", "head.classifier.bias"}
    network.freeze(False)
    network.train()
    network(to_unit(some_captures(8)))
    assert not torch.equal(network.backbone.bn1.running_mean, before["backbone.bn1.running_mean"])


def test_the_backbones_that_the_paper_compares_are_timms():
    assert len(PAPER_BACKBONES) == 10
    assert all(timm.is_model(name) for name in PAPER_BACKBONES)


def test_multiply_adds_of_a_layer_counted_by_hand():
    network = model.build_network(TINY, 4)
    plain = model.multiply_adds(network, 64)
    network.head.classifier = torch.nn.Linear(network.head.classifier.in_features, 104)
    assert model.multiply_adds(network, 64) - plain == 100 * network.head.classifier.in_features


def test_parameter_groups_hold_every_parameter_once_and_rates_grow_with_depth():
    network = model.build_network(TINY, 4)
    groups = parameter_groups(network, 0.1, 100.0)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    assert sorted({group["share"] for group in groups}) == pytest.approx([0.01, 0.1, 1.0])
    assert {p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"]} == {True}
    network.freeze(True)
    assert {id(p) for group in parameter_groups(network, 0.1, 1.0) for p in group["params"]} == {
        id(p) for p in network.head.parameters()
    }


@pytest.mark.parametrize(("warm_up", "steps"), [(0.25, 4), (0.2, 5), (0.5, 2), (0.25, 1)])
def test_a_training_of_few_steps_has_a_schedule(network, warm_up, steps):
    config = load_config("fast").changed(
        "training", phases=[{"stages": [{"size": 224, "epochs": 1}], "warm_up": warm_up, "learning_rate": 1e-4}]
    )
    optimized = optimization(
        config, copy.deepcopy(network), Devices(accelerator="cpu").fabric("32-true"), 0, 1e-4, steps
    )
    for _ in range(steps):
        optimized.step(optimized.model(to_unit(some_captures(2))).square().mean(), 1.0)
        assert 0 < optimized.rate <= 1e-4


def test_the_finder_suggests_where_half_of_the_fall_is_done_whatever_the_noise():
    rates = np.geomspace(1e-6, 1.0, 100)
    fall = np.interp(np.log10(rates), [-6, -4, -1.5, 0], [1.4, 1.4, 0.5, 3.0])
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    assert suggest(rates, fall + noise) == pytest.approx(10**-2.75, rel=0.25)
    assert suggest(rates, np.linspace(1, 2, 100)) is None
    assert suggest(rates, 1.4 + noise) is None


def test_rate_and_figure_in_the_report():
    assert figure(None) == "–"
    found = {"value": 52 / 53, "hits": 52, "of": 53, "interval": [0.899, 1.0]}
    assert rate(found) == "98.1% (52 of 53; 89.9% to 100.0%)"
    assert measured({"mean": 0.98765, "deviation": 0.001}, "accuracy") == "0.9877 ± 0.0010"
    assert measured({"mean": 10.7e6, "deviation": 0.0}, "parameters") == "10.7 M"


def test_the_white_point_takes_the_light_away_and_grey_the_hue_too():
    captures = to_unit(some_captures(3)) * 0.9
    captures[:, :, :20] = 0.95  # empty glass
    light = torch.tensor([0.9, 0.7, 0.5]).view(1, 3, 1, 1)
    white, grey = stain.white_point, stain.colourless
    assert torch.allclose(white(captures * light), white(captures), atol=1e-5)
    assert torch.allclose(white(captures)[:, :, :20], torch.ones(1))
    assert torch.equal(grey(captures)[:, 0], grey(captures)[:, 2])
    dark = torch.full((1, 3, 64, 64), 0.01)
    assert white(dark).max() < 0.25  # what holds no light is not made bright


def test_a_cut_backbone_answers_as_the_whole_one_at_that_stage():
    whole = model.build_network(TINY, 4).eval()
    torch.manual_seed(0)
    cut = model.build_network(TINY.model_copy(update={"stages": 2}), 4).eval()
    names = cut.backbone.model.state_dict().keys() & whole.backbone.state_dict().keys()
    cut.backbone.model.load_state_dict({name: whole.backbone.state_dict()[name] for name in names}, strict=False)
    x = to_unit(some_captures(2))
    with torch.no_grad():
        maps = whole.backbone.forward_intermediates((x - whole.mean) / whole.std, indices=[1], intermediates_only=True)
        assert torch.allclose(cut.pooled(x), maps[0].mean(dim=(2, 3)), atol=1e-5)
    assert model.parameter_count(cut) < model.parameter_count(whole)


def test_more_stages_than_there_are_are_refused():
    with pytest.raises(SettingsError, match=r"model.stages: test_efficientnet has \d stages, not 9"):
        model.build_network(TINY.model_copy(update={"stages": 9}), 4)


def test_the_temperature_of_a_graph_can_be_set_where_it_is_a_constant_of_its_own(tmp_path):
    table = TINY.model_copy(update={"stain_normalisation": ("density",)})  # squares: the exporter shares the 2
    network = model.build_network(table, 4).eval()
    file, captures = tmp_path / "model.onnx", some_captures(3)
    outputs = exported(network, UNCALIBRATED, file)
    graph.set_temperature(file, 0.7)
    with torch.inference_mode():
        expected = model.Exportable(network, 0.7)(captures)[0].numpy()
    assert np.allclose(graph.GraphRunner(file, outputs).probabilities(captures.numpy()), expected, atol=1e-5)
    for shared in (1.0, 2.0):
        exported(network, shared, file)
        with pytest.raises(ExportError, match="no temperature of its own"):
            graph.set_temperature(file, 0.7)


def exported(network, temperature: float, file):
    exportable = model.Exportable(network, temperature)
    graph.export_graph(exportable, 64, file, half=False)
    return graph.graph_outputs(exportable)
