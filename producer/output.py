"""How listings look: one decorator gives each the same output options; data goes to stdout, messages to stderr."""

import getpass
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from contract.states import Verdict
from contract.words import VERDICT_WORDS
from producer.csv_text import as_csv, as_excel_csv

stdout = Console(emoji=False)
stderr = Console(stderr=True, emoji=False)

ID = click.IntRange(1, 2**63 - 1)
"""A number that the database gave to a run, a case or a row."""
CSV_HELP = {
    "csv": "Print the rows as CSV on stdout, for programs: UTF-8, every value unchanged.",
    "csv-excel": "Print the rows as CSV on stdout, for a spreadsheet: umlauts and leading zeros stay, no cell is run "
    "as a formula.",
}
CSV = frozenset(CSV_HELP)
"""The values of `output` that `csv_out` takes."""
Function = TypeVar("Function", bound=Callable[..., Any])


def output_options(function: Function) -> Function:
    """Adds `--json`, `--csv` and `--csv-excel`, passed on as `output`: "table", "json", "csv" or "csv-excel"."""
    for name, csv_help in reversed(CSV_HELP.items()):
        function = click.option(f"--{name}", "output", flag_value=name, help=csv_help)(function)
    function = click.option("--json", "output", flag_value="json", help="Print everything as JSON on stdout.")(function)
    return click.option("--table", "output", flag_value="table", default="table", hidden=True)(function)


def login_name() -> str:
    """The acting user's name, for the audit; in a container the user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def json_out(value: Any) -> None:
    """Print as JSON on stdout."""
    click.echo(as_json(value), nl=False)


def as_json(value: Any) -> str:
    """JSON with times in ISO 8601; ends with a newline. Characters that stdout cannot write are escaped."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(value, default=_jsonable, ensure_ascii=not is_unicode, indent=2) + "\n"


def result_codes(verdict: Verdict, subtype: str | None) -> str:
    """A result by its codes, for listings: `all, Pro`."""
    return f"{verdict}, {subtype}" if subtype else str(verdict)


def csv_out(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str) -> None:
    """Print rows on stdout as the CSV that `output` names: "csv" or "csv-excel" (producer/csv_text.py)."""
    text_out(as_excel_csv(rows, columns) if output == "csv-excel" else as_csv(rows, columns))


def text_out(text: str) -> None:
    """Print on stdout in UTF-8, also where stdout has another encoding: what reads a CSV cannot ask for it."""
    click.echo(text.encode("utf-8", "backslashreplace"), nl=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    raise TypeError(f"{type(value).__name__} in JSON output")


def table(title: str | None, columns: Sequence[str], right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    """An empty table. `right` columns hold numbers; `fold` columns become narrower on a narrow terminal."""
    empty = Table(
        title=title, title_justify="left", header_style="bold", pad_edge=False, padding=(0, 1, 0, 0), box=SIMPLE_HEAD
    )
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        narrow = column in fold
        empty.add_column(column, justify=justify, no_wrap=not narrow, overflow="fold", min_width=7 if narrow else None)
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
    """Print a line on stderr unchanged: paths and names in it are not markup."""
    stderr.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def plain(value: Any) -> Text:
    """Text from outside, such as a folder's name, unchanged: its brackets are not markup."""
    return Text("" if value is None else str(value))
