"""Consoles of rich that show text from outside as text: neither its control characters nor its brackets act."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.text import Text

from contract.printable import printable, printable_lines


def terminal(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr. Whatever is printed on it, nothing but rich itself controls the terminal.

    A value from outside is still printed as `plain`: then its brackets are no markup, and a table knows its width.
    """
    console = Console(stderr=stderr, emoji=False)
    console.push_render_hook(_Printable())
    return console


def plain(value: Any) -> Text:
    """A value from outside, such as a folder's name, on one line: its brackets are not markup."""
    return Text("" if value is None else printable(str(value)))


def plain_lines(value: Any) -> Text:
    """The same for text that may have several lines, such as a reviewer's comment."""
    return Text("" if value is None else printable_lines(str(value)))


def data_out(line: str) -> None:
    """Print a line of data on stdout, such as a path: unchanged for a program, printable on a terminal."""
    shown = printable(line) if sys.stdout.isatty() else line
    print(shown, flush=True)


class _Printable(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_AsText(renderable) for renderable in renderables]


class _AsText:
    """What rich made of a renderable, with all text in it printable."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._renderable, options)
        for segment in segments:
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)
