"""The configuration of a training run: a TOML file, every key typed, unknown keys refused.

The resolved configuration, defaults filled in, is written into the bundle as config.toml and into its provenance.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.errors import SettingsError
from contract.imaging import ImageSpec

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelTable(_Table):
    """[model]: the backbone, by its timm name, and what its weights start from."""

    architecture: str = "efficientnet_b3"
    initial_weights: str = Field("imagenet", description='"imagenet" (timm downloads them), "none", or a file')
    dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


class DataTable(_Table):
    """[data]: the labels in the order of the network's outputs, and how much is held out."""

    labels: list[str] = Field(["Benign", "Early", "Pre", "Pro"], min_length=2)
    benign_label: str = "Benign"
    validation: float = Field(0.15, gt=0, lt=0.5, description="share of captures, by patient, for validation")
    test: float = Field(0.15, gt=0, lt=0.5, description="share of captures, by patient, for the test")
    min_images: int = Field(12, ge=3, description="a label with fewer images is refused")

    @model_validator(mode="after")
    def _consistent(self) -> "DataTable":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if self.benign_label not in self.labels:
            raise ValueError(f"benign_label {self.benign_label!r} is not among the labels {self.labels}")
        return self


class Stage(_Table):
    """A run of epochs at one image side, in pixels: progressive resizing."""

    size: int = Field(ge=32, le=2048)
    epochs: int = Field(ge=1)


class TrainingTable(_Table):
    """[training]: all stages lie under one one-cycle schedule (Smith & Topin 2019)."""

    stages: list[Stage] = Field(min_length=1)
    batch_size: int = Field(32, ge=2)
    max_learning_rate: float = Field(1e-3, gt=0)
    warm_up: float = Field(0.25, gt=0, lt=1, description="share of all steps in which the learning rate rises")
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="weights are averaged over steps; unset: not")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = Field(
        "auto", description="auto: 32-true on the CPU, where bfloat16 was no faster, 16-mixed on a GPU"
    )


class AugmentTable(_Table):
    """[augment]: each number is the largest deviation; 0 or false switches a step off."""

    flips: bool = True
    quarter_turns: bool = Field(True, description="for square captures; others are stretched, and turn their cells")
    rotation: float = Field(0.0, ge=0, le=180, description="degrees")
    scale: float = Field(0.05, ge=0, lt=0.9)
    translation: float = Field(0.05, ge=0, le=0.5, description="share of the side")
    stain_scale: float = Field(0.15, ge=0, lt=1, description="factor on each stain's concentration, 1 +- this")
    stain_shift: float = Field(0.03, ge=0, lt=1, description="added to each stain's concentration")
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.1, ge=0, lt=1)
    white_balance: float = Field(0.05, ge=0, lt=1)
    blur: Fraction = Field(0.5, description="a quarter of the captures is mixed with its blurred self, up to this")
    noise: float = Field(0.02, ge=0, lt=1, description="a quarter of the captures gets noise of up to this deviation")


class ExportTable(_Table):
    """[export]: what the bundle holds."""

    precision: Literal["full", "half"] = Field("full", description="how weights are stored; arithmetic is float32")
    weights: bool = Field(True, description="also write model.safetensors, for further training")
    golden: int = Field(8, ge=1, le=64, description="captures whose outputs every engine must reproduce")
    min_captures: int = Field(3, ge=1, description="a case with fewer usable captures is insufficient")


class Config(_Table):
    """A whole training run."""

    name: str = Field(min_length=1)
    notice: str | None = Field(None, description="shown with every report made with the bundle")
    model: ModelTable = ModelTable()
    image: ImageSpec
    data: DataTable = DataTable()
    training: TrainingTable
    augment: AugmentTable = AugmentTable()
    export: ExportTable = ExportTable()

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        if self.training.stages[-1].size != self.image.size:
            raise ValueError("training.stages: the last stage's size must be image.size, which the bundle promises")
        if any(stage.size > self.image.size for stage in self.training.stages):
            raise ValueError("training.stages: no stage may be larger than image.size")
        return self

    def with_seed(self, seed: int | None) -> "Config":
        """The same configuration with another seed; None leaves it."""
        if seed is None:
            return self
        return self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})


def load_config(recipe: str | Path) -> Config:
    """Read a shipped recipe by its name ("b3", "demo") or any TOML file. Raises SettingsError naming the key."""
    shipped = resources.files("trainer") / "recipes" / f"{recipe}.toml"
    try:
        text = (shipped if shipped.is_file() else Path(recipe)).read_text(encoding="utf-8")
    except OSError as error:
        names = ", ".join(sorted(recipe_names()))
        raise SettingsError(
            f"recipe {recipe}: cannot be read ({error.strerror}); name a TOML file or one of {names}"
        ) from None
    try:
        return Config.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"recipe {recipe}: is no TOML ({error})") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {_sentence(e)}" for e in error.errors()]
        raise SettingsError(f"recipe {recipe}: {'; '.join(faults)}") from None


def recipe_names() -> list[str]:
    """Names of the recipes that are shipped."""
    folder = resources.files("trainer") / "recipes"
    return [entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")]


def _sentence(error: Any) -> str:
    return "unknown key" if error["type"] == "extra_forbidden" else str(error["msg"])


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML that `load_config` reads back; unset values are left out."""
    tree = config.model_dump(mode="json", exclude_none=True)
    lines = [f"{key} = {_value(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for name, table in tree.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(v)}" for key, v in value.items()) + "}"
    return repr(value)
