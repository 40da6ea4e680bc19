"""The configuration of a training run: a TOML file with typed keys. Unknown keys are refused.

The resolved configuration, with all defaults, is written into the bundle as config.toml and into its provenance.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contract.case_policy import DEFAULT_EXCLUDE, RuleName
from contract.errors import SettingsError
from contract.imaging import ImageSpec
from contract.printable import is_printable, printable
from contract.states import MarkCode

Fraction = Annotated[float, Field(ge=0, le=1)]
SplitRule = Literal["grouped", "blocked", "appearance", "random"]
StainView = Literal["none", "density", "white", "grey"]

VERSION: Literal[2] = 2
"""Version of the keys of a recipe. Version 1 had one phase without its own table, and no key for the version."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelTable(_Table):
    """[model]: the backbone, by its timm name, its initial weights, and the layers around it."""

    architecture: str = Field("efficientnet_b3", description="timm's name of a convolutional network")
    stages: int | None = Field(
        None,
        ge=1,
        description="the backbone ends after this many of its stages, and the head sees that feature map; unset: all. "
        "On looks that it has not seen, a middle stage of ImageNet weights separates blasts better than the last",
    )
    initial_weights: str = Field(
        "imagenet",
        description='"imagenet": timm downloads them; "package": from the extra `lite`, for tf_efficientnet_lite0 to '
        'lite2; "none"; or a .safetensors, .pth or .pt file',
    )
    stain_normalisation: tuple[StainView, ...] = Field(
        ("none",),
        min_length=1,
        description="done in the graph. density: every channel gets the same mean and deviation in optical density; "
        "white: the background becomes white; grey: as white, then without colour. If there are several, the backbone "
        "sees each of them, and the head sees all of their features",
    )
    second_input: Literal["none", "hsv"] = Field(
        "none", description="hsv: the same backbone also sees the capture with all except its nucleated cells in black"
    )
    head: Literal["linear", "dense"] = Field(
        "linear", description="dense: dense, batch norm, LeakyReLU, dropout, dense; it has no exact activation map"
    )
    head_width: int = Field(512, ge=8, description="units of the dense head's hidden layer")
    dropout: Fraction = Field(0.0, description="share of the features that the head drops in a step")
    drop_path: Fraction = Field(0.0, description="share of residual branches that the backbone skips in a step")

    @field_validator("stain_normalisation", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class DataTable(_Table):
    """[data]: the labels in the order of the network's outputs, and the rule that holds captures out."""

    labels: list[str] = Field(
        ["Benign", "Early", "Pre", "Pro"], min_length=2, description="the labels, in the order of the network's outputs"
    )
    benign_label: str = Field("Benign", description="the label that is benign")
    split: SplitRule = Field("grouped", description="the rule that holds captures out: see Splits")
    validation: float = Field(0.15, gt=0, lt=0.5, description="share of captures for validation")
    test: float = Field(0.15, gt=0, lt=0.5, description="share of captures for the test")
    blocks: int = Field(20, ge=4, description="runs of consecutive file numbers per label, for split = blocked")
    appearances: int = Field(12, ge=4, description="clusters of look per label, for split = appearance")
    near_duplicate_bits: int = Field(
        4, ge=0, le=16, description="captures whose 64-bit perceptual hashes differ in at most this many bits are one"
    )
    min_images: int = Field(6, ge=3, description="a label with fewer images is refused")

    @model_validator(mode="after")
    def _consistent(self) -> "DataTable":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if self.benign_label not in self.labels:
            raise ValueError(f"benign_label {self.benign_label!r} is not among the labels {self.labels}")
        return self


class Stage(_Table):
    """A run of epochs at one image side, in pixels: progressive resizing."""

    size: int = Field(ge=32, le=2048, description="side of the captures in pixels")
    epochs: int = Field(ge=1, description="how often every training capture is used")


class Phase(_Table):
    """[[training.phases]]: epochs under one learning-rate schedule, for all layers or only the head."""

    stages: list[Stage] = Field(
        min_length=1, description="image sizes and epochs, in order; the last phase ends at image.size"
    )
    frozen: bool = Field(False, description="only the head learns; with initial weights none, all layers learn")
    solver: Literal["gradient", "logistic"] = Field(
        "gradient",
        description="logistic: only the head learns, fitted in one step by logistic regression on the features of the "
        "training captures; its stage has one epoch",
    )
    inverse_penalty: float = Field(0.3, gt=0, description="logistic: scikit-learn's C, for standardised features")
    copies: int = Field(0, ge=0, description="logistic: how many augmented copies of each capture are also fitted")
    copies_weight: float = Field(
        1.0,
        gt=0,
        description="logistic: weight of all copies of a capture together; the capture itself has weight 1. A higher "
        "value gives more robustness but less accuracy on unchanged captures",
    )
    schedule: Literal["one-cycle", "cosine"] = Field(
        "one-cycle", description="one-cycle: the rate rises, then falls to almost 0; cosine: it falls to 0"
    )
    learning_rate: float | Literal["find"] = Field(
        1e-3, description='the highest rate of the schedule; "find": the learning-rate finder chooses it'
    )
    warm_up: float = Field(0.25, gt=0, lt=1, description="one-cycle: share of the steps in which the rate rises")
    discriminative: float = Field(
        1.0, ge=1, description="how many times slower the first layers learn than the head; 1 with initial weights none"
    )
    scratch_stages: list[Stage] | None = Field(None, description="replaces stages if initial weights are none")
    scratch_learning_rate: float | Literal["find"] | None = Field(
        None, description="replaces learning_rate if initial weights are none"
    )

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    @model_validator(mode="after")
    def _one_fit(self) -> "Phase":
        if self.solver == "logistic" and self.epochs != 1:
            raise ValueError("a phase with solver logistic has one stage of one epoch: the head is fitted once")
        return self

    def from_scratch(self) -> "Phase":
        """The phase for random initial weights: all layers learn at one rate, for longer if the recipe says so."""
        return self.model_copy(
            update={
                "frozen": False,
                "discriminative": 1.0,
                "stages": self.scratch_stages or self.stages,
                "learning_rate": self.scratch_learning_rate or self.learning_rate,
                "scratch_stages": None,
                "scratch_learning_rate": None,
            }
        )


class TrainingTable(_Table):
    """[training]: phases run in order; the weights of the best epoch on validation are kept."""

    phases: list[Phase] = Field(min_length=1, description="see `[[training.phases]]`")
    batch_size: int = Field(32, ge=2, description="captures in a step, on each device")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="adam: weight_decay is an L2 penalty")
    weight_decay: float = Field(0.05, ge=0, description="pulls all weights except biases and norms towards 0")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="share of the target spread evenly over the labels")
    balance: Fraction = Field(
        0.0, description="a capture's weight in the loss is the inverse frequency of its label to this power"
    )
    clip_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="averages the weights over steps; unset: no average")
    patience: int | None = Field(None, ge=1, description="a phase ends after this many epochs without a better one")
    seed: int = Field(0, ge=0, description="seed of split, order, augmentation and new weights")
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = Field(
        "auto",
        description="auto: 16-mixed on a GPU; on a CPU with bfloat16 instructions bf16-mixed, if `screen train` finds "
        "it faster; else 32-true",
    )


class AugmentTable(_Table):
    """[augment]: each number is the largest deviation or a share of captures; 0 or false turns a step off."""

    flips: bool = Field(True, description="flips left and right, up and down")
    quarter_turns: bool = Field(True, description="for square captures; others are stretched, and turn their cells")
    rotation: float = Field(0.0, ge=0, le=180, description="rotation up to this many degrees")
    scale: float = Field(0.05, ge=0, lt=0.9, description="factor on the size, 1 +- this")
    translation: float = Field(0.05, ge=0, le=0.5, description="shift up to this share of the side")
    stain_scale: float = Field(0.15, ge=0, lt=1, description="factor on each stain's concentration, 1 +- this")
    stain_shift: float = Field(0.03, ge=0, lt=1, description="added to each stain's concentration")
    brightness: float = Field(0.1, ge=0, lt=1, description="factor on the light of all channels, 1 +- this")
    contrast: float = Field(0.1, ge=0, lt=1, description="factor on the distance from the mean, 1 +- this")
    white_balance: float = Field(0.05, ge=0, lt=1, description="factor on the light of each channel, 1 +- this")
    grey: Fraction = Field(0.0, description="share of captures that lose their colour")
    blur: Fraction = Field(0.5, description="a quarter of the captures is mixed with a blurred copy, up to this share")
    defocus: float = Field(
        0.0,
        ge=0,
        lt=0.1,
        description="a third of the captures is blurred by a Gaussian whose deviation along each axis is up to this "
        "share of the side: out of focus, or moved",
    )
    noise: float = Field(0.02, ge=0, lt=1, description="a quarter of the captures gets noise of up to this deviation")
    jpeg: Fraction = Field(0.0, description="share of captures compressed again with quality 50 to 100")
    corner_mask: Fraction = Field(0.0, description="chance of each corner to be covered with background")
    scale_bar: Fraction = Field(0.0, description="share of captures that get a drawn scale bar in a corner")
    mixup: Fraction = Field(0.0, description="share of batches mixed by mixup (Zhang et al. 2018), alpha 0.2")
    cutmix: Fraction = Field(0.0, description="share of batches mixed by cutmix (Yun et al. 2019), alpha 1")

    @model_validator(mode="after")
    def _shares(self) -> "AugmentTable":
        if self.mixup + self.cutmix > 1:
            raise ValueError("mixup and cutmix are shares of the batches and must not exceed 1 together")
        return self


class CaseTable(_Table):
    """[case]: the case rule (docs/case-rule.md), and the targets of its thresholds, fitted on validation patients."""

    rule: RuleName = Field("mean", description="how the captures of a case become its score")
    target_sensitivity: float = Field(0.995, gt=0, le=1, description="lowest share of ALL cases not called benign")
    target_specificity: float = Field(0.995, gt=0, le=1, description="lowest share of benign cases not called ALL")
    min_captures: int = Field(3, ge=1, description="a case with fewer usable captures is insufficient")
    positive_from: float = Field(0.5, gt=0, le=1, description="positive_share: a capture from this P(ALL) on counts")
    top_k: int = Field(5, ge=1, description="top_k_mean: how many of the highest P(ALL) count")
    link: float = Field(0.1, gt=0, le=1, description="noisy_or: how far one capture alone can raise the score")
    exclude: tuple[MarkCode, ...] = Field(
        DEFAULT_EXCLUDE, description="[marks](data.md#marks) that keep a capture out of a case's score"
    )


class ExportTable(_Table):
    """[export]: the contents of the bundle."""

    precision: Literal["full", "half"] = Field("full", description="how weights are stored; arithmetic is float32")
    half_graph: bool = Field(True, description="also write model.half.onnx, in half-precision arithmetic, for TensorRT")
    weights: bool = Field(True, description="also write model.safetensors, for further training")
    golden: int = Field(8, ge=1, le=64, description="captures whose outputs every engine must reproduce")
    test_time_flips: Literal[1, 2, 4] = Field(
        1, description="the graph averages over this many mirrored views; inference takes that many times longer"
    )
    audit_captures: int = Field(600, ge=8, description="largest number of test captures in the robustness audit")


class Config(_Table):
    """A whole training run."""

    version: Literal[2] = Field(VERSION, description="version of these keys; files of older versions are still read")
    name: str = Field(min_length=1, description="name of the recipe and of the bundle")
    notice: str | None = Field(None, description="shown with every report made with the bundle")
    model: ModelTable = Field(ModelTable(), description="see `[model]`")
    image: ImageSpec = Field(description="see `[image]`")
    data: DataTable = Field(DataTable(), description="see `[data]`")
    training: TrainingTable = Field(description="see `[training]`")
    augment: AugmentTable = Field(AugmentTable(), description="see `[augment]`")
    case: CaseTable = Field(CaseTable(), description="see `[case]`")
    export: ExportTable = Field(ExportTable(), description="see `[export]`")

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        for phases in (self.training.phases, [phase.from_scratch() for phase in self.training.phases]):
            sizes = [stage.size for phase in phases for stage in phase.stages]
            if sizes[-1] != self.image.size:
                raise ValueError("training.phases: the last stage's size must be image.size, which the bundle promises")
            if max(sizes) > self.image.size:
                raise ValueError("training.phases: no stage may be larger than image.size")
        return self

    @model_validator(mode="after")
    def _printable(self) -> "Config":
        for text in (self.name, self.notice or "", *self.data.labels):
            if not is_printable(text):  # the bundle would be refused, after hours of training
                raise ValueError(f"`{printable(text)}` holds characters that cannot be printed")
        return self

    def resolved(self) -> "Config":
        """The configuration as it is trained. Without initial weights the recipe's keys for training from scratch
        apply: nothing is frozen, and all layers learn at one rate.

        A head learns nothing on a frozen backbone with random weights, and random layers must all learn. So phases
        that fit a head on frozen features are left out. Raises SettingsError if there are no other phases.
        """
        if self.model.initial_weights != "none":
            return self
        phases = [phase.from_scratch().model_dump() for phase in self.training.phases if phase.solver == "gradient"]
        if not phases:
            raise SettingsError(
                f'recipe {self.name}: fits a head on learned features, and initial_weights = "none" gives '
                "none: use --initial-weights package, or a file, or choose another recipe"
            )
        return self.changed("training", phases=phases)

    def changed(self, table: str, **values: Any) -> "Config":
        """The same configuration with some keys of one table replaced, checked again; None keeps a value."""
        tree = self.model_dump(mode="python")
        tree[table] |= {key: value for key, value in values.items() if value is not None}
        return _validated(tree, f"with {table} changed")


def load_config(recipe: str | Path) -> Config:
    """Read a shipped recipe by its name ("ours", "demo") or any TOML file. Raises SettingsError that names the key."""
    shipped = resources.files("trainer") / "recipes" / f"{recipe}.toml"
    try:
        text = (shipped if shipped.is_file() else Path(recipe)).read_text(encoding="utf-8")
    except OSError as error:
        choices = f"a TOML file or one of {', '.join(sorted(recipe_names()))}"
        raise SettingsError(f"recipe {recipe}: cannot be read ({error.strerror}); name {choices}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"recipe {recipe}: is not UTF-8 text ({error})") from None
    try:
        return _validated(tomllib.loads(text), str(recipe))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"recipe {recipe}: is not TOML ({error})") from None


def recipe_names() -> list[str]:
    """Names of the recipes that are shipped."""
    folder = resources.files("trainer") / "recipes"
    return [entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")]


def _validated(tree: dict[str, Any], recipe: str) -> Config:
    if isinstance(version := tree.get("version"), int) and version > VERSION:
        raise SettingsError(
            f"recipe {recipe}: version {version} of the keys is newer than this release knows ({VERSION}); install the "
            "release that wrote it"
        )
    try:
        return Config.model_validate(_from_version_1(tree))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {_sentence(fault)}" for fault in error.errors()]
        raise SettingsError(f"recipe {recipe}: {'; '.join(faults)}") from None


def _from_version_1(tree: dict[str, Any]) -> dict[str, Any]:
    """The keys of version 1 at their places in version 2; a tree of version 2 unchanged."""
    training, export = tree.get("training"), tree.get("export")
    if not isinstance(training, dict) or "stages" not in training or "phases" in training:
        return tree
    moved = {"stages": "stages", "max_learning_rate": "learning_rate", "warm_up": "warm_up"}
    phase = {name: training[old] for old, name in moved.items() if old in training}
    tree = tree | {
        "training": {key: value for key, value in training.items() if key not in moved} | {"phases": [phase]}
    }
    if isinstance(export, dict) and "min_captures" in export:
        kept_export = {key: value for key, value in export.items() if key != "min_captures"}
        tree |= {"export": kept_export, "case": {"min_captures": export["min_captures"]} | tree.get("case", {})}
    return tree


def _sentence(fault: Any) -> str:
    return "unknown key" if fault["type"] == "extra_forbidden" else str(fault["msg"])


def to_toml(config: Config) -> str:
    """The configuration as TOML that `load_config` can read; unset values are left out."""
    import tomli_w  # from the extra `train`; --help needs this module without it

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
