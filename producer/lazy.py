"""A command with many subcommands, each imported when it is called: `--help` is quick, and what one needs no other must
have installed.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Lazy:
    """A subcommand: where it is, as `module:attribute`, and what it does, in a sentence for the list."""

    place: str
    help: str


class LazyGroup(click.Group):
    """`sections` are the headings of the list of subcommands, and those below each."""

    def __init__(self, *arguments: Any, sections: Mapping[str, Mapping[str, Lazy]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sections = sections

    @property
    def lazy(self) -> dict[str, Lazy]:
        return {name: found for section in self.sections.values() for name, found in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self.lazy.get(cmd_name)
        if found is None:
            return None
        module, attribute = found.place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.lazy))
        for heading, section in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), found.help) for name, found in section.items()])
