"""Listings: names are anybody's text, and neither a spreadsheet nor the terminal may act on them."""

import csv
import io
import json
from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from contract.names import display_name
from producer.output import csv_out, json_out, output_options, plain, stdout, table

printable = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)


def csv_of(capsys: pytest.CaptureFixture[str], *rows: dict[str, object]) -> list[list[str]]:
    csv_out(rows, list(rows[0]))
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_is_made_text(capsys: pytest.CaptureFixture[str], start: str) -> None:
    name = f'{start}HYPERLINK("http://example.invalid")'
    assert csv_of(capsys, {"patient": name}) == [["'" + name]]


def test_other_cells_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"patient": 'Müller, A. "x"', "empty": "", "none": None, "score": -0.25, "count": 3}
    assert csv_of(capsys, row) == [['Müller, A. "x"', "", "", "-0.25", "3"]]


def test_lists_and_times_can_be_read_back_from_their_cells(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2026, 3, 1, 4, 5, tzinfo=UTC)
    ((reasons, at),) = csv_of(capsys, {"reasons": [{"code": "score_high", "at": now}], "at": now})
    assert json.loads(reasons) == [{"code": "score_high", "at": now.isoformat()}]
    assert datetime.fromisoformat(at) == now


def test_json_is_json_whatever_the_names_hold(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"patient": 'a"b\n[bold]é', "at": datetime(2026, 3, 1, tzinfo=UTC), "cam": b"\0"}
    json_out(value)
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"patient": 'a"b\n[bold]é', "at": "2026-03-01T00:00:00+00:00", "cam": None}


def shown_in_a_table(text: str) -> str:
    """What a cell with this text looks like on the terminal."""
    listing = table(None, ("patient",))
    listing.add_row(plain(text))
    with stdout.capture() as capture:
        stdout.print(listing, width=200)
    return capture.get().rstrip().splitlines()[-1].strip()


@given(printable)
@example("[bold]P1[/bold]")
@example("[/]")
@example("[link=http://example.invalid]P1[/link]")
@example("P1\\")
@example("\\[red]")
@example("\\\\[red]\\")
@example("[[x]]")
@example("P1:x:2")
@example(":smiley:")
@example("\x1b[31mred")
def test_a_name_is_shown_as_it_is_and_never_as_markup(name: str) -> None:
    shown = display_name(name.encode())
    assert shown_in_a_table(shown) == shown


def test_nothing_is_shown_for_no_value() -> None:
    assert str(plain(None)) == ""


@click.command()
@output_options
def listing(output: str) -> None:
    click.echo(output)


@pytest.mark.parametrize(("option", "output"), [([], "table"), (["--json"], "json"), (["--csv"], "csv")])
def test_every_listing_has_the_same_output_options(option: list[str], output: str) -> None:
    assert CliRunner().invoke(listing, option).output == output + "\n"
