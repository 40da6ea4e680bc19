"""Listings: names are anybody's text, and neither a spreadsheet nor the terminal may act on them."""

import csv
import io
import json
import re
from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from contract.names import display_name
from contract.printable import printable
from contract.spreadsheet import spreadsheet_text
from producer.output import csv_out, json_out, output_options, plain, stdout, table

visible = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)


def csv_of(capsys: pytest.CaptureFixture[str], *rows: dict[str, object], output: str = "csv") -> list[list[str]]:
    csv_out(rows, list(rows[0]), output)
    return list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))[1:]


NAMES = ("-17", "=1+1", "+49 30 1", "@x", "\t=x", "\r=x", "\uff1d1+1", "\uff0d1", "001", "1-2", "M\xe4rz 1", "'quoted'",
         'a "b", c', "two\nlines", "  blanks ", "", "1e5", "P001")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_program_gets_every_value_unchanged(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert csv_of(capsys, {"patient": name, "n": -17, "after": "x"}) == [[name, "-17", "x"]]


def test_a_programs_csv_is_utf_8_without_a_byte_order_mark(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    csv_out([{"patient": "M\xfcller"}], ["patient"], "csv")
    assert capfdbinary.readouterr().out == "patient\nM\xfcller\n".encode()


def test_a_spreadsheets_csv_begins_with_a_byte_order_mark(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    csv_out([{"patient": "M\xfcller"}], ["patient"], "csv-excel")
    assert capfdbinary.readouterr().out == b"\xef\xbb\xbf" + "patient\r\nM\xfcller\r\n".encode()


@pytest.mark.parametrize("start", [*"=+-@\uff1d\uff0b\uff0d\uff20", " =", '"=', '" \uff0d', '""@'])
def test_a_cell_that_a_spreadsheet_would_run_is_made_text(capsys: pytest.CaptureFixture[str], start: str) -> None:
    name = f'{start}HYPERLINK("http://example.invalid")'
    assert csv_of(capsys, {"patient": name}, output="csv-excel") == [["'" + name]]


@pytest.mark.parametrize("start", ["\t", "\r", "\n=", "\u200b=", "\ufeff@", "\xa0+", "\u202e=", "\x1b[31m="])
def test_a_cell_for_people_holds_nothing_that_cannot_be_seen(capsys: pytest.CaptureFixture[str], start: str) -> None:
    assert csv_of(capsys, {"patient": start + "x"}, output="csv-excel") == [[printable(start + "x")]]
    assert spreadsheet_text(start + "x") == start + "x" if start[0] == "\x1b" else f"'{start}x"


@pytest.mark.parametrize("between", [";", "\t", "\n", "\r", '; "', ";\xa0"])
@pytest.mark.parametrize("start", "=+-@\uff1d\uff0b\uff0d\uff20")
def test_a_cell_that_a_spreadsheet_divides_runs_in_no_part(between: str, start: str) -> None:
    shown = spreadsheet_text(f"x{between}{start}1+1;y")
    for part in re.split(r"[;\t\r\n]", shown):
        assert not part.lstrip('" \xa0').startswith(start)
    assert shown.replace("'", "") == f"x{between}{start}1+1;y"


@pytest.mark.parametrize("text", ["x;y", "a-b", "1;2 and -3", "it's -1", "x, -1", "", "Meier; Anna"])
def test_other_text_of_a_spreadsheet_stays_as_it_is(text: str) -> None:
    assert spreadsheet_text(text) == text


@pytest.mark.parametrize(
    "name",
    ["001", "0", "12345678901234567890", "1-2", "3/4", "1:30", "1E5", "0.10", "1,5", "1.5.2026", "2026-01-02", "MARCH1",
     "Sep 2", "2-Dez", "TRUE", "10%", " 007 ", "1:30 pm"],
)  # fmt: skip
def test_a_cell_that_a_spreadsheet_would_convert_stays_text(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert csv_of(capsys, {"patient": name}, output="csv-excel") == [[f'="{name}"']]


def test_a_text_too_long_for_a_formula_gets_an_apostrophe(capsys: pytest.CaptureFixture[str]) -> None:
    assert csv_of(capsys, {"patient": "1" * 256}, output="csv-excel") == [["'" + "1" * 256]]


def test_other_cells_of_a_spreadsheet_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"patient": 'M\xfcller, A. "x"', "id": "P001", "label": "Pro", "no": "", "none": None, "score": -0.25, "n": 3}
    shown = ['M\xfcller, A. "x"', "P001", "Pro", "", "", "-0.25", "3"]
    assert csv_of(capsys, row, output="csv-excel") == [shown]


def test_lists_and_times_can_be_read_back_from_their_cells(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2026, 3, 1, 4, 5, tzinfo=UTC)
    ((reasons, at),) = csv_of(capsys, {"reasons": [{"code": "score_high", "at": now}], "at": now})
    assert json.loads(reasons) == [{"code": "score_high", "at": now.isoformat()}]
    assert datetime.fromisoformat(at) == now


def test_a_person_reads_the_sentences_of_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [{"code": "a", "sentence": "the score is high"}, {"code": "b", "sentence": "2 captures are out of focus"}]
    shown = csv_of(capsys, {"reasons": reasons}, output="csv-excel")
    assert shown == [["the score is high; 2 captures are out of focus"]]


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


@given(visible)
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


@pytest.mark.parametrize(
    ("option", "output"), [([], "table"), (["--json"], "json"), (["--csv"], "csv"), (["--csv-excel"], "csv-excel")]
)
def test_every_listing_has_the_same_output_options(option: list[str], output: str) -> None:
    assert CliRunner().invoke(listing, option).output == output + "\n"
