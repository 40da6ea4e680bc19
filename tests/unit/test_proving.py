"""An engine serves only if it decides as the float32 graph did; bfloat16 is emulated where no processor here has it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from contract.archive import walk_archive  # noqa: E402
from contract.bundle import EXPECTED, Bundle, write_manifest  # noqa: E402
from contract.errors import BundleError, EngineError  # noqa: E402
from contract.novelty import read_novelty  # noqa: E402
from contract.proof import FILE, open_hidden, read_hidden, write_hidden  # noqa: E402
from tests.support.archives import encode  # noqa: E402
from tests.support.bfloat16 import EmulatedBfloat16Engine, rounded  # noqa: E402
from tests.support.sensitive import sensitive_bundle, shaded  # noqa: E402
from trainer import proof as trainer_proof  # noqa: E402
from worker.agreement import compare  # noqa: E402
from worker.engines import registry  # noqa: E402
from worker.engines.base import EngineOptions, infer, infer_all  # noqa: E402
from worker.engines.close_calls import CloseCalls  # noqa: E402
from worker.engines.onnxruntime import ONNXRuntimeEngine  # noqa: E402
from worker.engines.openvino import OpenVINOEngine  # noqa: E402
from worker.engines.proving import prove  # noqa: E402
from worker.engines.registry import open_engine  # noqa: E402
from worker.verification import agreement_sentences, proof_sentences  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitive")


@pytest.fixture(scope="module")
def named(folder: Path) -> Bundle:
    """Its graph names the first stage, so that an engine can compute it apart."""
    return sensitive_bundle(folder / "named.bundle", named=True, stored=True)


@pytest.fixture(scope="module")
def unnamed(folder: Path) -> Bundle:
    return sensitive_bundle(folder / "unnamed.bundle", named=False, stored=True)


@pytest.fixture(scope="module")
def earlier(folder: Path) -> Bundle:
    """As earlier releases wrote them: probabilities of golden captures and nothing else."""
    return sensitive_bundle(folder / "earlier.bundle", named=False, stored=False)


@pytest.fixture
def options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    module = "tests.support.bfloat16:EmulatedBfloat16Engine"
    monkeypatch.setattr(registry, "ENGINES", {"emulated": module, "onnxruntime": registry.ENGINES["onnxruntime"]})
    monkeypatch.setattr(EmulatedBfloat16Engine, "opened", [])
    return EngineOptions("auto", "auto", folder / "cache")


def changed(bundle: Bundle, folder: Path, **update: Any) -> Bundle:
    """A copy whose manifest says something else."""
    copy = Path(shutil.copytree(bundle.path, folder))
    return write_manifest(copy, bundle.manifest.model_copy(update=update))


def test_emulated_bfloat16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).normal(0, 100, 10_000).astype(np.float32)
    values = np.append(values, np.float32([0.0, -0.0, 1.00390625, 1.01171875, 3e38]))
    wanted = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert rounded(values).tolist() == wanted.tolist()


# What auto takes


def test_with_emulated_bfloat16_a_precision_that_makes_captures_novel_is_refused_by_name_and_float32_taken(
    unnamed: Bundle, options: EngineOptions
) -> None:
    engine, proof = open_engine(unnamed, options)
    assert engine.precision == "float32"
    assert proof.hidden is not None
    assert (proof.hidden.captures, proof.hidden.novel_changed, proof.hidden.excluded_changed) == (240, 0, 0)
    with pytest.raises(EngineError, match=r"differ in novelty by more than 0\.1.*embedding moved.*PRECISION=float32"):
        open_engine(unnamed, replace(options, precision="bfloat16"))


def test_with_emulated_bfloat16_the_first_stage_in_float32_repairs_it(named: Bundle, options: EngineOptions) -> None:
    engine, proof = open_engine(named, options)
    assert (engine.name, engine.precision) == ("emulated", "bfloat16")
    assert proof.hidden is not None
    assert (proof.hidden.labels_changed, proof.hidden.novel_changed, proof.hidden.excluded_changed) == (0, 0, 0)
    assert proof.golden.novelty is not None
    assert proof.golden.novelty <= named.manifest.novelty_tolerance["bfloat16"]
    said = " ".join(proof_sentences(named.manifest, engine, proof))
    assert "8 of 8 golden captures keep their label" in said
    assert "240 hidden captures of validation: 0 have another label, 0 changed between novel and not novel" in said


def test_with_emulated_bfloat16_a_bundle_of_an_earlier_release_is_held_against_the_engine_in_float32(
    earlier: Bundle, options: EngineOptions
) -> None:
    with pytest.raises(EngineError, match="golden captures differ in novelty"):
        open_engine(earlier, replace(options, precision="bfloat16"))
    engine, proof = open_engine(earlier, options)
    assert engine.precision == "float32"
    assert (proof.golden.labels_changed, proof.golden.novelty, proof.hidden) == (0, None, None)


def test_with_emulated_bfloat16_what_is_refused_is_closed(unnamed: Bundle, options: EngineOptions) -> None:
    engine, _ = open_engine(unnamed, options)
    assert [(one.precision, one.closed) for one in EmulatedBfloat16Engine.opened] == [
        ("bfloat16", True), ("float32", True), ("float32", False)
    ]  # fmt: skip
    engine.close()
    assert EmulatedBfloat16Engine.opened[-1].closed


def test_with_emulated_bfloat16_novelty_near_the_border_is_the_exact_engines(
    named: Bundle, options: EngineOptions
) -> None:
    engine, _ = open_engine(named, options)
    assert isinstance(engine, CloseCalls)
    exact = ONNXRuntimeEngine(named, "float32", options)
    known = read_novelty(named)
    assert known is not None
    captures, _ = shaded(300, 8)
    both, alone = infer_all(engine, captures, 8), infer_all(exact, captures, 8)
    border = np.abs(known.of(alone.embedding) - 1) < named.manifest.novelty_tolerance["bfloat16"] / 2
    assert border.any()
    assert both.embedding[border] == pytest.approx(alone.embedding[border], abs=1e-6)
    assert ((known.of(both.embedding) > 1) == (known.of(alone.embedding) > 1)).all()


# What the bundle says


def test_hidden_captures_that_come_out_otherwise_are_counted_and_half_a_percent_is_let_through(
    named: Bundle, tmp_path: Path, options: EngineOptions
) -> None:
    engine = ONNXRuntimeEngine(named, "float32", options)
    with np.load(named.path / FILE) as stored:
        arrays = dict(stored)
    for flips, passes in ((1, True), (2, False)):
        excluded = arrays["excluded"].copy()
        excluded[:flips] = ~excluded[:flips]
        copy = Path(shutil.copytree(named.path, tmp_path / str(flips)))
        np.savez(copy / FILE, allow_pickle=False, **{**arrays, "excluded": excluded})
        wrong = write_manifest(copy, named.manifest)
        if passes:
            proof = prove(engine, wrong)
            assert proof.hidden is not None
            assert proof.hidden.excluded_changed == flips
        else:
            changed = r"2 of 240 hidden captures changed between counting and not counting \(at most 1\)"
            with pytest.raises(EngineError, match=changed):
                prove(engine, wrong)


def test_a_golden_capture_that_is_as_novel_as_before_and_a_map_that_is_the_same_are_asked_for(
    named: Bundle, tmp_path: Path, options: EngineOptions
) -> None:
    strict = {"novelty_tolerance": {"float32": -1.0}, "map_tolerance": {"float32": -1.0}}
    engine = ONNXRuntimeEngine(named, "float32", options)
    with pytest.raises(EngineError, match=r"8 of 8 golden captures differ in novelty.*an activation map 0\.0000"):
        prove(engine, changed(named, tmp_path / "strict.bundle", **strict))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_proof_that_cannot_be_read_is_named(named: Bundle, tmp_path: Path, content: bytes) -> None:
    copy = Path(shutil.copytree(named.path, tmp_path / "b.bundle"))
    (copy / FILE).write_bytes(content)
    with pytest.raises(BundleError, match=r"proof\.npz cannot be read .* export the bundle again"):
        read_hidden(write_manifest(copy, named.manifest))


def test_captures_of_another_size_than_the_networks_are_refused(named: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(named.path, tmp_path / "b.bundle"))
    hidden = open_hidden((copy / FILE).read_bytes(), named.manifest.image.size)
    write_hidden(copy / FILE, trainer_proof.as_jpeg(hidden.captures[:, :32, :32]), hidden.expected)
    with pytest.raises(BundleError, match="does not have 64 x 64 pixels"):
        read_hidden(write_manifest(copy, named.manifest))


def test_expectations_follow_the_reference(named: Bundle, tmp_path: Path) -> None:
    """`screen reference` takes another; what engines must reproduce is then decided by that one."""
    copy = Path(shutil.copytree(named.path, tmp_path / "b.bundle"))
    blocks = [
        {**block, "threshold": block["threshold"] / 10} for block in named.manifest.reference["novelty"]["blocks"]
    ]
    manifest = named.manifest.model_copy(update={"reference": {"novelty": {"blocks": blocks}}})
    trainer_proof.write_expectations(copy, manifest, shaded(30, 5)[0])
    renewed = write_manifest(copy, manifest)
    hidden = read_hidden(renewed)
    assert hidden is not None
    assert hidden.expected.excluded.all()
    assert len(hidden.captures) == 30
    golden = json.loads((copy / EXPECTED).read_text())["captures"]
    assert all({"novel"} <= {*one["marks"]} <= {"novel", "no_nucleated_cell"} and one["novelty"] > 1 for one in golden)
    assert prove(ONNXRuntimeEngine(renewed, "float32", EngineOptions("", "", tmp_path)), renewed).hidden is not None


# What the trainer stores


def test_hidden_captures_are_spread_over_labels_and_within_a_label_over_groups() -> None:
    rows = np.arange(100, 160)
    labels = ["rare" if row < 106 else "common" for row in rows]
    groups = [f"p{row % 3}" for row in rows]
    chosen = trainer_proof.spread(rows, labels, groups, 12, seed=4)
    assert len(set(chosen)) == 12
    assert sum(row < 106 for row in chosen) == 6
    for rare in (True, False):
        of_label = [row for row in chosen if (row < 106) == rare]
        assert [len({row % 3 for row in of_label[i : i + 3]}) for i in (0, 3)] == [3, 3]
    assert sorted(trainer_proof.spread(rows, labels, groups, 999, seed=4)) == rows.tolist()


def test_hidden_captures_take_three_megabytes_at_most() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 384, 384, 3), np.uint8)
    encoded = trainer_proof.as_jpeg(noise)
    assert 0 < len(encoded) < 60
    assert sum(map(len, encoded)) <= trainer_proof.MOST_BYTES


# Engines and archives


def test_openvino_takes_the_first_stage_from_its_own_model_in_float32(named: Bundle, tmp_path: Path) -> None:
    """On a processor without bfloat16 both models are float32; that they are put together rightly shows even so."""
    captures, _ = shaded(5, 6)
    fast = OpenVINOEngine(named, "bfloat16", EngineOptions("openvino", "bfloat16", tmp_path))
    exact = OpenVINOEngine(named, "float32", EngineOptions("openvino", "float32", tmp_path))
    wanted = infer(exact, captures)
    for rows in (1, 5):
        answers = infer(fast, captures[:rows])
        assert answers.embedding[:, :2] == pytest.approx(wanted.embedding[:rows, :2], abs=1e-3)
        assert answers.embedding == pytest.approx(wanted.embedding[:rows], abs=0.02)
    assert len(list((tmp_path / "openvino").glob("*-1-*.plan"))) == 3, "two models in bfloat16, one in float32"


def test_with_emulated_bfloat16_an_archive_is_compared_with_its_exclusions(
    unnamed: Bundle, tmp_path: Path, options: EngineOptions
) -> None:
    from PIL import Image

    captures, labels = shaded(48, 7)
    for number, (pixels, label) in enumerate(zip(captures, labels, strict=True)):
        folder = tmp_path / "archive" / f"P{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    (tmp_path / "archive" / "P0" / "cut.png").write_bytes(b"\x89PNG")
    fast, exact = (EmulatedBfloat16Engine(unnamed, one, options) for one in ("bfloat16", "float32"))
    (tmp_path / "archive" / "P0" / "._0.png").write_bytes(b"a resource fork")
    archive = walk_archive(tmp_path / "archive")
    found = compare(unnamed, fast, exact, archive)
    assert (found.captures, found.rejected, found.equal, found.cases) == (48, 1, 48, 4)
    assert found.novel[1] <= 3
    assert found.novel[0] > 24
    assert found.excluded_changed >= 24
    assert found.verdicts_changed > 0
    assert not found.good_enough
    assert f"{found.verdicts_changed} of 4 verdicts differ" in " ".join(agreement_sentences(found))
    same = compare(unnamed, exact, exact, archive)
    assert same.good_enough
    assert "0 of 4 verdicts differ" in " ".join(agreement_sentences(same))
