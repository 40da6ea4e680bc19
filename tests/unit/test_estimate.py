"""How long a training will take, by a pace that the tests give: nothing here depends on a clock."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from contract.errors import UsageError  # noqa: E402
from tests.support.recipes import STAGED_RECIPE  # noqa: E402
from trainer import estimate, progress  # noqa: E402
from trainer.batches import TrainingSet  # noqa: E402
from trainer.config import Config, load_config  # noqa: E402
from trainer.devices import Devices  # noqa: E402
from trainer.estimate import Amount, Pace  # noqa: E402
from trainer.fit import fit  # noqa: E402
from trainer.schedule import epochs_of, stages_of  # noqa: E402

STAGED = load_config(STAGED_RECIPE)
PACE = Pace({(True, 160): 0.01, (False, 160): 0.03, (False, 224): 0.06}, validation=0.02)
AMOUNT = Amount(train=2300, validation=490, test=470)


def some_data(train: int = 2300, validation: int = 490) -> TrainingSet:
    targets = np.arange(train + validation) % 4
    rows = np.arange(train + validation)
    return TrainingSet(np.zeros((1, 1, 1, 3), np.uint8), targets, rows[:train], rows[train:], identity="this training")


def planned(folder, *, minutes=None, pace=PACE, runs=1, config=STAGED, resume=True, data=None):
    calls = []

    def measure(asked: Config, *_: object) -> Pace:
        calls.append(asked.training.precision)
        return pace

    data = data or some_data()
    made = estimate.plan(config, data, 470, folder, minutes=minutes, runs=runs, resume=resume, measure=measure)
    return made, calls


def test_the_time_is_that_of_every_epoch_and_its_validation_counted_by_hand():
    seen = 71 * 32  # whole batches of 2,300 captures
    by_hand = seen * (1 * 0.01 + 5 * 0.03 + 5 * 0.06) + 11 * 490 * 0.02
    assert estimate.training_seconds(STAGED, PACE, AMOUNT) == pytest.approx(by_hand)


def test_the_learning_rate_finder_takes_time_too():
    thesis = load_config("thesis")
    given = thesis.changed(
        "training", phases=[phase.model_copy(update={"learning_rate": 1e-3}) for phase in thesis.training.phases]
    )
    pace = Pace({(True, 300): 0.1, (False, 300): 0.3}, 0.05)
    found = estimate.training_seconds(thesis, pace, AMOUNT) - estimate.training_seconds(given, pace, AMOUNT)
    assert found == pytest.approx(100 * 32 * (0.1 + 0.3))


def test_from_scratch_the_scratch_stages_are_counted():
    scratch = load_config("ours").changed("model", initial_weights="none")
    pace = Pace({(False, 160): 0.1, (False, 224): 0.2, (False, 300): 0.3}, 0.0)
    assert estimate.training_seconds(scratch, pace, AMOUNT) == pytest.approx(71 * 32 * (20 * 0.1 + 16 * 0.2 + 10 * 0.3))


def test_a_head_fitted_in_one_go_takes_the_features_of_the_captures():
    probe = load_config("probe")
    copies = probe.training.phases[0].copies
    assert estimate.training_seconds(probe, Pace({}, 0.02), AMOUNT) == pytest.approx(
        0.02 / 3 * ((1 + copies) * 2300 + 490)
    )


def test_the_time_is_said_before_training(tmp_path, capsys):
    made, _ = planned(tmp_path)
    assert made.config == STAGED
    assert made.notes == []
    said = capsys.readouterr().err
    minutes = (estimate.training_seconds(STAGED, PACE, AMOUNT) + estimate.export_seconds(STAGED, PACE, AMOUNT)) / 60
    assert f"about {minutes:.0f} min on CPU" in said or f"about {minutes:.0f} min on " in said
    assert "11 epochs of 2300 captures" in said


@pytest.mark.parametrize("minutes", [9, 12, 15, 20, 30, 1000])
def test_the_most_epochs_that_fit_are_taken(tmp_path, minutes):
    made, _ = planned(tmp_path, minutes=minutes)
    stages = stages_of(made.config)
    assert all(stage.epochs >= 1 for stage in stages)
    assert [stage.size for stage in stages] == [160, 160, 224]

    def needed(config):
        return estimate.training_seconds(config, PACE, AMOUNT) + estimate.export_seconds(config, PACE, AMOUNT)

    assert needed(made.config) <= minutes * 60
    if epochs_of(made.config) < epochs_of(STAGED):
        assert needed(estimate.of_length(STAGED, epochs_of(made.config) + 1)) > minutes * 60
        assert made.notes == [
            f"To fit into {minutes} minutes, {epochs_of(made.config)} of the recipe's 11 epochs are trained."
        ]
    else:
        assert made.config == STAGED
        assert made.notes == [f"The 11 epochs of the recipe fit into the {minutes} minutes that were given."]


def test_where_not_even_an_epoch_fits_what_would_is_said(tmp_path):
    with pytest.raises(UsageError) as caught:
        planned(tmp_path, minutes=5)
    told = str(caught.value)
    assert "5 min are too few for recipe staged here" in told
    assert "--minutes 6" in told
    assert "--size 192" in told
    assert not (tmp_path / estimate.FILE).exists()


def test_folds_share_the_time(tmp_path, capsys):
    alone, _ = planned(tmp_path / "one", minutes=12)
    made, _ = planned(tmp_path / "five", minutes=60, runs=5)
    assert made.config == alone.config
    assert "5 folds of" in capsys.readouterr().err


def test_a_killed_training_goes_on_as_planned_though_the_machine_is_slower_now(tmp_path):
    first, _ = planned(tmp_path, minutes=15)
    slow = Pace({key: 3 * seconds for key, seconds in PACE.training.items()}, PACE.validation)
    again, calls = planned(tmp_path, minutes=15, pace=slow)
    assert (again, calls) == (first, [])
    anew, calls = planned(tmp_path, minutes=20, pace=slow, resume=False)
    assert calls
    assert epochs_of(anew.config) < epochs_of(first.config)


def test_bfloat16_is_taken_only_where_the_processor_has_it_and_it_is_faster(tmp_path, monkeypatch):
    def pace_of(half: float):
        def measure(config: Config, *_: object) -> Pace:
            factor = half if config.training.precision == "bf16-mixed" else 1.0
            return Pace({key: factor * seconds for key, seconds in PACE.training.items()}, PACE.validation)

        return measure

    def precision(able: bool, half: float, config: Config = STAGED) -> str:
        monkeypatch.setattr(estimate, "computes_in_bfloat16", lambda: able)
        made = estimate.plan(config, some_data(), 470, tmp_path, resume=False, measure=pace_of(half))
        return made.config.training.precision

    assert precision(able=True, half=0.5) == "bf16-mixed"
    assert precision(able=True, half=1.2) == "auto"
    assert precision(able=False, half=0.5) == "auto"
    assert precision(able=True, half=0.5, config=STAGED.changed("training", precision="32-true")) == "32-true"


def test_several_devices_are_not_timed(tmp_path):
    several = Devices(devices=2, accelerator="cpu")
    assert estimate.plan(STAGED, some_data(), 470, tmp_path, devices=several).config == STAGED
    with pytest.raises(UsageError, match="--minutes times a trial on one device"):
        estimate.plan(STAGED, some_data(), 470, tmp_path, minutes=5, devices=several)


def tiny() -> tuple[Config, TrainingSet]:
    phases = [
        {"frozen": True, "stages": [{"size": 32, "epochs": 3}], "learning_rate": "find"},
        {"stages": [{"size": 32, "epochs": 2}, {"size": 64, "epochs": 4}]},
    ]
    config = STAGED.model_dump() | {"image": {"size": 64}}
    config["model"] |= {"architecture": "test_efficientnet", "initial_weights": "none", "drop_path": 0.0}
    config["training"] |= {"phases": phases, "batch_size": 4}
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    rows = np.arange(40)
    return Config.model_validate(config), TrainingSet(pixels, rows % 4, rows[:28], rows[28:], identity="tiny")


def test_the_trial_times_each_size_frozen_or_not_quietly_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate.tempfile, "tempdir", str(tmp_path))
    config, data = tiny()
    pace = estimate.trial(config, data, Devices(accelerator="cpu"))
    assert set(pace.training) == {(True, 32), (False, 32), (False, 64)}
    assert all(seconds > 0 for seconds in (*pace.training.values(), pace.validation))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
    progress.say("and speaks again")
    assert capsys.readouterr().err == "and speaks again\n"


def test_weights_are_the_same_with_a_trial_before(tmp_path):
    config, data = tiny()
    config = config.changed("training", phases=[{"stages": [{"size": 64, "epochs": 1}]}])
    devices = Devices(accelerator="cpu")
    plain = fit(config, data, tmp_path / "plain", devices=devices).network.state_dict()
    estimate.trial(config, data, devices)
    after = fit(config, data, tmp_path / "after", devices=devices).network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in plain.items())
