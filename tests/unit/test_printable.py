"""Text from outside is shown as text: by the one function, on a console, in the log, on a page."""

import doctest
import io
import json
import logging
import re
import sqlite3
import sys
from contextlib import redirect_stdout
from pathlib import Path

import jinja2
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from contract import printable as functions
from contract.errors import UsageError
from contract.html import finalized, with_policy
from contract.logs import configure_logging
from contract.printable import printable, printable_json, printable_lines, printable_value, refuse_unprintable
from contract.terminal import plain, terminal
from tests.support.hostile_text import HOSTILE, acts, forged

anything = st.text(st.characters(), max_size=30)


def test_the_examples_of_the_docstrings_hold() -> None:
    result = doctest.testmod(functions)
    assert result.attempted > 0
    assert result.failed == 0


@given(anything)
def test_every_text_becomes_one_line_that_can_be_written(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert shown == text or not text.isprintable()
    assert printable(shown) == shown


@given(anything)
def test_json_is_the_same_value_and_can_be_printed(text: str) -> None:
    shown = printable_json(json.dumps({text: [text]}, ensure_ascii=False, indent=2))
    assert acts(shown) == []
    assert json.loads(shown) == {text: [text]}


def test_lines_stay_lines_and_cannot_begin_as_others_do() -> None:
    shown = printable_lines(HOSTILE, indent="    ")
    assert len(shown.split("\n")) == HOSTILE.count("\n") + 1
    assert acts(shown) == forged(shown) == []


def test_values_within_others_are_reached() -> None:
    assert printable_value({HOSTILE: [HOSTILE, (HOSTILE, 1, None)]}) == {
        printable(HOSTILE): [printable(HOSTILE), [printable(HOSTILE), 1, None]]
    }


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\x1b", "\N{ZERO WIDTH SPACE}", "\N{RIGHT-TO-LEFT OVERRIDE}x"])
def test_a_name_that_a_person_would_not_see_whole_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the name") as refused:
        refuse_unprintable("the name", text)
    assert str(refused.value).isprintable()


def test_a_console_shows_even_what_was_not_made_plain() -> None:
    table = Table(title=HOSTILE.replace("[", "("))
    table.add_column(plain(HOSTILE))
    table.add_row(plain(HOSTILE))
    out = io.StringIO()
    with redirect_stdout(out):
        console = terminal()
        console.print(table)
        console.print(HOSTILE, markup=False)
        console.print(plain(HOSTILE), style="red")
    assert acts(out.getvalue()) == []
    assert "[red]x[/]" in out.getvalue().replace("\n", ""), "brackets are no markup"


@pytest.fixture
def _logging_of_before() -> object:
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers, logging.getLogger().level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging_of_before")
@pytest.mark.parametrize("style", ["console", "json"])
def test_an_event_is_one_line_of_the_log_whatever_it_says(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging("info", style)
    log = structlog.get_logger(f"test_printable.{style}")
    log.info(HOSTILE, text=HOSTILE, values=[HOSTILE], by_name={HOSTILE: HOSTILE}, error=ValueError(HOSTILE), raw=b"\n")
    logging.getLogger("foreign").warning("from outside: %s", HOSTILE)
    lines = written.getvalue().splitlines()
    assert len(lines) == 2
    assert acts(written.getvalue()) == forged(written.getvalue()) == []
    if style == "json":
        assert json.loads(lines[0])["text"] == HOSTILE


@pytest.mark.usefixtures("_logging_of_before")
@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_forges_no_line_and_repeats_nothing_that_a_database_says(
    style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging("info", style)
    name = "".join(("Can", "ary"))  # the traceback shows this source
    try:
        try:
            raise sqlite3.IntegrityError(f"DETAIL: Key (external_id)=({name})")
        except sqlite3.IntegrityError as error:
            raise ValueError(HOSTILE) from error
    except ValueError:
        logging.getLogger("foreign").exception("it failed")
    shown = written.getvalue()
    assert acts(shown) == forged(shown) == []
    assert name not in shown
    assert "IntegrityError" in shown
    assert "test_printable.py" in shown, "where it happened"


PAGE = '<meta charset="utf-8">\n<title>{{ text }}</title>\n<style>p { color: red }</style>\n<p>{{ text }}</p>'


def test_a_page_shows_text_and_allows_nothing_but_its_own_style_and_pictures() -> None:
    environment = jinja2.Environment(autoescape=True, finalize=finalized)
    page = with_policy(environment.from_string(PAGE).render(text=HOSTILE + "<style>p { display: none }</style>"))
    assert acts(page) == []
    assert page.count("<style>") == 1
    assert "<script>" not in page
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', page)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert page.index("Content-Security-Policy") < page.index("<title>"), "before anything from outside"


@pytest.mark.parametrize("folder", ["producer/templates", "trainer/templates"])
def test_no_template_has_a_script_a_style_in_an_element_or_anything_from_elsewhere(folder: str) -> None:
    for file in sorted((Path(__file__).parents[2] / folder).iterdir()):
        source = file.read_text()
        for forbidden in (r"<script", r"\bstyle=", r"\son\w+=", r"https?://", r"<link", r"<iframe", r"<base", r"<form"):
            assert not re.search(forbidden, source), (file.name, forbidden)
