"""Recipes at another size or of another length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import SettingsError, UsageError
from tests.support.recipes import STAGED_RECIPE
from trainer import options
from trainer.config import Config, load_config, recipe_names
from trainer.schedule import at_size, epochs_of, of_length, stages_of

recipes = st.sampled_from(sorted(recipe_names())).map(load_config)


def trains(config: Config) -> bool:
    """Whether there is something to train from scratch: with nothing but a head fitted in one go there is not."""
    return all(phase.solver == "gradient" for phase in config.training.phases)


@given(recipes, st.integers(32, 1024), st.booleans())
def test_at_another_size_no_stage_is_larger_and_their_order_stays(config, size, scratch):
    if scratch and trains(config):
        config = config.changed("model", initial_weights="none")
    before, after = stages_of(config), stages_of(at_size(config, size))
    assert [stage.epochs for stage in after] == [stage.epochs for stage in before]
    assert after[-1].size == size
    assert all(32 <= stage.size <= size for stage in after)
    for one, two in zip(range(len(before) - 1), range(1, len(before)), strict=True):
        assert before[one].size > before[two].size or after[one].size <= after[two].size


@given(recipes, st.integers(1, 200), st.booleans())
def test_another_length_is_shared_among_all_stages(config, epochs, scratch):
    if scratch and trains(config):
        config = config.changed("model", initial_weights="none")
    stages = stages_of(config)
    if epochs < len(stages):
        with pytest.raises(UsageError, match=f"{len(stages)} stages"):
            of_length(config, epochs)
        return
    total = epochs_of(config)
    changed = of_length(config, epochs)
    assert epochs_of(changed) == epochs
    assert [stage.size for stage in stages_of(changed)] == [stage.size for stage in stages]
    for old, new in zip(passes_of(config), passes_of(changed), strict=True):
        assert new >= 1
        assert abs(new - epochs * old / total) < len(stages)


def passes_of(config: Config) -> list[int]:
    """Passes over the training captures, of each stage."""
    phases = config.resolved().training.phases
    return [
        phase.copies + 1 if phase.solver == "logistic" else stage.epochs for phase in phases for stage in phase.stages
    ]


@given(recipes)
def test_the_same_size_and_length_change_nothing(config):
    assert at_size(config, config.image.size) == config
    assert of_length(config, epochs_of(config)) == config


def test_the_command_line_changes_network_size_and_epochs():
    config = options.configured(str(STAGED_RECIPE), architecture="tf_efficientnet_lite0", size=160, epochs=5)
    assert (config.model.architecture, config.image.size) == ("tf_efficientnet_lite0", 160)
    assert [(stage.size, stage.epochs) for stage in stages_of(config)] == [(128, 1), (128, 2), (160, 2)]
    with pytest.raises(UsageError, match="staged has 3 stages"):
        options.configured(str(STAGED_RECIPE), epochs=2)
    scratch = options.configured("ours", initial_weights="none", epochs=3)
    assert [stage.epochs for stage in stages_of(scratch)] == [1, 1, 1]


def test_fast_begins_with_the_package_and_the_head():
    fast = load_config("fast")
    assert (fast.model.architecture, fast.model.initial_weights) == ("tf_efficientnet_lite2", "package")
    assert [(phase.solver, phase.copies) for phase in fast.training.phases] == [("logistic", 3)]
    assert options.configured("fast", epochs=2).training.phases[0].copies == 1
    assert fast.model.stages == load_config("probe").model.stages == 4
    assert fast.image.size == 224


def test_a_size_that_no_image_has_is_refused():
    with pytest.raises(SettingsError):
        load_config("fast").changed("image", size=16)
