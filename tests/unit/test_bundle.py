"""The bundle: what was written is what is read, and nothing that was changed on the way is ever loaded."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.bundle import EXPECTED, GOLDEN, MANIFEST, MODEL, Bundle, GoldenSet, Manifest, file_digest, write_manifest
from contract.errors import BundleError, ExitCode
from tests.support.bundles import LABELS, colour_bundle

FILES = [MODEL, EXPECTED, *(f"{GOLDEN}/{number:03d}.jpg" for number in range(4))]
Document = dict[str, Any]


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that the test may damage."""
    return dataclasses.replace(bundle, path=Path(shutil.copytree(bundle.path, tmp_path / "b3.bundle")))


def edit(bundle: Bundle, change: Callable[[Document], None]) -> None:
    """Change bundle.json as JSON."""
    file = bundle.path / MANIFEST
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def refusal(path: Path, *, expected_digest: str | None = None) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, expected_digest=expected_digest)
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    written = colour_bundle(tmp_path / "b3.bundle", name="b3 – é")
    read = Bundle.open(written.path)
    assert read == written
    assert read.manifest.name == "b3 – é"
    assert read.manifest.labels == LABELS
    assert read.manifest.benign_index == 0
    assert sorted(read.manifest.files) == sorted(FILES)


def test_its_identity_is_the_digest_of_the_manifest_and_survives_a_copy(bundle: Bundle, copied: Bundle) -> None:
    assert bundle.digest == file_digest(bundle.path / MANIFEST)
    assert Bundle.open(copied.path, expected_digest=bundle.digest).digest == bundle.digest


def test_the_same_content_gives_the_same_identity_and_another_name_another(tmp_path: Path) -> None:
    first, again = colour_bundle(tmp_path / "a"), colour_bundle(tmp_path / "b")
    assert first.digest == again.digest
    assert colour_bundle(tmp_path / "c", name="other").digest != first.digest


def test_a_rewritten_manifest_lists_what_lies_there_now(copied: Bundle) -> None:
    (copied.path / "report.html").write_text("<p>model card</p>")
    again = write_manifest(copied.path, copied.manifest)
    assert set(again.manifest.files) == {*FILES, "report.html"}
    assert again.digest != copied.digest


def test_the_golden_captures_come_with_what_is_expected_of_them(bundle: Bundle) -> None:
    golden = bundle.golden()
    assert [data for data, _ in golden] == [(bundle.path / GOLDEN / f"{n:03d}.jpg").read_bytes() for n in range(4)]
    assert [int(np.argmax(expected)) for _, expected in golden] == [0, 1, 2, 3]


@pytest.mark.parametrize("where", [0, 0.5, 1])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_in_any_file_is_refused_and_the_file_named(copied: Bundle, name: str, where: float) -> None:
    file = copied.path / name
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    file.write_bytes(data)
    assert f"{name} does not match its digest" in refusal(copied.path)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_shorter_or_longer_file_is_refused(copied: Bundle, change: Callable[[bytes], bytes]) -> None:
    file = copied.path / MODEL
    file.write_bytes(change(file.read_bytes()))
    assert f"{MODEL} does not match its digest" in refusal(copied.path)


def test_any_changed_byte_of_the_manifest_is_another_bundle(copied: Bundle) -> None:
    file = copied.path / MANIFEST
    data = file.read_bytes()
    for position in range(0, len(data), 17):
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert "submitted with " + copied.digest[:12] in refusal(copied.path, expected_digest=copied.digest)


def test_another_bundle_in_the_place_of_the_recorded_one_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    other = colour_bundle(tmp_path / "other", name="other")
    text = refusal(other.path, expected_digest=bundle.digest)
    assert bundle.digest[:12] in text
    assert other.digest[:12] in text


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copied: Bundle, name: str) -> None:
    (copied.path / name).unlink()
    assert f"{name} cannot be read" in refusal(copied.path)


def test_a_folder_in_the_place_of_a_file_is_refused(copied: Bundle) -> None:
    (copied.path / MODEL).unlink()
    (copied.path / MODEL).mkdir()
    assert f"{MODEL} cannot be read" in refusal(copied.path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "is no bundle: it has no bundle.json" in refusal(tmp_path)
    assert "is no bundle" in refusal(tmp_path / "nowhere")


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"onnx")
    refusal(file)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_schema_version_is_refused_before_anything_else_is_read(copied: Bundle, version: object) -> None:
    def change(document: Document) -> None:
        document.clear()
        document.update(schema_version=version, novelties="of a later release")

    edit(copied, change)
    assert f"schema version {version}; this release reads version 1" in refusal(copied.path)


FAULTS: dict[str, Callable[[Document], Any]] = {
    "an unknown key": lambda d: d.update(ensemble=3),
    "an unknown key deep inside": lambda d: d["image"].update(sharpen=True),
    "benign_label not among the labels": lambda d: d.update(benign_label="Hem"),
    "a repeated label": lambda d: d.update(labels=["Benign", "Pro", "Pro"]),
    "one label": lambda d: d.update(labels=["Benign"]),
    "no model": lambda d: d["files"].pop(MODEL),
    "no files": lambda d: d.pop("files"),
    "thresholds in the wrong order": lambda d: d["case_policy"].update(benign_at_most=0.9, all_at_least=0.1),
    "an unknown case rule": lambda d: d["case_policy"].update(rule="median"),
    "a temperature of zero": lambda d: d["calibration"].update(temperature=0),
    "a size beyond reason": lambda d: d["image"].update(size=100_000),
    "no name": lambda d: d.update(name=""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_manifest_that_cannot_be_meant_is_refused(copied: Bundle, fault: str) -> None:
    edit(copied, FAULTS[fault])
    assert f"{MANIFEST} is not valid" in refusal(copied.path)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe", b"\0" * 100])
def test_a_manifest_that_is_no_json_object_is_refused(copied: Bundle, raw: bytes) -> None:
    (copied.path / MANIFEST).write_bytes(raw)
    assert f"{MANIFEST} is not valid" in refusal(copied.path)


@pytest.mark.parametrize("name", ["../outside.bin", "golden/../../outside.bin", "{absolute}"])
def test_a_listed_file_that_leads_out_of_the_bundle_is_refused(copied: Bundle, name: str) -> None:
    outside = copied.path.parent / "outside.bin"
    outside.write_bytes(b"anything")
    name = name.format(absolute=outside)
    edit(copied, lambda d: d["files"].update({name: file_digest(outside)}))
    assert f"{name} leads out of the bundle" in refusal(copied.path)


def test_a_link_out_of_the_bundle_is_refused_even_with_the_right_digest(copied: Bundle) -> None:
    outside = copied.path.parent / "model.onnx"
    (copied.path / MODEL).rename(outside)
    (copied.path / MODEL).symlink_to(outside)
    assert f"{MODEL} leads out of the bundle" in refusal(copied.path)


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"captures": []}', b'{"captures": [{"file": "none.jpg", "probabilities": [1]}]}', b"text"]
)
def test_golden_captures_that_cannot_be_read_are_a_fault_of_the_bundle(copied: Bundle, raw: bytes) -> None:
    (copied.path / EXPECTED).write_bytes(raw)
    with pytest.raises(BundleError, match=r"golden captures cannot be read|does not list golden/none\.jpg"):
        write_manifest(copied.path, copied.manifest)


def test_a_manifest_cannot_be_changed_once_read(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="frozen"):
        bundle.manifest.benign_label = "Pro"  # type: ignore[misc]


def test_the_golden_set_and_the_manifest_survive_their_own_json(bundle: Bundle) -> None:
    assert Manifest.model_validate_json(bundle.manifest.model_dump_json()) == bundle.manifest
    golden = GoldenSet.model_validate_json((bundle.path / EXPECTED).read_bytes())
    assert GoldenSet.model_validate_json(golden.model_dump_json()) == golden
