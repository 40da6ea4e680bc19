"""Names as text: readable, safe to print, and never the same for two different names."""

import doctest
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract import names
from contract.names import display_name, path_bytes

AWKWARD = [b"\\", b"x", b"8", b"5", b"\n", b"\x85", b"\xc2\x85", b"\xa0", b"\xc2\xa0", b"\xff", "é".encode(), b"u0085"]
name_bytes = st.one_of(st.binary(max_size=12), st.lists(st.sampled_from(AWKWARD), max_size=4).map(b"".join))


def test_the_examples_of_the_docstrings_hold() -> None:
    result = doctest.testmod(names)
    assert result.attempted > 0
    assert result.failed == 0


@settings(max_examples=1000)
@given(name_bytes, name_bytes)
@example(b"\x85", b"\xc2\x85")  # a byte that is not UTF-8, and a control character that is
@example(b"\xa0.jpg", b"\xc2\xa0.jpg")
@example(b"\\x85", b"\x85")
@example(b"\n", b"\\n")
@example(b"\\\n", b"\\\\n")
@example("\u0100".encode(), b"\\u0100")
@example("\U00010ffff".encode(), "\U0010ffff".encode())
def test_different_bytes_always_give_different_text(one: bytes, other: bytes) -> None:
    assert (display_name(one) == display_name(other)) is (one == other)


def test_no_two_of_all_short_names_look_the_same() -> None:
    two = [bytes([first, second]) for first in range(256) for second in range(256)]
    every = [bytes([first]) for first in range(256)] + two
    assert len({display_name(name) for name in every}) == len(every)


@pytest.mark.parametrize(
    "name", ["Müller/01.jpg", "患者 7/а.png", "Ångström (2).tif", "P-001_x4.jpg", "a'b\"c;d,e.bmp", ""]
)
def test_readable_names_stay_as_they_are(name: str) -> None:
    assert display_name(name.encode()) == name


@settings(max_examples=500)
@given(st.one_of(st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")), name_bytes))
def test_no_name_holds_a_character_that_a_terminal_would_act_on(name: bytes) -> None:
    shown = display_name(name)
    assert shown.isprintable()
    shown.encode("utf-8")  # no surrogates: it can be printed, stored and sent


@pytest.mark.parametrize(
    "name",
    [b"a\nPatient 9: benign", b"\x1b[2J", b"a\rb", b"a\tb", b"\x00", "\u202egpj.exe".encode(), "\u2028".encode()],
)
def test_control_characters_are_written_out(name: bytes) -> None:
    shown = display_name(name)
    assert "\\" in shown
    assert shown.isprintable()


def test_bytes_that_are_not_utf8_are_written_as_hexadecimal() -> None:
    assert display_name(b"M\xfcller/\xff.jpg") == r"M\xfcller/\xff.jpg"


def test_the_bytes_of_a_path_are_those_on_disk(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(raw)  # noqa: PTH102 - bytes
    (found,) = tmp_path.iterdir()
    assert path_bytes(found) == raw
