"""Tables as spreadsheets and people write them: each way is read as it is meant, or refused with line and cause."""

import codecs
from pathlib import Path

import pytest

from contract.errors import DataError
from contract.names import alike, lookalikes, the_one_meant
from contract.tables import Table, read_table

NEEDED, OPTIONAL = ("path", "label"), ("patient", "split", "site")
PLAIN = "path,label,patient\nä/1.jpg,Pre,Müller\nb/2.jpg,Pro,P 2\n"
ROWS = [("ä/1.jpg", "Pre", "Müller"), ("b/2.jpg", "Pro", "P 2")]


def read(folder: Path, content: bytes | str) -> Table:
    file = folder / "labels.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(file, NEEDED, OPTIONAL)


def cells(table: Table) -> list[tuple[str, str, str]]:
    return [(row["path"], row["label"], row["patient"]) for row in table.rows]


SEMICOLONS = PLAIN.replace(",", ";")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        codecs.BOM_UTF8 + PLAIN.encode(),
        codecs.BOM_UTF8 * 2 + PLAIN.encode(),
        codecs.BOM_UTF16_LE + PLAIN.replace(",", "\t").encode("utf-16-le"),
        codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + PLAIN.encode("utf-32-le"),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", "|").encode(),
        SEMICOLONS.encode(),
        b"sep=;\r\n" + SEMICOLONS.encode(),
        codecs.BOM_UTF8 + b'"sep=;"\n' + SEMICOLONS.encode(),
        b"SEP=\t\n" + PLAIN.replace(",", "\t").encode(),
        b"sep=;\n" + PLAIN.encode(),  # untrue: the commas decide
        b"sep=\n" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("\n", "\r\r\n").encode(),
        PLAIN.rstrip("\n").encode(),
        b"\n,,\n" + PLAIN.replace("\n", "\n,,\n\n").encode(),
        SEMICOLONS.replace("\n", ";;\n").encode(),
        PLAIN.replace("path,label,patient", ' Path ,"LABEL", patient\u00a0').encode(),
        PLAIN.replace("Müller", '" Müller "').replace("P 2", "P\u00a0 2 ").encode(),
        PLAIN.replace("Müller", "Mu\u0308ller").encode(),
        PLAIN.replace(",Pre", ', "Pre"').encode(),
    ],
)
def test_what_can_be_meant_in_one_way_only_is_read(tmp_path: Path, content: bytes) -> None:
    table = read(tmp_path, content)
    assert cells(table) == ROWS
    assert table.warnings == ()
    assert table.columns == {"path", "label", "patient"}


def test_a_path_keeps_its_unicode_form(tmp_path: Path) -> None:
    assert read(tmp_path, "path,label\nu\u0308/1.jpg,Pre\n").rows[0]["path"] == "u\u0308/1.jpg"


def test_lines_are_those_of_the_file_and_quotes_may_hold_anything(tmp_path: Path) -> None:
    text = 'sep=,\n\npath,label,note\n"a, 1.jpg",Pre,"two\nlines, and ""more"""\n\nb.jpg,Pro,\n'
    table = read(tmp_path, text)
    assert [(row.line, row["path"]) for row in table.rows] == [(4, "a, 1.jpg"), (7, "b.jpg")]
    assert table.warnings[0].endswith("did not read the column 'note'; it knows path, label, patient, split, site")


def test_cells_after_the_last_known_column_may_be_missing(tmp_path: Path) -> None:
    assert cells(read(tmp_path, "path,label,patient,note,\na.jpg,Pre,P1\n")) == [("a.jpg", "Pre", "P1")]


def test_a_column_like_one_that_is_there_is_only_named(tmp_path: Path) -> None:
    table = read(tmp_path, "path,label,patient,Patient_ID,\na.jpg,Pre,P1,7,\n")
    assert cells(table) == [("a.jpg", "Pre", "P1")]
    assert "did not read the column 'Patient_ID'" in table.warnings[0]


UMLAUT = "path,label,patient\na.jpg,Pre,P1\nb.jpg,Pro,Müller\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "labels.csv: is empty"),
        (b"\xef\xbb\xbf\r\n", "labels.csv: is empty"),
        (b",,\n;;\n", "is empty but for blank lines"),
        (UMLAUT.encode("cp1252"), "line 3: is not UTF-8; .* where it reads 'Müller'"),
        (UMLAUT.replace("\n", "\r").encode("latin-1"), "line 3: is not UTF-8"),
        ("path,label\nж.jpg,Pre\n".encode("cp1251"), "line 2: is not UTF-8; .*code page"),
        (UMLAUT.encode("mac-roman"), "line 3: is not UTF-8"),
        (codecs.BOM_UTF16_LE + UMLAUT.encode("utf-16-le")[:-1], "is damaged UTF-16-LE"),
        (UMLAUT.encode("utf-16-le"), "is UTF-16 without a byte order mark|is no text"),
        (b"path,label\na.jpg,\xff\x00\n", "is no text"),
        (UMLAUT.replace("ü", "\ufffd").encode(), "line 3: a program has lost letters"),
        (b"PK\x03\x04 and so on", "is a workbook"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), r"old Excel \(.xls\)"),
        (b"\n<html><table>", "HTML or XML"),
        (b"sep=:\npath:label\n", "line 1: cells separated by ':'"),
        (b"a.jpg,Benign\nb.jpg,Pre\n", "line 1: is a capture already, not the names .*; write path,label above it"),
        (b"a,b\nc,d\n", "columns path and label are missing; .* It names 'a', 'b'"),
        (b"path,patient\na.jpg,P1\n", "line 1: column label is missing"),
        (b"path,label\n\n", "has no row below its header"),
        (b"path,label,Label \na.jpg,Pre,Pre\n", "the column label is there 2 times"),
        (b'"path,label"\n"a.jpg,Pre"\n', "the whole line is one cell in quotation marks"),
        (b"path,label;;\na.jpg,Pre;;\n", "is the column 'label;;' the column label"),
        (b"path,label\na.jpg,Pre,P1\n", "line 2: has 3 cells and the header 2, 'P1' is too many"),
        (b"path,label,site\n\na.jpg,Pre\n", "line 3: has 2 cells and the header 3"),
        (b'path,label\na.jpg,"Pre\nb.jpg,Pro\n', "line 2: cannot be split into cells"),
        (b'path,label\na.jpg,"Pre"x\nb.jpg,Pro\n', "line 2: cannot be split into cells"),
        (b'path,label,note\na,Pre,"x\nb,Pro,y\nc,Pro,z"\n', "line 2: a quotation mark opens a cell"),
        (b'path,label\na.jpg,"Pre\nB"\n', "line 2: label holds a line break"),
        (b"path,label\na.jpg,Pre\x1b[2J\n", "line 2: label holds a line break or another control character"),
    ],
)
def test_what_is_not_certain_is_refused_with_its_cause(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=f"labels.csv.*{said.removeprefix('labels.csv')}"):
        read(tmp_path, content)


def test_how_to_save_it_right_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'save it again as CSV in UTF-8 \(Excel: Save As, file type "CSV UTF-8"'):
        read(tmp_path, UMLAUT.encode("cp1252"))


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("Patient_ID", "patient"),
        ("patient id", "patient"),
        ("patientid", "patient"),
        ("PatientID", "patient"),
        ("Patienten-Nr.", "patient"),
        ("patients", "patient"),
        ("patinet", "patient"),
        ("Subject", "patient"),
        ("case_id", "patient"),
        ("“patient”", "patient"),
        ("Set", "split"),
        ("data split", "split"),
        ("sites", "site"),
        ("klass", "label"),
        ("Class", "label"),
        ("true_label", "label"),
        ("lable", "label"),
        ("file", "path"),
        ("Filename", "path"),
        ("image path", "path"),
    ],
)
def test_a_column_that_nearly_has_a_known_name_is_refused_with_the_right_one(
    tmp_path: Path, column: str, meant: str
) -> None:
    names = [name for name in ("path", "label", "patient", "split", "site") if name != meant]
    text = f"{','.join([*names, column])}\n{','.join('x' * 5)}\n"
    with pytest.raises(DataError, match=f"line 1: is the column .* the column {meant}\\? Then call it {meant}"):
        read(tmp_path, text)


@pytest.mark.parametrize("column", ["size", "slide", "age", "date", "stain", "id", "notes", "microscope", "state"])
def test_other_columns_are_named_in_a_warning(tmp_path: Path, column: str) -> None:
    table = read(tmp_path, f"path,label,{column}\na.jpg,Pre,x\n")
    assert f"did not read the column {column!r}" in table.warnings[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read \(No such file"):
        read_table(tmp_path / "none.csv", NEEDED)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path, NEEDED)


@pytest.mark.parametrize(
    "other",
    ["p1", "P 1", "P\u200b1", "\N{CYRILLIC CAPITAL LETTER ER}1", "\N{FULLWIDTH LATIN CAPITAL LETTER P}1"],
)
def test_two_spellings_of_one_name_are_refused_with_both_lines(tmp_path: Path, other: str) -> None:
    table = read(tmp_path, f"path,label,patient\na,Pre,P1\nb,Pre,P2\nc,Pre,{other}\n")
    with pytest.raises(DataError, match=r"lines 2 and 4: are 'P1' and '.*' the same patient\?"):
        table.refuse_lookalikes("patient", "patient")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("001", "1"),
        ("1", "1.0"),
        ("Müller", "MU\u0308LLER"),
        ("P-1", "P–1"),
        ("O'Hara", "O’Hara"),
        ("Straße", "STRASSE"),
    ],
)
def test_names_that_a_spreadsheet_or_a_keyboard_changes_are_alike(one: str, other: str) -> None:
    assert alike(one) == alike(other)
    assert lookalikes([one, "x", other, one]) == [[one, other]]


@pytest.mark.parametrize(
    ("one", "other"), [("P1", "P2"), ("P1-1", "P11"), ("10", "1"), ("1.5", "15"), ("0", "1"), ("Muller", "Müller")]
)
def test_different_names_are_not_alike(one: str, other: str) -> None:
    assert alike(one) != alike(other)


def test_a_name_means_itself_or_the_only_one_alike() -> None:
    assert the_one_meant("benign ", ["Benign", "Pre"]) == "Benign"
    assert the_one_meant("a", ["A", "a"]) == "a"
    assert the_one_meant(" a", ["A", "a"]) is None
    assert the_one_meant("Late", ["Benign"]) is None
