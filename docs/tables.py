"""The tables of the pages, made from the code that they describe: `make docs` writes them, a test compares them.

A page says where a table belongs, and which: `<!-- table: options of screen run -->`. What stands between that line and
`<!-- end of table -->` is replaced.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql

from benchmarks import document
from contract import states, tiff
from contract.errors import ExitCode
from contract.settings import PREFIX, Settings
from db import models  # noqa: F401 - declares the tables
from db.columns import Base
from db.roles import roles_sql
from db.view_columns import VIEW_COLUMNS
from docs import keys
from docs.markdown import markdown
from producer.cli import SECTIONS, screen
from tests.faults import record

DOCS = Path(__file__).parent
ROLES = DOCS.parent / "deploy" / "roles.sql"
END = "<!-- end of table -->"
MARKED = re.compile(rf"(<!-- table: (.+?) -->\n).*?({re.escape(END)})", re.DOTALL)


def pages() -> dict[Path, str]:
    """Every page of docs/, as it should be."""
    marked = {path: with_tables(path.read_text(encoding="utf-8")) for path in sorted(DOCS.glob("*.md"))}
    return marked | {document.PAGE: document.page(), record.PAGE: record.page(), ROLES: roles_sql()}


def with_tables(page: str) -> str:
    """The page with its tables made again. Raises KeyError for a table that nobody can make."""
    return MARKED.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[3]}", page)


def table(name: str) -> str:
    """The Markdown table of this name, such as `settings` or `columns of capture`."""
    kind, _, what = name.partition(" of ")
    return MAKERS[kind](what)


def _commands(_: str) -> str:
    return markdown(
        ("", "command", "does"),
        (
            (section if not position else "", f"[`screen {name}`](#screen-{name})", command.help)
            for section, commands in SECTIONS.items()
            for position, (name, command) in enumerate(commands.items())
        ),
    )


def _subcommands(path: str) -> str:
    group = find_command(path.split()[1:])
    assert isinstance(group, click.Group)
    return markdown(
        ("command", "does"), ((_usage(path, command), _in_short(command)) for command in group.commands.values())
    )


def _in_short(command: click.Command) -> str:
    """The first paragraph of its help, in one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def _usage(path: str, command: click.Command) -> str:
    arguments = [
        param.make_metavar(click.Context(command)) for param in command.params if isinstance(param, click.Argument)
    ]
    return f"`{' '.join([path, command.name or '', *arguments])}`"


def _options(path: str) -> str:
    command = find_command(path.split()[1:])
    if isinstance(command, click.Group):
        return _options_of_group(command)
    return markdown(("option", "value", "default", "meaning"), map(_option, documented_options(command)))


def _options_of_group(group: click.Group) -> str:
    """Each option once, with the subcommands that have it."""
    having: dict[tuple[str, ...], list[str]] = {}
    for name, command in group.commands.items():
        for option in documented_options(command):
            having.setdefault(_option(option), []).append(f"`{name}`")
    rows = ((row[0], ", ".join(names), *row[1:]) for row, names in having.items())
    return markdown(("option", "of", "value", "default", "meaning"), rows)


def find_command(names: Sequence[str]) -> click.Command:
    """The command that `screen` followed by these names runs. Raises KeyError."""
    command: click.Command = screen
    for name in names:
        assert isinstance(command, click.Group)
        subcommand = command.get_command(click.Context(command), name)
        if subcommand is None:
            raise KeyError(name)
        command = subcommand
    return command


def documented_options(command: click.Command) -> list[click.Option]:
    """The options that a person may use, without --help."""
    return [option for option in command.params if isinstance(option, click.Option) and not option.hidden]


def _option(option: click.Option) -> tuple[str, str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names, "" if option.is_flag else _values(option.type), _option_default(option), option.help or ""


def _values(kind: "click.ParamType[Any]") -> str:
    """What an option takes, in words."""
    if isinstance(kind, click.Choice):
        return " or ".join(f"`{getattr(choice, 'value', choice)}`" for choice in kind.choices)
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        number = "whole number" if isinstance(kind, click.IntRange) else "number"
        lowest = "" if kind.min is None else f" from {kind.min}"
        highest = "" if kind.max is None or kind.max >= 2**63 - 1 else f" to {kind.max}"
        return f"{number}{lowest}{highest}"
    if isinstance(kind, click.Path):
        return "file" if not kind.dir_okay else "folder" if not kind.file_okay else "path"
    return {"integer": "whole number", "float": "number", "text": "text"}[kind.name]


def _option_default(option: click.Option) -> str:
    if option.required:
        return "needed"
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.to_info_dict()["default"]
    if option.is_flag:
        return "yes" if value is True else ""
    return "" if value is None or callable(value) else f"`{value}`"


def _settings(_: str) -> str:
    return markdown(
        ("variable", "value", "default", "meaning"),
        (
            (
                PREFIX + name.upper(),
                keys.kind_in_words(field).replace('"', ""),
                "unset" if field.default is None else f"`{field.default}`",
                field.description or "",
            )
            for name, field in Settings.model_fields.items()
        ),
    )


def _exit_codes(_: str) -> str:
    return markdown(("exit code", "meaning"), ((str(int(code)), code.meaning) for code in ExitCode))


def _codes(name: str) -> str:
    codes: type[states.Code] = getattr(states, name)
    return markdown(("code", "meaning"), ((f"`{code}`", code.meaning) for code in codes))


def _tiff_layouts(_: str) -> str:
    depths: dict[str, dict[str, None]] = {}
    for colours, sample_format, bits in sorted(tiff.READ):
        name = tiff.COLOURS[colours].partition(" ")[0]
        depths.setdefault(name, {})[f"{bits}{tiff.FORMATS.get(sample_format, '')}"] = None
    planes = {tiff.COLOURS[colours] for colours, _ in tiff.PLANES}
    return markdown(
        ("colours", "bits per channel", "channels as planes"),
        ((name, ", ".join(bits), "8, 16" if name in planes else "no") for name, bits in depths.items()),
    )


def _columns(name: str) -> str:
    if name in VIEW_COLUMNS:
        return markdown(("column", "meaning"), VIEW_COLUMNS[name].items())
    return markdown(
        ("column", "type", "meaning"),
        ((column.name, _sql_type(column), column.doc or "") for column in Base.metadata.tables[name].columns),
    )


def _sql_type(column: "Column[Any]") -> str:
    """As PostgreSQL names it; what may be empty says so."""
    named = column.type.compile(dialect=postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
    return named.replace("timestamp with time zone", "timestamptz") + (", may be empty" if column.nullable else "")


MAKERS: dict[str, Callable[[str], str]] = {
    "commands": _commands,
    "subcommands": _subcommands,
    "options": _options,
    "settings": _settings,
    "exit codes": _exit_codes,
    "codes": _codes,
    "columns": _columns,
    "TIFF layouts": _tiff_layouts,
    "keys": lambda _: keys.tables(),
}
"""The first words of a table's name -> what makes it."""


def main() -> None:
    """Write every page again."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        click.echo(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
