"""Settings: read from the environment, every fault named at once, nothing unknown taken in silence."""

from pathlib import Path

import pytest

from contract.errors import ExitCode, SettingsError
from contract.settings import PREFIX, Settings, get_settings, read_settings


def fault(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.exit_code is ExitCode.USAGE
    assert not caught.value.retryable
    return str(caught.value)


def test_without_any_variable_the_defaults_serve_one_machine() -> None:
    settings = read_settings()
    assert settings.database_url == "sqlite:///screening.db"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.bundle is None
    assert (settings.chunk_size, settings.batch_size, settings.decoders) == (256, None, None)
    assert (settings.lease_seconds, settings.max_attempts) == (60, 3)
    assert (settings.engine, settings.precision) == ("auto", "auto")


def test_variables_are_read_and_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREEN_DATABASE_URL", "postgresql://db/screening")
    monkeypatch.setenv("SCREEN_BUNDLE", "/bundles/b3.bundle")
    monkeypatch.setenv("SCREEN_CHUNK_SIZE", "64")
    monkeypatch.setenv("SCREEN_SWEEP_SECONDS", "0.5")
    settings = read_settings()
    assert settings.database_url == "postgresql://db/screening"
    assert settings.bundle == Path("/bundles/b3.bundle")
    assert settings.chunk_size == 64
    assert settings.sweep_seconds == 0.5


def test_an_unknown_variable_of_our_prefix_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SCREEN_DATABASE is not a setting" in fault(monkeypatch, SCREEN_DATABASE="sqlite:///x.db")


def test_all_faults_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = fault(
        monkeypatch,
        SCREEN_CHUNKSIZE="5",
        SCREEN_REDIS="redis://x",
        SCREEN_CHUNK_SIZE="many",
        SCREEN_BATCH_SIZE="0",
        SCREEN_PRECISION="int8",
    )
    for name in ("SCREEN_CHUNKSIZE", "SCREEN_REDIS ", "SCREEN_CHUNK_SIZE:", "SCREEN_BATCH_SIZE:", "SCREEN_PRECISION:"):
        assert name in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHUNK_SIZE", "0"),
        ("CHUNK_SIZE", "4097"),
        ("CHUNK_SIZE", "2.5"),
        ("LEASE_SECONDS", "2"),
        ("MAX_ATTEMPTS", "0"),
        ("DECODERS", "0"),
        ("BATCH_SIZE", "-1"),
        ("SWEEP_SECONDS", "0"),
        ("REPUBLISH_SECONDS", "soon"),
        ("ENGINE", "torch"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_value_out_of_its_range_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert fault(monkeypatch, **{PREFIX + name: value}).startswith(f"{PREFIX}{name}: ")


def test_where_the_tests_find_real_captures_is_no_setting_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREEN_REAL_CAPTURES", "/captures")
    assert read_settings() == Settings()


def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREENDIR", "/run/screen")  # GNU screen's
    assert read_settings() == Settings()


def test_settings_cannot_be_changed_and_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_settings()
    monkeypatch.setenv("SCREEN_CHUNK_SIZE", "7")
    assert get_settings() is first
    assert read_settings().chunk_size == 7
    with pytest.raises(ValueError, match="frozen"):
        first.chunk_size = 9  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("site", ["", "a b", "north/1", "-north", "n:1", "x" * 33, "m\xfcnchen"])
def test_a_site_that_no_identifier_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    assert "SCREEN_SITE" in fault(monkeypatch, SCREEN_SITE=site)


def test_a_site_is_optional_and_a_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().site is None
    monkeypatch.setenv("SCREEN_SITE", "north-1.lab")
    assert read_settings().site == "north-1.lab"
