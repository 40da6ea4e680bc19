"""Two folders that look the same: submit says so, names both, or only counts them where names are hidden."""

from pathlib import Path

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from tests.support.archives import write_archive
from tests.support.commands import Environment

CYRILLIC = "Ann\N{CYRILLIC SMALL LETTER A}"


@pytest.fixture
def commands(tmp_path: Path) -> Environment:
    made = Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "redis://127.0.0.1:1/0")
    assert made.screen("db", "upgrade").code == ExitCode.OK
    return made


def test_submit_names_them_and_spells_what_cannot_be_told_apart(
    commands: Environment, tmp_path: Path, bundle: Bundle
) -> None:
    archive = write_archive(tmp_path / "archive", dict.fromkeys(("Anna", CYRILLIC, "Meier", "Meier ", "Z"), "Pro"), 1)
    said = commands.screen("submit", archive, "--bundle", bundle.path, "--dry-run")
    assert said.code == ExitCode.OK, "nothing is refused for it"
    assert "folders with names that look the same (folders 4, groups 2): " in said.err
    assert f"Anna = {CYRILLIC} (Ann\\u0430)" in said.err
    assert "Meier = Meier  (`Meier `)" in said.err
    groups = commands.screen("submit", archive, "--bundle", bundle.path, "--dry-run", "--json").json["look_alikes"]
    assert groups == [["Anna", CYRILLIC], ["Meier", "Meier "]]


def test_where_names_are_hidden_it_only_counts_them(commands: Environment, tmp_path: Path, bundle: Bundle) -> None:
    archive = write_archive(tmp_path / "archive", dict.fromkeys(("Meier", "meier"), "Pro"), 1)
    key = tmp_path / "key"
    key.write_text("k" * 40)
    key.chmod(0o600)
    words = ("submit", archive, "--bundle", bundle.path, "--dry-run", "--pseudonymize", "--json")
    said = commands.screen(*words, SCREEN_PSEUDONYM_KEY_FILE=str(key))
    assert "folders with names that look the same (folders 2, groups 1). Is each group" in said.err
    assert "meier" not in (said.out + said.err).lower().replace(str(archive), "")


def test_names_that_look_different_are_not_named(commands: Environment, tmp_path: Path, bundle: Bundle) -> None:
    archive = write_archive(tmp_path / "archive", dict.fromkeys(("007", "7", "Mai", "Mal"), "Pro"), 1)
    assert "look the same" not in commands.screen("submit", archive, "--bundle", bundle.path, "--dry-run").err
