"""The page of one case, for `screen review next` and `show`: written to a file, opened in a browser."""

import functools
import tempfile
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine

from contract.files import write_whole
from contract.outputs import OutputFile
from db.review_queries import CaseDetails
from db.run_report import read_case
from producer.formats.html import EVIDENCE_OF_ONE, render_case
from producer.output import say


@dataclass(frozen=True)
class CasePage:
    """Where the page of a case goes, if the command line asks for one."""

    file: Path | None
    opens: bool

    def write(self, database: Engine, case: CaseDetails) -> None:
        """Write the page, with the captures as pictures, and open it. Does nothing if nobody asked. Raises OSError."""
        if self.file is None and not self.opens:
            return
        file = self.file or Path(tempfile.mkdtemp(prefix="screen-case-")) / f"case-{case.case_id}.html"
        report = read_case(database, case.run_id, case.case_id, EVIDENCE_OF_ONE)
        write_whole(file, render_case(report, case))
        say(f"html: {file}" if self.file else f"html: {file}; it shows the patient, so remove it afterwards")
        if self.opens and not webbrowser.open(file.absolute().as_uri()):
            say(f"no browser can be started here; open {file} in one", "yellow")


def page_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--html` and `--open`, passed on as `page`."""

    @click.option("--html", type=OutputFile(), help="Also write the case with its captures as one HTML file.")
    @click.option(
        "--open", "opens", is_flag=True,
        help="Also open that file in a browser; without --html it lies in a private temporary folder.",
    )  # fmt: skip
    @functools.wraps(function)
    def with_page(*arguments: Any, html: Path | None, opens: bool, **options: Any) -> Any:
        return function(*arguments, page=CasePage(html, opens), **options)

    return with_page
