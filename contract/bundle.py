"""The bundle: the folder that the trainer hands to the worker. This module reads, verifies and writes its manifest.

bundle.json        the manifest below; its sha256 is the bundle's identity
model.onnx         input uint8 [N, S, S, 3]; outputs probabilities [N, L], embedding [N, D], cam [N, L, h, w] if any
model.safetensors  weights for further training (optional)
golden/            captures, and expected.json with the answers that every engine must give for them; expected.npz has
                   their embeddings and maps
proof.npz          a few hundred validation captures, and the decisions about them (contract/proof.py)
reference.npz      statistics of training embeddings, for novelty; trainer/reference.py describes its content
config.toml        the resolved recipe
split.csv          the digest, label, split and group of every capture; no names
report.html        the model card; figures/ holds its pictures
"""

import csv
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from contract.case_policy import CasePolicy
from contract.errors import BundleError
from contract.imaging import ImageSpec

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
MODEL = "model.onnx"
HALF_MODEL = "model.half.onnx"
SPLIT = "split.csv"
GOLDEN = "golden"
EXPECTED = f"{GOLDEN}/expected.json"
EXPECTED_ARRAYS = f"{GOLDEN}/expected.npz"
GOLDEN_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""precision -> largest tolerated difference in probability on golden captures, unless the manifest says otherwise."""
NOVELTY_TOLERANCE = {"float32": 0.02, "bfloat16": 0.1, "float16": 0.05}
"""precision -> largest tolerated difference in novelty, in thresholds (1 is the border of what is known); above 1 it is
a share of the novelty itself. With the first stage in float32, emulated bfloat16 changed the novelty of 120 drawings by
at most 0.02 in the demo bundle (docs/architecture.md)."""
MAP_TOLERANCE = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.1}
"""precision -> largest tolerated difference in a capture's activation map, as a share of the map's range."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Outputs(_Strict):
    """Names of the graph's tensors. A head that is not pooling and one linear layer has no activation map.

    `first_stage`, if there is one, repeats the first columns of `embedding`: the pooled features of the first stage. A
    coarse engine computes them separately in float32; the graph up to there is short.
    """

    input: str = "captures"
    probabilities: str = "probabilities"
    cam: str | None = "cam"
    embedding: str = "embedding"
    first_stage: str | None = None


class Calibration(_Strict):
    """Temperature scaling (Guo et al. 2017), fitted on validation captures; the graph already applies it."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)


class GoldenCapture(_Strict):
    """One capture under golden/ and what the exported float32 graph gave for it: probabilities, novelty (None if the
    bundle has no reference for it) and the codes of its marks (None in bundles that do not store them).
    """

    file: str
    probabilities: list[float]
    novelty: float | None = None
    marks: list[str] | None = None


class GoldenSet(_Strict):
    captures: list[GoldenCapture] = Field(min_length=1)


class Manifest(_Strict):
    """bundle.json. Unknown keys are refused, because a newer bundle must not be understood only in part."""

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1)
    notice: str | None = Field(None, description="a warning that every report made with this bundle must show")
    labels: list[str] = Field(min_length=2)
    benign_label: str
    image: ImageSpec
    outputs: Outputs = Outputs()
    calibration: Calibration
    case_policy: CasePolicy
    golden_tolerance: dict[str, float] = Field(
        default=GOLDEN_TOLERANCE,
        description="largest difference in probability on the golden captures, by the engine's precision",
    )
    novelty_tolerance: dict[str, float] = Field(
        default=NOVELTY_TOLERANCE,
        description="largest difference in novelty, in thresholds, by the engine's precision",
    )
    map_tolerance: dict[str, float] = Field(
        default=MAP_TOLERANCE,
        description="largest difference in a golden capture's activation map, as a share of its range, by precision",
    )
    reference: dict[str, Any] = Field(
        default_factory=dict, description="statistics of training captures, for quality and novelty"
    )
    metrics: dict[str, Any] = Field(default_factory=dict, description="per split: validation, test, ...")
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(description="relative posix path -> sha256 of every other file")

    @field_validator("golden_tolerance", "novelty_tolerance", "map_tolerance")
    @classmethod
    def _of_every_precision(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        assert info.field_name is not None
        return {**cls.model_fields[info.field_name].default, **value}

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if self.benign_label not in self.labels:
            raise ValueError(f"benign_label {self.benign_label!r} is not among the labels {self.labels}")
        if MODEL not in self.files:
            raise ValueError(f"files does not list {MODEL}")
        return self

    @property
    def benign_index(self) -> int:
        return self.labels.index(self.benign_label)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `digest` is the sha256 of bundle.json; it names the bundle in every row and result."""

    path: Path
    digest: str
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, *, expected_digest: str | None = None) -> "Bundle":
        """Read the manifest and check every file against its digest, before anything is loaded.

        Raises BundleError naming the file and the next step.
        """
        raw = _read_manifest(path)
        digest = hashlib.sha256(raw).hexdigest()
        if expected_digest is not None and digest != expected_digest:
            raise BundleError(
                f"bundle {path}: is {digest[:12]}, but the run was submitted with {expected_digest[:12]}; "
                "put that bundle back, or submit again with this one"
            )
        bundle = cls(path, digest, _parse_manifest(path, raw))
        bundle.verify_files()
        return bundle

    def verify_files(self) -> None:
        """Compare every listed file with its sha256. Raises BundleError."""
        for name, expected in self.manifest.files.items():
            file = self.path / name
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise BundleError(f"bundle {self.path}: {name} leads out of the bundle; export it again")
            try:
                actual = file_digest(file)
            except OSError as error:
                raise BundleError(
                    f"bundle {self.path}: {name} cannot be read ({error.strerror}); copy or export it again"
                ) from error
            if actual != expected:
                raise BundleError(
                    f"bundle {self.path}: {name} does not match its digest; run `screen bundle verify {self.path}`, "
                    "then copy or export it again"
                )

    def golden(self) -> list[tuple[bytes, NDArray[np.float64]]]:
        """The golden captures as (file bytes, expected probabilities [L]). Raises BundleError."""
        try:
            return [
                ((self.path / GOLDEN / golden.file).read_bytes(), np.asarray(golden.probabilities))
                for golden in self.golden_set().captures
            ]
        except OSError as error:
            raise BundleError(f"bundle {self.path}: golden captures cannot be read ({error}); export again") from error

    def captures_of(self, splits: Collection[str]) -> frozenset[str] | None:
        """The sha256 of each capture in these splits; None if the bundle lists none. Raises BundleError."""
        if SPLIT not in self.manifest.files:
            return None
        try:
            with (self.path / SPLIT).open(encoding="utf-8", newline="") as stream:
                return frozenset(row["sha256"] for row in csv.DictReader(stream) if row["split"] in splits)
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise BundleError(f"bundle {self.path}: {SPLIT} cannot be read ({error}); export again") from error

    def golden_set(self) -> GoldenSet:
        """The golden captures with the answers expected for them. Raises BundleError."""
        try:
            return GoldenSet.model_validate_json((self.path / EXPECTED).read_bytes())
        except (OSError, ValidationError) as error:
            raise BundleError(f"bundle {self.path}: golden captures cannot be read ({error}); export again") from error


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Write bundle.json, with the digests of all files in `folder`. It must be the last file of a bundle."""
    files = {
        file.relative_to(folder).as_posix(): file_digest(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    complete = manifest.model_copy(update={"files": files})
    raw = (json.dumps(complete.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()
    (folder / MANIFEST).write_bytes(raw)
    return Bundle.open(folder)


def file_digest(file: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{path} is no bundle: it has no {MANIFEST}; name a folder that `screen train` wrote"
        ) from None
    except OSError as error:
        raise BundleError(f"bundle {path}: {MANIFEST} cannot be read ({error.strerror})") from error


def _parse_manifest(path: Path, raw: bytes) -> Manifest:
    try:
        version = json.loads(raw).get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"bundle {path}: schema version {version}; this release reads version {SCHEMA_VERSION}: "
                "export the bundle again or use a matching release"
            )
        return Manifest.model_validate_json(raw)
    except (ValueError, AttributeError) as error:
        raise BundleError(f"bundle {path}: {MANIFEST} is not valid: {error}") from error
