"""train -> export -> open -> run, on drawn discs, with timm's smallest network, on the CPU."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from contract.bundle import GOLDEN_TOLERANCE, HALF_MODEL, Bundle  # noqa: E402
from contract.errors import ExportError, SettingsError, UsageError  # noqa: E402
from contract.imaging import decode  # noqa: E402
from contract.novelty import read_novelty  # noqa: E402
from contract.proof import golden_expected, read_hidden  # noqa: E402
from tests.support.discs import RECIPE, draw_discs  # noqa: E402
from tests.support.pace import without_trial  # noqa: E402
from trainer import checkpoint, export, fit  # noqa: E402
from trainer.commands.train import train  # noqa: E402
from trainer.config import load_config  # noqa: E402
from trainer.graph import GraphRunner  # noqa: E402
from worker.engines import plans  # noqa: E402
from worker.engines.base import EngineOptions, golden_batch  # noqa: E402
from worker.engines.onnxruntime import ONNXRuntimeEngine  # noqa: E402
from worker.engines.proving import prove  # noqa: E402


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    return draw_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(RECIPE.replace("half_graph = false", "half_graph = true"))
    return file


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


def run(discs: Path, out: Path, recipe: Path, work: Path, *more: str):
    arguments = [str(discs), "--out", str(out), "--recipe", str(recipe), "--cache", str(work / "cache"), *more]
    return CliRunner().invoke(train, arguments, catch_exceptions=True)


@pytest.fixture(scope="module")
def bundle(discs, recipe, work) -> Bundle:
    result = run(discs, work / "tiny.bundle", recipe, work, "--checkpoint", str(work / "whole"))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{work / 'tiny.bundle'}\n"
    return Bundle.open(work / "tiny.bundle")


def test_the_bundle_is_complete(bundle):
    manifest = bundle.manifest
    files = set(manifest.files)
    assert {
        "model.onnx",
        "model.half.onnx",
        "model.safetensors",
        "config.toml",
        "split.csv",
        "report.html",
        "reference.npz",
    } <= files
    figures = ("classes", "samples", "augmented", "finder", "curves", "roc", "confusion", "reliability", "cases",
               "predictions", "worst", "robustness")  # fmt: skip
    assert {f"figures/{name}.png" for name in figures} <= files
    assert {"golden/expected.json", "golden/expected.npz", "proof.npz", "golden/000.jpg", "golden/005.jpg"} <= files
    assert manifest.notice == "knows only discs"
    assert load_config(bundle.path / "config.toml").model_dump(mode="json") == manifest.provenance["config"]
    assert len(manifest.provenance["history"]) == 4
    assert manifest.metrics["test"]["captures"] == manifest.provenance["data"]["test"]["captures"]
    assert manifest.metrics["test"]["per_patient"]["patients"] == manifest.provenance["data"]["test"]["patients"]
    report = (bundle.path / "report.html").read_text()
    assert "knows only discs" in report
    assert "for review" in report
    assert "://" not in report
    assert report.count("data:image/png;base64,") == len(figures)
    left = sorted(entry.name for entry in bundle.path.parent.iterdir())
    assert left == ["cache", "tiny.bundle", "tiny.bundle.split.csv", "whole"]


def test_the_graph_does_what_the_contract_says(bundle):
    session = onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), providers=["CPUExecutionProvider"])
    names = bundle.manifest.outputs
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == (names.input, "tensor(uint8)", [64, 64, 3])
    outputs = {names.probabilities, names.cam, names.embedding, names.first_stage}
    assert {one.name for one in session.get_outputs()} == outputs
    golden = bundle.golden()
    assert len(golden) == 6
    batch = np.stack([decode(content, bundle.manifest.image).pixels for content, _ in golden])
    for count in (1, 6):
        probabilities, cam, _ = session.run([names.probabilities, names.cam, names.embedding],
                                            {names.input: batch[:count]})  # fmt: skip
        assert np.allclose(probabilities, [expected for _, expected in golden[:count]], atol=1e-5)
        logits = cam.mean(axis=(2, 3)) / bundle.manifest.calibration.temperature
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert np.allclose(softmax, probabilities, atol=1e-5)


def test_half_precision_halves_the_file(bundle):
    from onnx import TensorProto, load

    kinds = {t.data_type for t in load(bundle.path / "model.onnx").graph.initializer if np.prod(t.dims) > 1024}
    assert kinds == {TensorProto.FLOAT16}
    assert (bundle.path / "model.onnx").stat().st_size < 0.7 * (bundle.path / "model.safetensors").stat().st_size


def test_the_half_graph_computes_in_half_precision_and_answers_the_same(bundle, tmp_path):
    captures, expected = golden_batch(bundle)
    found = GraphRunner(bundle.path / HALF_MODEL, bundle.manifest.outputs).probabilities(captures)
    difference = np.abs(found - expected).max()
    assert 0 < difference <= bundle.manifest.golden_tolerance["float16"]
    asked = plans.summary(bundle, "float16")
    exact = asked.layers["CONVOLUTION"]["FLOAT"]
    assert exact == 1 + first_stage_convolutions(bundle), "all but the first stage's, and the head's activation map"
    assert asked.layers["CONVOLUTION"]["HALF"] > exact
    assert asked.inputs == ["captures UINT8 [-1, 64, 64, 3]"]
    assert [name.split()[1] for name in asked.outputs] == ["FLOAT"] * 4
    plan, _ = plans.obtain(bundle, plans.plan_key(bundle, "float16", "sm86", 4), tmp_path)
    assert len(plan) > (bundle.path / HALF_MODEL).stat().st_size / 2


def first_stage_convolutions(bundle):
    """Convolutions on the way to the graph's output `first_stage`."""
    from onnx import load

    graph = load(bundle.path / "model.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    waiting, seen = [bundle.manifest.outputs.first_stage], set()
    while waiting:
        name = waiting.pop()
        if name in makers and name not in seen:
            seen.add(name)
            waiting.extend(makers[name].input)
    return sum(makers[name].op_type == "Conv" for name in seen)


def test_what_engines_must_reproduce_is_what_the_float32_graph_decides(bundle):
    hidden, known = read_hidden(bundle), read_novelty(bundle)
    assert len(hidden.captures) == bundle.manifest.provenance["data"]["validation"]["captures"]
    answers = GraphRunner(bundle.path / "model.onnx", bundle.manifest.outputs).predict(hidden.captures)
    assert np.allclose(answers.probabilities, hidden.expected.probabilities, atol=1e-5)
    assert np.allclose(known.of(answers.embedding), hidden.expected.novelty, rtol=1e-4)
    golden = golden_expected(bundle)
    assert golden.embedding.shape == (6, answers.embedding.shape[1])
    assert golden.cam.shape == (6, *answers.cam.shape[1:])
    proof = prove(ONNXRuntimeEngine(bundle, "float32", EngineOptions("onnxruntime", "float32", bundle.path)), bundle)
    assert proof.golden.labels_changed == proof.hidden.excluded_changed == proof.hidden.novel_changed == 0
    assert proof.hidden.novelty < 1e-3


def test_a_network_that_half_precision_cannot_hold_is_not_exported_with_a_half_graph(
    bundle, discs, recipe, work, tmp_path, monkeypatch
):
    monkeypatch.setitem(GOLDEN_TOLERANCE, "float16", -1.0)
    result = run(discs, tmp_path / "b.bundle", recipe, work, "--checkpoint", str(work / "whole"))
    assert result.exit_code == 1
    assert "half_graph = false" in str(result.exception)
    assert not (tmp_path / "b.bundle").exists()


def test_no_patient_is_in_two_splits(bundle):
    with bundle.path.with_name("tiny.bundle.split.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 160
    held = {(row["patient"], row["split"]) for row in rows if row["split"] != "left_out"}
    assert len(held) == len({patient for patient, _ in held})
    assert "p00" not in (bundle.path / "split.csv").read_text()  # a bundle travels, and names nobody


def test_a_killed_run_goes_on_to_the_same_weights(bundle, discs, recipe, work, monkeypatch):
    saves = []

    def save_and_die(folder, state):
        checkpoint_save(folder, state)
        saves.append(state.epochs_done)
        if state.epochs_done == 2:
            raise KeyboardInterrupt

    without_trial(monkeypatch)
    checkpoint_save = checkpoint.save
    monkeypatch.setattr(fit.checkpoint, "save", save_and_die)
    arguments = (discs, work / "again" / "tiny.bundle", recipe, work, "--checkpoint", str(work / "killed"))
    assert run(*arguments).exit_code != 0
    assert not (work / "again").exists()
    monkeypatch.setattr(fit.checkpoint, "save", checkpoint_save)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert saves == [1, 2]
    assert "continuing after epoch 2 of 4" in result.stderr
    again = Bundle.open(work / "again" / "tiny.bundle")
    for file in ("model.onnx", "model.safetensors", "golden/expected.json", "split.csv", "config.toml"):
        assert again.manifest.files[file] == bundle.manifest.files[file], file
    whole, killed = (torch.load(work / name / "last.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(whole["model"][key], killed["model"][key]) for key in whole["model"])


def test_export_alone_may_change_under_a_checkpoint_but_training_may_not(bundle, discs, recipe, work, tmp_path):
    full = tmp_path / "full.toml"
    full.write_text(RECIPE.replace('"half"', '"full"\nweights = false'))
    result = run(discs, tmp_path / "full.bundle", full, work, "--checkpoint", str(work / "whole"))
    assert result.exit_code == 0, result.output
    assert "model.safetensors" not in Bundle.open(tmp_path / "full.bundle").manifest.files
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("learning_rate = 5e-3", "learning_rate = 4e-3"))
    result = run(discs, tmp_path / "other.bundle", other, work, "--checkpoint", str(work / "whole"))
    assert isinstance(result.exception, SettingsError)
    assert "--no-resume" in str(result.exception)


def test_an_existing_bundle_is_kept_without_force(bundle, discs, recipe, work):
    result = run(discs, bundle.path, recipe, work)
    assert isinstance(result.exception, UsageError)
    assert "--force" in str(result.exception)
    result = run(discs, bundle.path, recipe, work, "--checkpoint", str(work / "whole"), "--force")
    assert result.exit_code == 0, result.output
    assert Bundle.open(bundle.path).manifest.files["model.onnx"] == bundle.manifest.files["model.onnx"]


def test_a_graph_that_disagrees_is_not_exported(bundle, discs, recipe, work, tmp_path, monkeypatch):
    real = export.export_graph

    def tampered(exportable, *arguments, **named):
        with torch.no_grad():
            exportable.network.head.classifier.bias[0] += 0.01
        real(exportable, *arguments, **named)
        with torch.no_grad():
            exportable.network.head.classifier.bias[0] -= 0.01

    monkeypatch.setattr(export, "export_graph", tampered)
    result = run(discs, tmp_path / "bad.bundle", recipe, work, "--checkpoint", str(work / "whole"))
    assert isinstance(result.exception, ExportError)
    assert "differ by" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(bundle, discs, recipe, work, tmp_path, monkeypatch):
    without_trial(monkeypatch)
    real = fit.F.cross_entropy
    calls = []

    def poisoned(*arguments, **named):
        calls.append(1)
        return real(*arguments, **named) * (float("nan") if len(calls) > 9 else 1.0)

    monkeypatch.setattr(fit.F, "cross_entropy", poisoned)
    result = run(discs, tmp_path / "nan.bundle", recipe, work, "--checkpoint", str(tmp_path / "nan"))
    assert isinstance(result.exception, fit.TrainingStopped)
    assert "epoch 2" in str(result.exception)
    assert "lower learning_rate in [[training.phases]]" in str(result.exception)
    saved = torch.load(tmp_path / "nan" / "last.pt", weights_only=True)
    assert saved["epochs_done"] == 1
    assert all(torch.isfinite(value).all() for value in saved["best"].values())


def test_folders_without_patients(discs, recipe, work, tmp_path):
    with (discs / "labels.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            file = tmp_path / "data" / row["label"] / row["path"].replace("/", "-")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes((discs / row["path"]).read_bytes())
    short = tmp_path / "short.toml"
    short.write_text(RECIPE.replace("{size = 48, epochs = 1}, {size = 64, epochs = 2}", "{size = 64, epochs = 1}"))
    result = run(tmp_path / "data", tmp_path / "b.bundle", short, work)
    assert result.exit_code == 0, result.output
    assert "patients are unknown" in result.stderr
    manifest = Bundle.open(tmp_path / "b.bundle").manifest
    assert "per_patient" not in manifest.metrics["test"]
    assert manifest.metrics["test"]["per_block"]["patients"] >= 4
    assert manifest.provenance["case_thresholds"]["unit"] == "block"
    assert "Patients are unknown. A block is" in (tmp_path / "b.bundle" / "report.html").read_text()
    assert not (tmp_path / "b.bundle.checkpoint").exists()
    json.dumps(manifest.model_dump(mode="json"), allow_nan=False)
