"""True labels from a table, beside the patients of a run: matched by name, never by a guess."""

import codecs
from pathlib import Path

import pytest

from contract.errors import DataError, UsageError
from producer.truth import TrueLabels, read_truth

LABELS = ["Benign", "Early", "Pre", "Pro"]


def truth(folder: Path, content: str | bytes) -> TrueLabels:
    file = folder / "truth.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_truth(file)


@pytest.mark.parametrize(
    "content",
    [
        "patient,label\nP1,Pro\nP2,Benign\n",
        "\ufeffPatient;Label\r\nP1;Pro\r\n;\r\nP2;Benign\r\n",
        codecs.BOM_UTF16_LE + "patient\tlabel\r\nP1\tPro\r\nP2\tBenign\r\n".encode("utf-16-le"),
        "path,patient,label\na.jpg,P1 ,Pro\nb.jpg,P1,pro\nc.jpg,P2, benign\n",
    ],
)
def test_labels_are_read_and_get_the_spelling_of_the_bundle(
    tmp_path: Path, content: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert truth(tmp_path, content).of(["P1", "P2", "P3"], LABELS) == {"P1": "Pro", "P2": "Benign"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("patient,label\nP1,Pro\nP2,Pre\nP1,Pre\n", r"lines 2 and 4: patient P1 has two labels, Pro and Pre"),
        ("patient,label\nP1,Pro\np1,Pro\n", r"lines 2 and 3: are 'P1' and 'p1' the same patient"),
        ("patient,label\nP1,\n", r"line 2: patient or label is empty"),
        ("patient,label\n,Pro\n", r"line 2: patient or label is empty"),
        ("Patient_ID,label\nP1,Pro\n", r"line 1: is the column 'Patient_ID' the column patient\?"),
        ("patient,label\nMüller,Pro\n".encode("cp1252"), r"truth\.csv, line 2: is not UTF-8"),
        ("P1,Pro\nP2,Pre\n", r"line 1: columns patient and label are missing"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        truth(tmp_path, content)


def test_a_folder_is_matched_by_its_name_or_by_what_is_left_of_it_in_a_table(tmp_path: Path) -> None:
    read = truth(tmp_path, "patient,label\nP1,Pro\nMüller,Pre\nP 3,Early\nx,Benign\n")
    folders = ["P1 ", "Mu\u0308ller", "P  3", "x", "x "]
    assert read.of(folders, LABELS) == {"P1 ": "Pro", "Mu\u0308ller": "Pre", "P  3": "Early", "x": "Benign"}
    assert truth(tmp_path, "patient,label\nx,Pro\n").of([" x", "x "], LABELS) == {}, "nobody knows which of the two"


def test_patients_and_labels_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = truth(tmp_path, "patient,label,stain\n1,Pro,a\nP2,AML,a\nP3,Pre,a\n")
    assert read.of(["001", "P2", "P3"], LABELS) == {"P2": "AML", "P3": "Pre"}
    said = capsys.readouterr().err
    assert "did not read the column 'stain'" in said
    assert "patients who are not in this run: '1' (there is '001', the table says '1')" in said
    assert "labels that the bundle does not know, so that no result is right: 'AML'" in said


def test_a_table_of_another_archive_or_bundle_is_refused(tmp_path: Path) -> None:
    read = truth(tmp_path, "patient,label\np1,yes\np2,no\n")
    with pytest.raises(UsageError, match=r"none of its patients \('p1', 'p2'\) .* \(there is 'P1', the table"):
        read.check_patients(["P1", "P2"])
    read.check_patients(["p1"])
    for check in (read.check_labels, lambda labels: read.of(["p1"], labels)):
        with pytest.raises(UsageError, match=r"knows none of its labels \('yes', 'no'\); its labels are Benign, Early"):
            check(LABELS)
