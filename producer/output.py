"""How listings look: one decorator gives each the same output options; data goes to stdout, messages to stderr."""

import getpass
import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from contract.errors import UsageError
from contract.printable import printable, printable_json, printable_lines
from contract.states import Verdict
from contract.terminal import plain as plain
from contract.terminal import plain_lines as plain_lines
from contract.terminal import terminal
from contract.words import VERDICT_WORDS
from producer.csv_text import as_csv, as_excel_csv

stdout = terminal()
stderr = terminal(stderr=True)

ID = click.IntRange(1, 2**63 - 1)
"""A number that the database gave to a run, a case or a row."""
CSV_HELP = {
    "csv": "Print the rows as CSV on stdout, for programs: UTF-8, every value unchanged.",
    "csv-excel": "Print the rows as CSV on stdout, for a spreadsheet: umlauts and leading zeros stay, no cell is run "
    "as a formula.",
}
CSV = frozenset(CSV_HELP)
"""The values of `output` that `csv_out` takes."""
LATEST = 0
"""Stands for the run that was submitted last; the database gives no run this number."""


class RunNumber(click.ParamType[int]):
    """The number of a run, or the word `latest`, which becomes LATEST (see `db.progress.this_run`)."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return LATEST if value == "latest" else ID.convert(value, param, ctx)


Function = TypeVar("Function", bound=Callable[..., Any])


def output_options(function: Function) -> Function:
    """Adds `--json`, `--csv` and `--csv-excel`, passed on as `output`: "table", "json", "csv" or "csv-excel"."""
    for name, csv_help in reversed(CSV_HELP.items()):
        function = click.option(f"--{name}", "output", flag_value=name, help=csv_help)(function)
    function = click.option("--json", "output", flag_value="json", help="Print everything as JSON on stdout.")(function)
    return click.option("--table", "output", flag_value="table", default="table", hidden=True)(function)


def login_name() -> str:
    """The user of the operating system who acts, for the audit: whom the process belongs to, whatever a variable says.
    A service user may have no name.
    """
    try:
        return printable(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return f"user {os.getuid()}"


def reviewer_name() -> str:
    """The name that is stored with a review if none is given. Raises UsageError if the user has none: a number says
    nobody who has signed.
    """
    name = _user_name()
    if name is None:
        raise UsageError("who are you? this user has no login name; give --reviewer NAME or set SCREEN_REVIEWER")
    return name


def _user_name() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no variable names the user, nor does the system's list of users
        return None


def echo(text: str, *, color: bool | None = None) -> None:
    """Print on stdout. What it cannot show is escaped; click alone takes ASCII for a mistake, and prints UTF-8."""
    click.echo(text, file=sys.stdout, nl=False, color=color)


def json_out(value: Any) -> None:
    """Print as JSON on stdout."""
    echo(as_json(value))


def as_json(value: Any) -> str:
    """JSON with times in ISO 8601; ends with a newline. Characters that stdout cannot write, or that would act on a
    terminal, are escaped: a program reads the same value.
    """
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return printable_json(json.dumps(value, default=_jsonable, ensure_ascii=not is_unicode, indent=2)) + "\n"


def result_codes(verdict: Verdict, subtype: str | None) -> str:
    """A result by its codes, for listings: `all, Pro`."""
    return f"{verdict}, {subtype}" if subtype else str(verdict)


def csv_out(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str) -> None:
    """Print rows on stdout as the CSV that `output` names: "csv" or "csv-excel" (producer/csv_text.py)."""
    text_out(as_excel_csv(rows, columns) if output == "csv-excel" else as_csv(rows, columns))


def text_out(text: str) -> None:
    """Print on stdout in UTF-8, also where stdout has another encoding: what reads a CSV cannot ask for it.

    A terminal, which no program reads, gets printable text; a file or a pipe gets every value unchanged.
    """
    shown = printable_lines(text) if sys.stdout.isatty() else text
    click.echo(shown.encode("utf-8", "backslashreplace"), nl=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    raise TypeError(f"{type(value).__name__} in JSON output")


def table(
    title: str | None,
    columns: Sequence[str],
    right: Sequence[str] = (),
    fold: Sequence[str] = (),
    least: Mapping[str, int] | None = None,
) -> Table:
    """An empty table. On a narrow terminal its widest columns become narrower, and what they hold goes over several
    lines; nothing is cut off. `right` columns hold numbers and keep their width; `fold` columns, which may hold much,
    and those in `least` keep at least this width.
    """
    empty = Table(
        title=title, title_justify="left", header_style="bold", pad_edge=False, padding=(0, 1, 0, 0), box=SIMPLE_HEAD
    )
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        width = (least or {}).get(column, 7 if column in fold else None)
        empty.add_column(column, justify=justify, no_wrap=column in right, overflow="fold", min_width=width)
    return empty


def shown_verdict(verdict: str) -> Text:
    """A verdict in its colour."""
    style = {
        Verdict.ALL: "bold red",
        Verdict.INDETERMINATE: "yellow",
        Verdict.INSUFFICIENT: "yellow",
        Verdict.BENIGN: "green",
    }[Verdict(verdict)]
    return Text(VERDICT_WORDS[Verdict(verdict)], style)


def say(text: str, style: str | None = None) -> None:
    """Print one line on stderr: paths and names in it are not markup, and cannot begin another line."""
    stderr.print(plain(text), style=style, highlight=False, soft_wrap=True)
