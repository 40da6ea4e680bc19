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
bundle.sig         who vouches for the bundle (optional; contract/bundle_signature.py)

Every file but bundle.json and bundle.sig is listed in the manifest, and nothing else may lie in the folder.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from contract.bundle_files import (
    MOST_BYTES,
    MOST_BYTES_TOGETHER,
    MOST_FILES,
    Unreadable,
    digest_of_file,
    read_file,
    unlisted,
)
from contract.case_policy import CasePolicy
from contract.errors import BundleError
from contract.graph_check import check_graph
from contract.imaging import ImageSpec
from contract.names import display_name, one_line
from contract.printable import is_printable, printable

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
SIGNATURE = "bundle.sig"
MODEL = "model.onnx"
HALF_MODEL = "model.half.onnx"
SPLIT = "split.csv"
GOLDEN = "golden"
EXPECTED = f"{GOLDEN}/expected.json"
EXPECTED_ARRAYS = f"{GOLDEN}/expected.npz"
MOST_GOLDEN = 256
_FOR_PEOPLE = (".html", ".toml", ".safetensors")
"""Endings of files that no engine needs: they are hashed and not kept. So are those of figures/."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
GOLDEN_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""precision -> largest tolerated difference in probability on golden captures, unless the manifest says otherwise."""
NOVELTY_TOLERANCE = {"float32": 0.02, "bfloat16": 0.1, "float16": 0.05}
"""precision -> largest tolerated difference in novelty, in thresholds (1 is the border of what is known); above 1 it is
a share of the novelty itself. With the first stage in float32, emulated bfloat16 changed the novelty of 192 drawings by
at most 0.06 in the demo bundle (docs/architecture.md)."""
MAP_TOLERANCE = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.1}
"""precision -> largest tolerated difference in a capture's activation map, as a share of the map's range."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Outputs(_Strict):
    """Names of the graph's tensors. A head that is not pooling and one linear layer has no activation map.

    `first_stage`, if there is one, repeats the first columns of `embedding`: statistics of the first stage's maps. A
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
    captures: list[GoldenCapture] = Field(min_length=1, max_length=MOST_GOLDEN)


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

    @field_validator("files")
    @classmethod
    def _that_can_be_named(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > MOST_FILES:
            raise ValueError(f"{len(value)} files, at most {MOST_FILES} are read")
        if any(not name.isprintable() or name in (MANIFEST, SIGNATURE) for name in value):
            raise ValueError("files lists a name that cannot be printed, or the manifest itself")
        return value

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
    """An opened bundle. `digest` is the sha256 of bundle.json; it names the bundle in every row and result.

    `contents` are the files that were read, by name: the bytes whose digests agreed. Everybody takes them from here:
    what lies at `path` may be another bundle by now.
    """

    path: Path
    digest: str
    manifest: Manifest
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, *, expected_digest: str | None = None) -> "Bundle":
        """Read the manifest and every file, once, and check each against its digest, before anything is loaded.

        Raises BundleError naming the file and the next step.
        """
        raw = _read_manifest(path)
        digest = hashlib.sha256(raw).hexdigest()
        if expected_digest is not None and digest != expected_digest:
            raise BundleError(
                f"bundle {path}: is {digest[:12]}, but the run was submitted with {expected_digest[:12]}; "
                "put that bundle back, or submit again with this one"
            )
        manifest = _parse_manifest(path, raw)
        _refuse_unlisted(path, manifest)
        bundle = cls(path, digest, manifest, _read_files(path, manifest))
        bundle._check_contents()
        return bundle

    @classmethod
    def unfinished(cls, folder: Path, manifest: Manifest) -> "Bundle":
        """The bundle that the trainer is writing into `folder`: its files as they are now. Raises BundleError."""
        names = _names_in(folder)
        return cls(folder, "", manifest, {name: _read(folder, name) for name in names if _is_kept(name)})

    def read(self, name: str) -> bytes:
        """The bytes of a file as they were when the bundle was opened. Raises BundleError where it lists none."""
        try:
            return self.contents[name]
        except KeyError:
            raise BundleError(f"bundle {self.path}: {MANIFEST} does not list {name}; export it again") from None

    def copy_to(self, folder: Path) -> None:
        """Write all listed files into `folder`, as their digests say. Raises BundleError."""
        for name, expected in self.manifest.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name in self.contents:
                target.write_bytes(self.contents[name])
                continue
            with target.open("wb") as stream:
                _compare(self.path, name, _digest(self.path, name, into=stream)[0], expected)

    def golden(self) -> list[tuple[bytes, NDArray[np.float64]]]:
        """The golden captures as (file bytes, expected probabilities [L]). Raises BundleError."""
        return [
            (self.read(f"{GOLDEN}/{golden.file}"), np.asarray(golden.probabilities))
            for golden in self.golden_set().captures
        ]

    def captures_of(self, splits: Collection[str]) -> frozenset[str] | None:
        """The sha256 of each capture in these splits; None if the bundle lists none. Raises BundleError."""
        if SPLIT not in self.contents:
            return None
        try:
            text = self.contents[SPLIT].decode("utf-8")
            rows = csv.DictReader(io.StringIO(text, newline=""))
            found = frozenset(str(row["sha256"]) for row in rows if row["split"] in splits)
            if not all(map(_SHA256.fullmatch, found)):
                raise ValueError("a sha256 is none")
            return found
        except (ValueError, KeyError, csv.Error) as error:
            raise BundleError(
                f"bundle {self.path}: {SPLIT} cannot be read ({one_line(error)}); export again"
            ) from error

    def golden_set(self) -> GoldenSet:
        """The golden captures with the answers expected for them. Raises BundleError."""
        try:
            return GoldenSet.model_validate_json(self.read(EXPECTED))
        except ValidationError as error:
            raise BundleError(
                f"bundle {self.path}: golden captures cannot be read ({one_line(error)}); export again"
            ) from error

    def _check_contents(self) -> None:
        """Refuse what would surprise an engine: graphs that are not plain, golden captures that are not listed."""
        for name in (MODEL, HALF_MODEL):
            if name in self.contents:
                try:
                    check_graph(self.contents[name])
                except ValueError as error:
                    raise BundleError(f"bundle {self.path}: {name} is refused: {error}") from error
        self.golden()


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Write bundle.json, with the digests of all files in `folder`. It must be the last file of a bundle; a signature
    of an earlier one is removed.
    """
    (folder / SIGNATURE).unlink(missing_ok=True)
    files = {name: _digest(folder, name)[0] for name in _names_in(folder)}
    complete = manifest.model_copy(update={"files": files})
    raw = (json.dumps(complete.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()
    (folder / MANIFEST).write_bytes(raw)
    return Bundle.open(folder)


def file_digest(file: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_digest(folder: Path) -> str | None:
    """The digest of the bundle in `folder`, by which it is known, and nothing checked; None where there is none."""
    try:
        return hashlib.sha256(read_file(folder, MANIFEST)).hexdigest()
    except Unreadable:
        return None


def _names_in(folder: Path) -> list[str]:
    """The files of a bundle that is being written."""
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if not file.is_dir())
    return [name for name in names if name not in (MANIFEST, SIGNATURE)]


def _is_kept(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix not in _FOR_PEOPLE and path.parts[0] != "figures"


def _refuse_unlisted(path: Path, manifest: Manifest) -> None:
    try:
        name = unlisted(path, {MANIFEST, SIGNATURE, *manifest.files})
    except OSError as error:
        raise BundleError(f"bundle {path}: its folder cannot be listed ({error.strerror})") from error
    if name is not None:
        raise BundleError(
            f"bundle {path}: {display_name(os.fsencode(name))} lies in its folder, and {MANIFEST} "
            "does not list it; remove it, or copy or export the bundle again"
        )


def _read_files(path: Path, manifest: Manifest) -> dict[str, bytes]:
    """The files that are kept, by name; all that are listed agree with their digests."""
    contents, left = {}, MOST_BYTES_TOGETHER
    for name, expected in manifest.files.items():
        if _is_kept(name):
            contents[name] = data = _read(path, name, left)
            actual, size = hashlib.sha256(data).hexdigest(), len(data)
        else:
            actual, size = _digest(path, name, left)
        _compare(path, name, actual, expected)
        left -= size
    return contents


def _compare(path: Path, name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise BundleError(
            f"bundle {path}: {name} does not match its digest; run `screen bundle verify {path}`, "
            "then copy or export it again"
        )


def _read(path: Path, name: str, at_most: int = MOST_BYTES) -> bytes:
    try:
        return read_file(path, name, at_most)
    except Unreadable as error:
        raise _unreadable(path, name, error) from error


def _digest(path: Path, name: str, at_most: int = MOST_BYTES, *, into: BinaryIO | None = None) -> tuple[str, int]:
    try:
        return digest_of_file(path, name, at_most, into=into)
    except Unreadable as error:
        raise _unreadable(path, name, error) from error


def _unreadable(path: Path, name: str, error: Unreadable) -> BundleError:
    return BundleError(f"bundle {path}: {name} {error}; copy or export it again")


def _read_manifest(path: Path) -> bytes:
    try:
        return read_file(path, MANIFEST)
    except Unreadable as error:
        if error.is_missing:
            raise BundleError(
                f"{path} is no bundle: it has no {MANIFEST}; name a folder that `screen train` wrote"
            ) from None
        raise _unreadable(path, MANIFEST, error) from error


def _parse_manifest(path: Path, raw: bytes) -> Manifest:
    try:
        version = json.loads(raw).get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"bundle {path}: schema version {str(version)[:40]}; this release reads version {SCHEMA_VERSION}: "
                "export the bundle again or use a matching release"
            )
        manifest = Manifest.model_validate_json(raw)
        _refuse_unprintable(manifest)
        return manifest
    except RecursionError:
        raise BundleError(f"bundle {path}: {MANIFEST} is not valid: it is nested without end") from None
    except (ValueError, AttributeError) as error:
        raise BundleError(f"bundle {path}: {MANIFEST} is not valid: {one_line(error)}") from error


def _refuse_unprintable(manifest: Manifest) -> None:
    """Not a rule of `Manifest`: one that was stored with a run of before must still be read."""
    for text in (manifest.name, manifest.notice or "", *manifest.labels, *manifest.files):
        if not is_printable(text):
            raise ValueError(f"`{printable(text)}` holds characters that cannot be printed")
