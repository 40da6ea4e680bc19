"""The recipe files: what they may hold, and how they fail."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import trainer
from contract.errors import SettingsError, UsageError
from docs.keys import TABLES
from tests.support.commands import REPOSITORY
from trainer import options
from trainer.commands.train import train
from trainer.config import Config, load_config, recipe_names, to_toml

MINIMAL = """name = "x"
[image]
size = 64
[training]
batch_size = 8
[[training.phases]]
stages = [{size = 64, epochs = 1}]
"""


def recipe(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_survive_being_written(name):
    config = load_config(name)
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config


def test_the_demo_recipe_says_that_it_knows_only_drawings():
    config = load_config("demo")
    assert config.notice is not None
    assert config.notice.startswith("This bundle knows only drawings")
    assert (config.model.initial_weights, config.export.precision, config.export.weights) == ("package", "half", False)


def test_toml_keeps_awkward_strings(tmp_path):
    config = load_config(recipe(tmp_path, MINIMAL)).model_copy(update={"notice": 'a "quoted" \\ line\nand ü'})
    assert tomllib.loads(to_toml(config))["notice"] == config.notice


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (MINIMAL.replace("batch_size", "batchsize"), "training.batchsize: unknown key"),
        (MINIMAL + "frozn = true\n", "training.phases.0.frozn: unknown key"),
        ("colour = 1\n" + MINIMAL, "colour: unknown key"),
        (MINIMAL.replace("= 8", "= 0"), "training.batch_size"),
        (MINIMAL + 'learning_rate = "guess"\n', "training.phases.0.learning_rate"),
        (MINIMAL + "[augment]\nmixup = 0.6\ncutmix = 0.6\n", "must not exceed 1 together"),
        (MINIMAL.replace("size = 64, epochs", "size = 48, epochs"), "last stage's size must be image.size"),
        (MINIMAL.replace("stages = [", "stages = [{size = 96, epochs = 1}, "), "no stage may be larger"),
        (MINIMAL + '[data]\nbenign_label = "Other"\n', "benign_label 'Other'"),
        (MINIMAL + '[data]\nlabels = ["A", "A"]\nbenign_label = "A"\n', "labels repeat"),
        ("name = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, named):
    with pytest.raises(SettingsError) as caught:
        load_config(recipe(tmp_path, text))
    assert named in str(caught.value)


@pytest.mark.parametrize("bundle", sorted((REPOSITORY / "bundles").glob("*.bundle")), ids=lambda folder: folder.name)
def test_the_configuration_in_a_bundle_can_be_trained_again(bundle):
    config = load_config(bundle / "config.toml")
    recipe = load_config("demo")
    assert config.training.phases == recipe.training.phases
    assert config.training.batch_size == recipe.training.batch_size
    assert (config.case.min_captures, config.image) == (recipe.case.min_captures, recipe.image)
    assert tomllib.loads(to_toml(config))["version"] == 2


def test_a_configuration_of_version_1_can_be_trained_again():
    """It is what an earlier release wrote into its demo bundle."""
    config = load_config(REPOSITORY / "tests" / "support" / "config-version-1.toml")
    (phase,) = config.training.phases
    assert [(stage.size, stage.epochs) for stage in phase.stages] == [(96, 3), (128, 1)]
    assert (config.model.architecture, config.image.size, config.training.batch_size) == ("efficientnet_b3", 128, 32)
    assert tomllib.loads(to_toml(config))["version"] == 2


def test_a_configuration_of_a_newer_release_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="version 3 of the keys is newer"):
        load_config(recipe(tmp_path, f"version = 3\n{MINIMAL}"))


def test_no_such_recipe_lists_those_there_are():
    with pytest.raises(SettingsError, match=r"b3-hsv, cell, demo, fast, ours, probe, reference, thesis"):
        load_config("no-such-recipe")


KEYS = {name.strip("`[]"): set(model.model_fields) for name, model in TABLES.items()}
NAMED_KEY = re.compile(r"\b(model|image|data|training|augment|case|export)\.([a-z_]+)\b(?!\.)")
NO_KEYS = {"onnx", "safetensors", "md", "state_dict"}


def _messages():
    """Of the trainer's sources, every text that is no docstring, and the place where it stands."""
    for file in sorted(Path(trainer.__file__).parent.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield f"{file.name}:{node.lineno}", node.value


def test_messages_name_keys_that_exist():
    named = [(place, *key) for place, text in _messages() for key in NAMED_KEY.findall(text) if key[1] not in NO_KEYS]
    assert len(named) > 15
    assert [found for found in named if found[2] not in KEYS[found[1]]] == []


def test_help_needs_no_torch():
    code = (
        "import sys; import trainer.commands.train, trainer.commands.data, trainer.synth; "
        "assert not {'torch', 'timm', 'lightning', 'sklearn', 'tomli_w'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "labels.csv" in CliRunner().invoke(train, ["--help"]).output


def test_without_the_train_extra_the_next_step_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(options, "NEEDED", ("no_such_module",))
    result = CliRunner().invoke(train, [str(tmp_path), "--out", str(tmp_path / "b")])
    assert isinstance(result.exception, UsageError)
    assert "pip install '.[train]' in the repository" in str(result.exception)


def test_without_initial_weights_nothing_is_frozen_or_slowed_down():
    thesis = load_config("thesis")
    assert [phase.frozen for phase in thesis.training.phases] == [True, False]
    assert thesis.resolved() is thesis
    scratch = thesis.changed("model", initial_weights="none").resolved()
    assert not any(phase.frozen for phase in scratch.training.phases)
    assert {phase.discriminative for phase in scratch.training.phases} == {1.0}
    assert [phase.stages for phase in scratch.training.phases] == [phase.stages for phase in thesis.training.phases]
    ours = load_config("ours").changed("model", initial_weights="none").resolved()
    assert sum(phase.epochs for phase in ours.training.phases) > sum(
        p.epochs for p in load_config("ours").training.phases
    )
    assert ours.resolved() == ours


def test_the_recipes_are_what_the_papers_say():
    thesis, reference, ours, hsv = (load_config(name) for name in ("thesis", "reference", "ours", "b3-hsv"))
    assert sum(phase.epochs for phase in thesis.training.phases) == 10
    assert {phase.learning_rate for phase in thesis.training.phases} == {"find"}
    assert (thesis.data.split, thesis.data.test, thesis.training.optimizer) == ("random", 0.2, "adamw")
    assert (reference.model.architecture, reference.model.second_input, reference.model.head) == (
        "densenet201", "hsv", "dense",
    )  # fmt: skip
    assert (reference.image.size, reference.data.validation, reference.data.test) == (224, 0.16, 0.2)
    assert (reference.training.optimizer, reference.training.weight_decay) == ("adam", 0.001)
    assert {phase.schedule for phase in reference.training.phases} == {"cosine"}
    assert (reference.model.dropout, reference.augment.rotation, reference.augment.jpeg) == (0.2, 20.0, 1.0)
    assert (ours.model.architecture, ours.image.size, ours.data.split) == ("efficientnet_b3", 300, "grouped")
    assert (hsv.model.architecture, hsv.model.second_input) == ("efficientnet_b3", "hsv")


def test_the_command_line_overrides_the_recipe_and_is_checked():
    config = options.configured("ours", seed=7, initial_weights="none", split_rule="blocked", labels="x, y",
                                benign_label="x", batch_size=4)  # fmt: skip
    assert (config.training.seed, config.training.batch_size, config.model.initial_weights) == (7, 4, "none")
    assert (config.data.split, config.data.labels, config.data.benign_label) == ("blocked", ["x", "y"], "x")
    with pytest.raises(SettingsError, match="benign_label 'Benign' is not among"):
        options.configured("ours", labels="x,y")
