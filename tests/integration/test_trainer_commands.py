"""The trainer's commands on drawn discs with tiny networks: evaluate, compare, folds, audit, fetch, two processes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")

from contract.bundle import Bundle  # noqa: E402
from contract.errors import DataError, Unavailable, UsageError  # noqa: E402
from contract.imaging import decode  # noqa: E402
from tests.support.discs import RECIPE, draw_discs  # noqa: E402
from tests.support.pace import without_trial  # noqa: E402
from trainer import devices, estimate, fit, model  # noqa: E402
from trainer.commands.compare import compare  # noqa: E402
from trainer.commands.data import data  # noqa: E402
from trainer.commands.evaluate import evaluate  # noqa: E402
from trainer.commands.train import train  # noqa: E402
from worker.engines.base import EngineOptions, infer  # noqa: E402
from worker.engines.registry import open_engine  # noqa: E402

SHORT = RECIPE.replace("{size = 48, epochs = 1}, {size = 64, epochs = 2}", "{size = 64, epochs = 3}").replace(
    'learning_rate = "find"', "learning_rate = 1e-2"
)
QUICK = SHORT.replace("epochs = 3", "epochs = 1")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "short.toml").write_text(SHORT)
    (folder / "quick.toml").write_text(QUICK)
    two_inputs = QUICK.replace('"none"', '"none"\nsecond_input = "hsv"\nhead = "dense"\nhead_width = 16')
    (folder / "two-inputs.toml").write_text(two_inputs)
    return folder


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    return draw_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="module")
def bundle(discs, work) -> Bundle:
    result = invoke(work, train, discs, "--recipe", work / "short.toml", "--out", work / "b.bundle")
    assert result.exit_code == 0, result.output
    return Bundle.open(work / "b.bundle")


def invoke(work: Path, command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "--cache", str(work / "cache")], catch_exceptions=True)


def test_evaluate_on_the_test_split_gives_the_bundles_own_figures(bundle, discs, work):
    result = invoke(work, evaluate, bundle.path, discs, "--split", bundle.path / "split.csv", "--json")
    assert result.exit_code == 0, result.output
    found, own = json.loads(result.stdout), bundle.manifest.metrics["test"]
    assert found["data"]["captures"] == own["captures"]
    assert found["data"]["trained_on"] == 0
    for name in ("accuracy", "macro_auc", "micro_auc", "confusion", "per_patient", "per_site", "all_versus_benign"):
        assert found["metrics"][name] == own[name], name
    assert found["metrics"]["robustness"]["lines"] == own["robustness"]["lines"]
    assert set(own["per_site"]) <= {"north", "south"}


def test_evaluate_says_how_many_captures_the_bundle_has_seen(bundle, discs, work):
    out = work / "evaluation"
    result = invoke(work, evaluate, bundle.path, discs, "--out", out, "--audit-captures", 0)
    assert result.exit_code == 0, result.output
    counts = bundle.manifest.provenance["data"]
    seen = counts["train"]["captures"] + counts["validation"]["captures"]
    found = json.loads((out / "evaluation.json").read_text())
    assert found["data"]["trained_on"] == seen
    assert "robustness" not in found["metrics"]
    assert f"{seen} of these captures trained or tuned this bundle" in " ".join(result.stdout.split())
    page = (out / "report.html").read_text()
    assert "no\nexternal validation" in page
    assert "://" not in page
    assert (out / "figures" / "roc.png").stat().st_size > 1000


def test_evaluate_refuses_labels_that_the_bundle_does_not_know(bundle, discs, work, tmp_path):
    shutil.copytree(discs, tmp_path / "other")
    listed = tmp_path / "other" / "labels.csv"
    listed.write_text(listed.read_text().replace(",Pro,", ",Sickle,"))
    result = invoke(work, evaluate, bundle.path, tmp_path / "other")
    assert isinstance(result.exception, DataError)
    assert "'Sickle', which is not in the set; the labels are Benign, Early, Pre, Pro" in str(result.exception)


def test_evaluate_copes_with_data_of_one_label_only(bundle, discs, work, tmp_path):
    shutil.copytree(discs, tmp_path / "benign")
    with (discs / "labels.csv").open(newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[2] in ("label", "Benign")]
    with (tmp_path / "benign" / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    result = invoke(work, evaluate, bundle.path, tmp_path / "benign", "--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["metrics"]
    assert found["all_versus_benign"]["sensitivity"]["value"] is None
    assert found["macro_auc"] is None
    assert found["shortcuts"] == {}


def test_a_split_given_back_is_the_same(bundle, discs, work):
    for file in (bundle.path / "split.csv", bundle.path.with_name("b.bundle.split.csv")):
        out = work / "again.bundle"
        result = invoke(work, train, discs, "--recipe", work / "quick.toml", "--split", file, "--out", out, "--force")
        assert result.exit_code == 0, result.output
        again = Bundle.open(out)
        assert again.manifest.provenance["split"]["kind"] == "given"
        assert splits_of(again) == splits_of(bundle)


def splits_of(bundle: Bundle) -> dict[str, str]:
    with (bundle.path / "split.csv").open(newline="") as stream:
        return {row["sha256"]: row["split"] for row in csv.DictReader(stream)}


def test_a_random_split_leaks_and_the_report_says_so_in_red(discs, work, tmp_path):
    shutil.copytree(discs, tmp_path / "twice")  # every capture twice: half of the test is in training too
    listed = tmp_path / "twice" / "labels.csv"
    rows = listed.read_text().splitlines()
    for row in rows[1:]:
        path = row.split(",")[0]
        shutil.copy(discs / path, tmp_path / "twice" / path.replace("/", "/again-"))
    listed.write_text("\n".join([*rows, *(row.replace("/", "/again-", 1) for row in rows[1:])]) + "\n")
    arguments = ("--recipe", work / "quick.toml", "--split-rule", "random", "--out", tmp_path / "leaky")
    result = invoke(work, train, tmp_path / "twice", *arguments)
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(tmp_path / "leaky").manifest
    leaks, of = manifest.provenance["split"]["leaks"], manifest.metrics["test"]["captures"]
    assert leaks > of / 3
    assert f"This split leaks: {leaks} of {of} test captures" in " ".join(result.stderr.split())
    page = (tmp_path / "leaky" / "report.html").read_text()
    assert '<p class="notice">This split leaks.' in page
    assert f"{leaks} of {of} test captures have a near-duplicate in training" in page


def test_compare_trains_each_with_each_seed_on_one_split_and_goes_on_after_a_kill(discs, work, monkeypatch):
    out = work / "comparison"
    arguments = (
        discs,
        "--recipe",
        work / "quick.toml",
        "--recipe",
        work / "two-inputs.toml",
        "--seeds",
        2,
        "--out",
        out,
    )
    trained = []
    real = fit.fit

    def counted(config, data, folder, **more):
        trained.append((config.model.second_input, config.training.seed))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(config, data, folder, **more)

    monkeypatch.setattr("trainer.run.fit", counted)
    assert invoke(work, compare, *arguments).exit_code != 0
    monkeypatch.setattr("trainer.run.fit", real)
    result = invoke(work, compare, *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("is finished; kept") == 2
    found = json.loads(result.stdout)
    assert {row["name"] for row in found["summary"]} == {"quick", "two-inputs"}
    assert [row["seed"] for row in found["runs"]] == [0, 1, 0, 1]
    splits = [splits_of(Bundle.open(out / row["bundle"])) for row in found["runs"]]
    assert all(one == splits[0] for one in splits)
    accuracies = [row["accuracy"] for row in found["runs"] if row["name"] == "quick"]
    summary = next(row for row in found["summary"] if row["name"] == "quick")
    assert summary["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["accuracy"]["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert len(found["best_two"]["mcnemar"]) == 2
    assert (out / "figures" / "comparison.png").is_file()
    assert "McNemar" in (out / "report.html").read_text()
    mapless = Bundle.open(out / "two-inputs-seed0")
    assert mapless.manifest.outputs.cam is None
    assert "activation_on_cells" not in mapless.manifest.metrics["test"]
    assert "it has no exact activation map" in (mapless.path / "report.html").read_text()
    engine, _ = open_engine(
        mapless, EngineOptions("openvino", "float32", work / "engines")
    )  # proves the golden captures
    content, expected = mapless.golden()[0]
    found = infer(engine, decode(content, mapless.manifest.image).pixels[None])
    assert found.cam is None
    assert np.allclose(found.probabilities[0], expected, atol=1e-4)


def test_compare_keeps_what_is_of_another_recipe(bundle, discs, work):
    shutil.copytree(work / "b.bundle", work / "taken" / "quick-seed0")
    recipes = ("--recipe", work / "quick.toml", "--recipe", work / "two-inputs.toml")
    result = invoke(work, compare, discs, *recipes, "--seeds", 1, "--out", work / "taken")
    assert isinstance(result.exception, UsageError)
    assert "quick-seed0 is of another recipe, data or split" in str(result.exception)
    assert Bundle.open(work / "taken" / "quick-seed0").manifest.name == "tiny"


def test_minutes_fit_the_epochs_and_the_bundle_says_so(discs, work, tmp_path, monkeypatch):
    def measure(config, data, devices):  # such that two of the recipe's four epochs fit
        return estimate.Pace({(False, 48): 0.0, (False, 64): 40 / len(data.train)}, validation=0.0)

    monkeypatch.setattr(estimate, "trial", measure)
    arguments = (discs, "--recipe", work / "short.toml", "--out", tmp_path / "b")
    refused = invoke(work, train, *arguments[:3], "--epochs", 1, "--out", tmp_path / "b")
    assert isinstance(refused.exception, UsageError)
    result = invoke(work, train, *arguments, "--minutes", 1)
    assert result.exit_code == 0, result.output
    assert "2 epochs of" in result.stderr
    made = Bundle.open(tmp_path / "b").manifest.provenance
    assert [row["size"] for row in made["history"]] == [48, 64]
    assert made["adapted"] == ["To fit into 1 minutes, 2 of the recipe's 4 epochs are trained."]
    assert made["initial_weights"] == {"from": "none"}
    assert not (tmp_path / "b.checkpoint").exists()


def test_compare_wants_two(discs, work):
    result = invoke(work, compare, discs, "--recipe", work / "quick.toml", "--out", work / "one")
    assert isinstance(result.exception, UsageError)
    assert "at least two recipes" in str(result.exception)


def test_cross_validation_scores_every_capture_once(discs, work, tmp_path):
    arguments = ("--recipe", work / "quick.toml", "--cross-validate", 3, "--out", tmp_path / "cv")
    result = invoke(work, train, discs, *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "cv" / "cross-validation.json").read_text())
    assert found["pooled"]["captures"] == 160
    assert np.sum(found["pooled"]["confusion"]) == 160
    assert len(found["accuracy_by_fold"]) == 3
    assert found["accuracy_worst"] == min(found["accuracy_by_fold"])
    confusion = np.asarray(found["pooled"]["confusion"])
    crossed = confusion[0, 1:].sum() + confusion[1:, 0].sum()  # Benign is the first label
    assert found["all_or_benign_right"] == pytest.approx(1 - crossed / 160)
    tests = [
        {sha for sha, split in splits_of(Bundle.open(tmp_path / "cv" / f"fold-{number}")).items() if split == "test"}
        for number in (1, 2, 3)
    ]
    assert len(set.union(*tests)) == sum(map(len, tests)) == 160


def test_evaluate_cross_validates_the_bundles_own_recipe(bundle, discs, work, tmp_path):
    result = invoke(work, evaluate, bundle.path, discs, "--cross-validate", 2, "--out", tmp_path / "cv", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folds"] == 2
    assert Bundle.open(tmp_path / "cv" / "fold-2").manifest.name == bundle.manifest.name


def test_the_audit_finds_what_was_planted(discs, work, tmp_path):
    root = tmp_path / "planted"
    shutil.copytree(discs, root)
    with (root / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    shutil.copy(root / rows[0]["path"], root / "p00" / "copy.jpg")
    shutil.copy(root / rows[0]["path"], root / "p01" / "mixed-up.jpg")
    (root / "p02" / "broken.jpg").write_bytes(b"no image")
    extra = [("p00/copy.jpg", "p00", "Benign"), ("p01/mixed-up.jpg", "p01", "Early"), ("p02/broken.jpg", "p02", "Pre")]
    rows += [dict(zip(("path", "patient", "label"), one, strict=True)) for one in extra]
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "patient", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    result = invoke(work, data, "audit", root, "--json", "--html", tmp_path / "audit.html")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["captures"], found["patients"], found["unreadable"]["count"]) == (163, 16, 1)
    assert found["unreadable"]["first"][0]["path"] == "p02/broken.jpg"
    assert found["exact_duplicates"]["pairs"] == 2
    assert found["exact_duplicates"]["with_different_labels"] == 1
    assert found["exact_duplicates"]["of_different_patients"] == 1
    assert found["near_duplicates"]["captures"] >= 3
    assert found["sizes"] == [{"width": 128, "height": 96, "captures": 162}]
    assert any("have they been mixed up?" in sentence for sentence in found["warnings"])
    assert found["shortcuts"]["accuracy"]["colour, boosted trees"] > 0.8  # larger discs make darker captures
    page = (tmp_path / "audit.html").read_text()
    assert "p01/mixed-up.jpg" in page
    assert "data:image/png;base64," in page
    assert "://" not in page
    plain = invoke(work, data, "audit", root)
    assert "1 of 163 files cannot be decoded" in " ".join(plain.stdout.split())


def test_fetch_offline_says_so_in_one_sentence(work, tmp_path, monkeypatch):
    import kagglehub

    def offline(name: str) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(kagglehub, "dataset_download", offline)
    result = CliRunner().invoke(data, ["fetch", str(tmp_path / "kaggle")])
    assert isinstance(result.exception, Unavailable)
    assert "mehradaria/leukemia cannot be downloaded from Kaggle (ConnectionError)" in str(result.exception)
    assert not (tmp_path / "kaggle").exists()


def test_fetch_copies_the_folders_of_the_download(tmp_path, monkeypatch):
    import kagglehub

    (tmp_path / "hub" / "set" / "Original" / "Benign").mkdir(parents=True)
    (tmp_path / "hub" / "set" / "Segmented").mkdir()
    monkeypatch.setattr(kagglehub, "dataset_download", lambda name: str(tmp_path / "hub"))
    result = CliRunner().invoke(data, ["fetch", str(tmp_path / "kaggle")])
    assert result.stdout == f"{tmp_path / 'kaggle'}\n"
    assert (tmp_path / "kaggle" / "Original" / "Benign").is_dir()
    assert isinstance(CliRunner().invoke(data, ["fetch", str(tmp_path / "kaggle")]).exception, UsageError)


def test_two_processes_train_one_bundle(discs, work, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "producer.cli",
        "train", str(discs), "--recipe", str(work / "quick.toml"), "--out", str(tmp_path / "two.bundle"),
        "--cache", str(work / "cache"), "--devices", "2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two.bundle'}\n"
    history = Bundle.open(tmp_path / "two.bundle").manifest.provenance["history"]
    assert len(history) == 2
    assert np.isfinite([row["loss"] for row in history]).all()


def test_too_little_memory_on_a_fake_device_names_the_batch_that_fits(discs, work, tmp_path, monkeypatch):
    real = model.Network.forward

    def small_memory(self, x):
        if len(x) > 5 and self.training:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, x)

    monkeypatch.setattr(model.Network, "forward", small_memory)
    result = invoke(work, train, discs, "--recipe", work / "quick.toml", "--out", tmp_path / "b.bundle")
    assert isinstance(result.exception, devices.DeviceMemoryFull)
    assert "a step of 16 captures at 48 px; 4 would fit: set training.batch_size = 4" in str(result.exception)


def test_patience_ends_a_phase_that_gets_no_better(discs, work, tmp_path, monkeypatch):
    recipe = tmp_path / "patient.toml"
    recipe.write_text(SHORT.replace("epochs = 3", "epochs = 9").replace("ema_decay = 0.9", "patience = 2"))
    without_trial(monkeypatch)
    scores = iter([0.5, 0.6, 0.7, 0.2, 0.2, 0.2, 0.2])
    monkeypatch.setattr(
        fit, "score",
        lambda *_: {"validation_loss": 1.0, "validation_accuracy": 0.5, "validation_macro_f1": next(scores)},
    )  # fmt: skip
    result = invoke(work, train, discs, "--recipe", recipe, "--out", tmp_path / "b.bundle")
    assert result.exit_code == 0, result.output
    made = Bundle.open(tmp_path / "b.bundle").manifest.provenance
    assert [row["epoch"] for row in made["history"]] == [1, 2, 3, 4, 5]
    assert made["best_epoch"] == 3
