"""A command with many subcommands. Each is imported when it is called, so `--help` is fast, and a package that only one
subcommand needs may be missing for the others.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Lazy:
    """A subcommand: its `place` as `module:attribute`, and one sentence for the list about what it does."""

    place: str
    help: str


class LazyGroup(click.Group):
    """`sections` maps each heading of the list to the subcommands below it."""

    def __init__(self, *arguments: Any, sections: Mapping[str, Mapping[str, Lazy]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sections = sections

    @property
    def lazy(self) -> dict[str, Lazy]:
        return {name: subcommand for section in self.sections.values() for name, subcommand in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        subcommand = self.lazy.get(cmd_name)
        if subcommand is None:
            return None
        module, attribute = subcommand.place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.lazy))
        for heading, section in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), subcommand.help) for name, subcommand in section.items()])
