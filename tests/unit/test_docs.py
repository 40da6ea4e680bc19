"""The documentation says what the code does: every command, option, setting, code and column, and no other."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_origin

import click
import pytest
from sqlalchemy import inspect

from benchmarks import document
from contract.errors import ExitCode
from contract.quality import MEASURES
from contract.settings import PREFIX, Settings
from contract.states import (
    CaptureState,
    ChunkState,
    EventKind,
    MarkCode,
    RejectCode,
    ReportCause,
    ReviewAction,
    ReviewState,
    SkipReason,
    Verdict,
)
from db.engine import open_engine
from db.models import Base
from db.schema import upgrade
from producer.cli import screen
from tests.faults import record
from tests.support.commands import REPOSITORY
from trainer import keys
from trainer.config import recipe_names

TRAINING = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
DATA = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next of its level or above."""
    level = heading.split(" ")[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no heading {heading!r}"
    return found.group(1)


def first_column(part: str) -> set[str]:
    """The first cells of the tables in `part`, without their heads: the lines above a |---| line."""
    rows = re.sub(r"^\|.*\n(?=\|---)", "", part, flags=re.MULTILINE)
    return set(re.findall(r"^\| `?([^|`]+?)`? \|", rows, re.MULTILINE))


def options_of(command: click.Command) -> set[str]:
    named = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return {name for one in named for name in (*one.opts, *one.secondary_opts)}


@pytest.mark.parametrize("name", screen.lazy)
def test_every_command_and_option_is_documented_and_no_other(name: str) -> None:
    command = screen.get_command(click.Context(screen), name)
    assert command is not None
    assert command.help
    part = section(OPERATIONS, f"### screen {name}")
    if isinstance(command, click.Group):
        for subcommand in command.commands:
            assert f"screen {name} {subcommand}" in part
    else:
        assert first_column(part) == options_of(command)


def test_every_documented_command_exists() -> None:
    assert set(re.findall(r"^### screen ([\w-]+)$", OPERATIONS, re.MULTILINE)) == set(screen.lazy)


def test_every_measure_of_quality_is_documented() -> None:
    assert set(
        re.findall(r"^\| `(.+?)` \|", section(DATA, "## Quality").replace("`, `", "` |\n| `"), re.MULTILINE)
    ) == {*MEASURES}


def test_every_setting_is_documented_and_no_other() -> None:
    wanted = {PREFIX + name.upper() for name in Settings.model_fields}
    assert first_column(section(OPERATIONS, "## Settings")) == wanted


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_key_of_a_recipe_is_documented_as_it_is() -> None:
    assert keys.with_tables(TRAINING) == TRAINING, "run `python -m trainer.keys`"
    part = section(TRAINING, "## Every key of a recipe")
    for model in keys.TABLES.values():
        for name, field in model.model_fields.items():
            assert f"| `{name}` |" in part
            assert field.description or get_origin(field.annotation) is Literal, f"{model.__name__}.{name}"


def test_every_recipe_is_documented() -> None:
    assert first_column(section(TRAINING, "## Recipes")) == set(recipe_names())


def test_every_exit_code_is_documented() -> None:
    codes = re.findall(r"^\| (\d+) \|", section(OPERATIONS, "## Commands"), re.MULTILINE)
    assert {int(code) for code in codes} == {int(code) for code in ExitCode}


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("## Reject codes", RejectCode),
        ("## Skip reasons", SkipReason),
        ("## Verdicts", Verdict),
        ("## Marks", MarkCode),
        ("## Review states", ReviewState),
    ],
)
def test_every_code_is_documented_and_no_other(heading: str, values: type[StrEnum]) -> None:
    assert first_column(section(DATA, heading)) == {str(value) for value in values}


def test_the_states_are_named() -> None:
    for state in (*CaptureState, *ChunkState, *ReviewAction, *ReportCause, *EventKind):
        assert f"`{state}`" in DATA


@pytest.mark.parametrize("table", Base.metadata.tables)
def test_every_column_of_a_table_is_documented_and_no_other(table: str) -> None:
    assert first_column(section(DATA, f"### table {table}")) == set(Base.metadata.tables[table].columns.keys())


def test_every_column_of_a_view_is_documented_and_no_other(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(engine)
    inspector = inspect(engine)
    views = inspector.get_view_names()
    assert set(re.findall(r"^### view (\w+)$", DATA, re.MULTILINE)) == set(views)
    for view in views:
        columns = {column["name"] for column in inspector.get_columns(view)}
        assert first_column(section(DATA, f"### view {view}")) == columns, view


def test_links_between_pages_lead_somewhere() -> None:
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_benchmarks_is_what_its_results_say() -> None:
    assert document.page() == document.PAGE.read_text(encoding="utf-8"), "run `python -m benchmarks document`"
    assert {file.stem for file in document.RESULTS.glob("*.json")} == set(document.SECTIONS)


def test_the_page_of_faults_is_what_was_counted() -> None:
    assert record.page() == record.PAGE.read_text(encoding="utf-8"), "run `python -m tests.faults.record`"
