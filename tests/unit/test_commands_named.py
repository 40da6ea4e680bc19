"""Every `screen ...` that a page or a message names can be typed: its command, options and choices exist."""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import product
from typing import Any

import click
import pytest
from markdown_it import MarkdownIt

from contract.outputs import Output
from producer.cli import screen
from tests.support.commands import REPOSITORY

PAGES = [*REPOSITORY.glob("*.md"), *sorted((REPOSITORY / "docs").glob("*.md")), *REPOSITORY.glob("deploy/**/*.md")]
PACKAGES = ("contract", "db", "producer", "trainer", "worker")
SHELL = re.compile(r"\s(?:\||>|>>|<|&&|\|\||;|&|#)(?:\s|$)")
"""Where another command, a file or a comment begins."""
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*(?:\.\.\.)?|N|…")


def commands_in(code: str) -> Iterator[str]:
    """The calls of `screen` in code: lines that end with a backslash go on, variables before it are left out."""
    for line in code.replace("\\\n", " ").splitlines():
        found = re.match(r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:\S*/)?screen (.+)", SHELL.split(f"{line} ", maxsplit=1)[0])
        if found is not None:
            yield found.group(1).strip()


def of_pages() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
            codes = [token] if token.type in ("fence", "code_block") else token.children or ()
            for code in codes:
                if code.type in ("fence", "code_block", "code_inline"):
                    for command in commands_in(code.content):
                        yield page.name, command


def of_messages() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                for code in re.findall(r"`(screen [^`]+)`", _text(node)):
                    for command in commands_in(code):
                        yield file.relative_to(REPOSITORY).as_posix(), command


def _text(node: ast.AST) -> str:
    """Of a string, or of one with values in it, which count as 1 here."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "1" for part in node.values]
        return "".join(map(str, parts))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def accepting(convert: Any) -> Any:
    """As the type converts, but for a placeholder, and for a path that only the reader has."""

    def accept(self: click.ParamType, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(self, click.Path) or (isinstance(value, str) and PLACEHOLDER.fullmatch(value)):
            return value
        return convert(self, value, param, ctx)

    return accept


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (click.Path, Output, click.IntRange, click.FloatRange, type(click.INT), type(click.FLOAT), click.Choice)
    for kind in kinds:
        monkeypatch.setattr(kind, "convert", accepting(kind.convert))


def typed(command: str) -> None:
    """Parse as click would, each alternative of `a|b`, and stop before anything is done.

    What a command needs may be left out where it is only named. Raises click.UsageError for what does not exist.
    """
    words = shlex.split(command.replace("[", "").replace("]", ""))
    words = words[: words.index("...")] if "..." in words else words
    for alternative in product(*(word.split("|") for word in words)):
        if not PLACEHOLDER.fullmatch(alternative[0]):
            _parsed(list(alternative))


def _parsed(words: list[str]) -> None:
    context, group = click.Context(screen, info_name="screen"), screen
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        name, found, words = group.resolve_command(context, words)
        assert found is not None
        context, group = click.Context(found, parent=context, info_name=name), found
    try:
        group.parse_args(context, words)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        pass
    except click.BadOptionUsage as error:
        if "requires an argument" not in error.message:
            raise


NAMED = sorted({*of_pages(), *of_messages()})


def test_commands_are_found_in_pages_and_in_messages() -> None:
    places = {place for place, _ in NAMED}
    assert {"README.md", "operations.md", "training.md", "db/schema.py", "db/plausibility.py"} <= places
    assert ("operations.md", "review list --state disagreement") in [(place, " ".join(c.split())) for place, c in NAMED]


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(("place", "command"), NAMED, ids=[f"{place}: {command}" for place, command in NAMED])
def test_what_is_named_can_be_typed(place: str, command: str) -> None:
    try:
        typed(command)
    except click.exceptions.Exit:
        pass
    except click.UsageError as error:
        pytest.fail(f"{place}: `screen {command}`: {error.format_message()}")


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(
    "command", ["review list --state nowhere", "statsu", "report RUN --xml", "watch three", "bundle show|check"]
)
def test_what_cannot_be_typed_is_found(command: str) -> None:
    with pytest.raises(click.UsageError):
        typed(command)
