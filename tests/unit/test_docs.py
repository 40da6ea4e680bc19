"""The documentation says what the code does: its tables are made from it, and its links and how-tos lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_origin

import click
import pytest
from sqlalchemy import inspect

from benchmarks import document
from contract.errors import ExitCode
from contract.quality import MEASURES
from contract.settings import Settings
from contract.states import Code
from db.columns import Base
from db.engine import open_engine
from db.schema import upgrade
from db.view_columns import VIEW_COLUMNS
from db.views import VIEWS
from docs import keys, tables
from producer.cli import screen
from tests.support.commands import REPOSITORY
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


def test_every_table_of_the_pages_is_what_the_code_says() -> None:
    for path, text in tables.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"


def test_the_pages_hold_a_table_of_everything_that_is_declared() -> None:
    marked = set(re.findall(r"<!-- table: (.+?) -->", TRAINING + DATA + OPERATIONS))
    commands = {name: tables.find_command([name]) for name in screen.lazy}
    groups = {name for name, command in commands.items() if isinstance(command, click.Group)}
    assert marked >= {f"subcommands of screen {name}" for name in groups}
    assert marked >= {f"options of screen {name}" for name, command in commands.items() if options_below(command)}
    assert marked >= {f"columns of {name}" for name in (*Base.metadata.tables, *VIEWS)}
    assert marked >= {f"codes of {codes.__name__}" for codes in Code.__subclasses__()}
    assert marked >= {"commands", "exit codes", "settings", "keys"}


def options_below(command: click.Command) -> list[click.Option]:
    """Its own options and those of its subcommands."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [*tables.documented_options(command), *(option for sub in below for option in options_below(sub))]


@pytest.mark.parametrize("name", screen.lazy)
def test_every_command_and_option_says_what_it_does_in_a_sentence(name: str) -> None:
    command = tables.find_command([name])
    assert command.help
    assert f"### screen {name}\n" in OPERATIONS
    for option in options_below(command):
        assert re.fullmatch(r"[A-Z].+[.!]", option.help or "", re.DOTALL), f"{name} {option.opts[0]}: {option.help}"


def test_every_code_and_column_says_what_it_means() -> None:
    assert [code for codes in Code.__subclasses__() for code in codes if not code.meaning] == []
    assert [code for code in ExitCode if not code.meaning] == []
    columns = [column for table in Base.metadata.tables.values() for column in table.columns]
    assert [str(column) for column in columns if not column.doc] == []


def test_every_documented_command_exists() -> None:
    assert set(re.findall(r"^### screen ([\w-]+)$", OPERATIONS, re.MULTILINE)) == set(screen.lazy)


def test_every_measure_of_quality_is_documented() -> None:
    assert set(
        re.findall(r"^\| `(.+?)` \|", section(DATA, "## Quality").replace("`, `", "` |\n| `"), re.MULTILINE)
    ) == {*MEASURES}


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_key_of_a_recipe_is_documented_as_it_is() -> None:
    part = section(TRAINING, "## Every key of a recipe")
    for model in keys.TABLES.values():
        for name, field in model.model_fields.items():
            assert f"| `{name}` |" in part
            assert field.description or get_origin(field.annotation) is Literal, f"{model.__name__}.{name}"


def test_every_recipe_is_documented() -> None:
    assert first_column(section(TRAINING, "## Recipes")) == set(recipe_names())


def test_every_column_of_a_view_is_described_and_no_other(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(engine)
    inspector = inspect(engine)
    columns = {view: [column["name"] for column in inspector.get_columns(view)] for view in inspector.get_view_names()}
    assert columns == {view: list(VIEW_COLUMNS[view]) for view in VIEW_COLUMNS}


def test_links_between_pages_lead_somewhere() -> None:
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_result_of_a_benchmark_has_its_section() -> None:
    assert {file.stem for file in document.RESULTS.glob("*.json")} == set(document.SECTIONS)


def how_tos() -> list[tuple[str, str]]:
    """Of CONTRIBUTING.md, "How to add": what is added, and the steps."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^- \*(.+?)\*: (.+?)(?=\n- |\n\n)", section(page, "## How to add"), re.DOTALL | re.MULTILINE)


def steps_of_how_tos() -> Iterator[tuple[str, str]]:
    """What is added, and each file that its steps name."""
    for what, steps in how_tos():
        for path in re.findall(r"`([\w./-]+/[\w.-]*|[\w-]+\.toml|docs/\w+\.md)`|(docs/\w+\.md|pyproject\.toml)", steps):
            yield what, "".join(path)


def test_there_is_a_how_to_for_each_extension() -> None:
    wanted = {"an engine", "a quality mark", "a reject code", "an export format", "a step of a recipe", "a web page"}
    assert {what for what, _ in steps_of_how_tos()} >= wanted


@pytest.mark.parametrize(("what", "path"), sorted(set(steps_of_how_tos())))
def test_each_file_of_a_how_to_is_there(what: str, path: str) -> None:
    assert (REPOSITORY / path).exists(), f"how to add {what}"


@pytest.mark.parametrize(
    ("what", "path", "name"),
    [(what, path, name) for what, steps in how_tos() for path, name in re.findall(r"`([\w/]+\.py)`\s+`(\w+)`", steps)],
)
def test_each_name_of_a_how_to_is_in_its_file(what: str, path: str, name: str) -> None:
    assert re.search(rf"\b{name}\b", (REPOSITORY / path).read_text(encoding="utf-8")), f"how to add {what}"
