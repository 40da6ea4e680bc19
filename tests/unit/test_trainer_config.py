"""The recipe files: what they may hold, and how they fail."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from contract.errors import SettingsError, UsageError
from trainer import command
from trainer.config import Config, load_config, recipe_names, to_toml

MINIMAL = 'name = "x"\n[image]\nsize = 64\n[training]\nstages = [{size = 64, epochs = 1}]\n'


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
    assert (config.model.initial_weights, config.export.precision, config.export.weights) == ("none", "half", False)


def test_toml_keeps_awkward_strings(tmp_path):
    config = load_config(recipe(tmp_path, MINIMAL)).model_copy(update={"notice": 'a "quoted" \\ line\nand ü'})
    assert tomllib.loads(to_toml(config))["notice"] == config.notice


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (MINIMAL + "batchsize = 3\n", "training.batchsize: unknown key"),
        ("colour = 1\n" + MINIMAL, "colour: unknown key"),
        (MINIMAL + "batch_size = 0\n", "training.batch_size"),
        (MINIMAL.replace("size = 64, epochs", "size = 48, epochs"), "last stage's size must be image.size"),
        (MINIMAL.replace("stages = [", "stages = [{size = 96, epochs = 1}, "), "no stage may be larger"),
        (MINIMAL + '[data]\nbenign_label = "Other"\n', "benign_label 'Other'"),
        (MINIMAL + '[data]\nlabels = ["A", "A"]\nbenign_label = "A"\n', "labels repeat"),
        ("name = ", "is no TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, named):
    with pytest.raises(SettingsError) as caught:
        load_config(recipe(tmp_path, text))
    assert named in str(caught.value)


def test_no_such_recipe_lists_those_there_are():
    with pytest.raises(SettingsError, match=r"b3, demo"):
        load_config("no-such-recipe")


def test_help_needs_no_torch():
    code = (
        "import sys; import trainer.command, trainer.synth; "
        "assert not {'torch', 'timm', 'lightning', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "labels.csv" in CliRunner().invoke(command.train, ["--help"]).output


def test_without_the_train_extra_the_next_step_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "NEEDED", ("no_such_module",))
    result = CliRunner().invoke(command.train, [str(tmp_path), "--out", str(tmp_path / "b")])
    assert isinstance(result.exception, UsageError)
    assert "pip install '.[train]' in the repository" in str(result.exception)
