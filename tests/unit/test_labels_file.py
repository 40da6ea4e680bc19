"""labels.csv against what is on disk: paths, patients, sites and rows that are written in several ways."""

import unicodedata
from pathlib import Path

import pytest

from contract.errors import DataError
from trainer.config import DataTable
from trainer.data import find_captures, read_data
from trainer.labelled import Found

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Früh") for form in ("NFC", "NFD"))


def found(root: Path, rows: str, *, on_disk: tuple[str, ...] = ("Pre/a.jpg", "Pre/b.jpg")) -> Found:
    for name in on_disk:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "labels.csv").write_text(rows, encoding="utf-8")
    return find_captures(root)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("Pre/a.jpg", "Pre/a.jpg"),
        ("./Pre/a.jpg", "Pre/a.jpg"),
        ("Pre//./a.jpg", "Pre/a.jpg"),
        (" Pre/a.jpg ", "Pre/a.jpg"),
        ("Pre\\a.jpg", "Pre/a.jpg"),
        (".\\Pre\\a.jpg", "Pre/a.jpg"),
        ("{root}/Pre/a.jpg", "Pre/a.jpg"),
        (f"{COMPOSED}/{COMPOSED}.jpg", f"{DECOMPOSED}/{DECOMPOSED}.jpg"),
        (f"{COMPOSED}\\{COMPOSED}.jpg", f"{DECOMPOSED}/{DECOMPOSED}.jpg"),
        (f"{DECOMPOSED}/c.jpg", f"{DECOMPOSED}/c.jpg"),
        ("blank/a.jpg", "blank /a.jpg"),
        ("slash\\ed.jpg", "slash\\ed.jpg"),
    ],
)
def test_a_path_is_found_as_it_is_on_disk(tmp_path: Path, written: str, path: str) -> None:
    names = ("Pre/a.jpg", f"{DECOMPOSED}/{DECOMPOSED}.jpg", f"{DECOMPOSED}/c.jpg", "blank /a.jpg", "slash\\ed.jpg")
    captures = found(tmp_path, f"path,label\n{written.format(root=tmp_path)},Pre\n", on_disk=names).captures
    assert [(one.path, one.patient, one.line) for one in captures] == [(path, path, 2)]


@pytest.mark.parametrize(
    "again",
    [
        "Pre/a.jpg",
        "./Pre/a.jpg",
        "Pre\\a.jpg",
        "link.jpg",
        "linked/a.jpg",
        f"{COMPOSED}.jpg",
        "{root}/Pre/../Pre/a.jpg",
    ],
)
@pytest.mark.parametrize(("label", "said"), [("Pre", None), ("Pro", "label 'Pre' and 'Pro'")])
def test_a_file_that_is_listed_twice_is_read_once_or_refused(
    tmp_path: Path, again: str, label: str, said: str | None
) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "Pre" / "a.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "Pre")
    (tmp_path / f"{DECOMPOSED}.jpg").symlink_to(tmp_path / "Pre" / "a.jpg")
    rows = f"path,label\nPre/a.jpg,Pre\nPre/b.jpg,Pre\n{again.format(root=tmp_path)},{label}\n"
    if said is not None:
        with pytest.raises(DataError, match=rf"labels\.csv, lines 2 and 4: both list .*, with the {said}; correct one"):
            found(tmp_path, rows)
        return
    read = found(tmp_path, rows)
    assert [one.path for one in read.captures] == ["Pre/a.jpg", "Pre/b.jpg"]
    assert read.warnings[0].endswith("1 line lists a file a second time, the first is line 4; each file is read once")


@pytest.mark.parametrize(("column", "values"), [("patient", "P1 P2"), ("split", "train test"), ("site", "north south")])
def test_a_file_with_two_values_of_any_column_is_refused(tmp_path: Path, column: str, values: str) -> None:
    one, other = values.split()
    with pytest.raises(DataError, match=f"lines 2 and 3: both list Pre/a.jpg, with the {column} '{one}' and '{other}'"):
        found(tmp_path, f"path,label,{column}\nPre/a.jpg,Pre,{one}\n./Pre/a.jpg,Pre,{other}\n")


def test_copies_of_one_file_under_two_names_are_two_captures(tmp_path: Path) -> None:
    (tmp_path / "Pre").mkdir()
    (tmp_path / "Pre" / "a.jpg").write_bytes(b"Pre/a.jpg")
    (tmp_path / "Pre" / "hard.jpg").hardlink_to(tmp_path / "Pre" / "a.jpg")
    assert len(found(tmp_path, "path,label\nPre/a.jpg,Pre\nPre/hard.jpg,Pre\n").captures) == 2


def test_blanks_around_a_patient_are_none(tmp_path: Path) -> None:
    read = found(tmp_path, f"path,label,patient\nPre/a.jpg,Pre,P1\nPre/b.jpg,Pre,P1 \nc.jpg,Pre,{DECOMPOSED}\n"
                 f"d.jpg,Pre, {COMPOSED}\n", on_disk=("Pre/a.jpg", "Pre/b.jpg", "c.jpg", "d.jpg"))  # fmt: skip
    assert [one.patient for one in read.captures] == ["P1", "P1", COMPOSED, COMPOSED]


@pytest.mark.parametrize(
    ("column", "one", "other", "kind"),
    [
        ("patient", "P1", "p1", "patient"),
        ("patient", "P 1", "P1", "patient"),
        ("patient", "007", "7", "patient"),
        ("site", "North", "north", "site"),
    ],
)
def test_two_spellings_never_become_two(tmp_path: Path, column: str, one: str, other: str, kind: str) -> None:
    with pytest.raises(DataError, match=f"lines 2 and 3: are '{one}' and '{other}' the same {kind}?"):
        found(tmp_path, f"path,label,{column}\nPre/a.jpg,Pre,{one}\nPre/b.jpg,Pre,{other}\n")


@pytest.mark.parametrize("nobody", ["nan", "NaN", "N/A", "#N/A", "#NV", "#REF!", "null", "None", "?", "unknown"])
def test_patients_that_are_nobody_are_refused(tmp_path: Path, nobody: str) -> None:
    with pytest.raises(DataError, match=r"labels\.csv, line 3: the patient is .*, which names nobody"):
        found(tmp_path, f"path,label,patient\nPre/a.jpg,Pre,P1\nPre/b.jpg,Pre,{nobody}\n")


@pytest.mark.parametrize("number", ["2.02E+10", '"2,02E+10"', "2E+10", "2.02e+10"])
def test_numbers_that_a_spreadsheet_has_shortened_are_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(DataError, match=r"labels\.csv, line 2: .* number that a spreadsheet has shortened"):
        found(tmp_path, f"path,label,patient\nPre/a.jpg,Pre,{number}\n")


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("Pre/A.JPG", r"\(there is Pre/a\.jpg\)"),
        ("DATA/Pre/a.jpg", r"\(there is Pre/a\.jpg\)"),
        ("C:\\Users\\me\\a.jpg", r"\(a path on another computer\)"),
        ("\\\\server\\share\\a.jpg", r"\(a path on another computer\)"),
        ("Pre", r"\(a folder\)"),
        ("FrÃ¼h/a.jpg", r"\(a program read UTF-8 as Windows-1252 and saved it so: is it Früh/a\.jpg\?\)"),
        ("gone.jpg", ";"),
    ],
)
def test_a_path_that_is_not_there_is_named_with_what_may_be_wrong(tmp_path: Path, written: str, hint: str) -> None:
    with pytest.raises(DataError, match=rf"labels\.csv, line 3: 1 listed file is missing, the first is .* ?{hint}"):
        found(tmp_path, f"path,label\nPre/a.jpg,Pre\n{written},Pre\n")


@pytest.mark.parametrize("junk", ["Pre/._a.jpg", "@eaDir/a.jpg", "Pre/.ipynb_checkpoints/a.jpg", "__MACOSX/Pre/a.jpg"])
def test_what_is_junk_in_an_archive_is_refused_in_a_table(tmp_path: Path, junk: str) -> None:
    with pytest.raises(DataError, match=r"labels\.csv, line 2: '.*' in the path is what an archive's walk leaves out"):
        found(tmp_path, f"path,label\n{junk},Pre\n", on_disk=(junk,))


def test_an_absolute_path_may_lead_through_a_hidden_folder(tmp_path: Path) -> None:
    (tmp_path / "DATA").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    rows = f"path,label\n{tmp_path}/.hidden/a.jpg,Pre\n../b.jpg,Pre\n"
    captures = found(tmp_path / "DATA", rows, on_disk=()).captures
    assert {one.path for one in captures} == {f"{tmp_path}/.hidden/a.jpg", "../b.jpg"}


def test_splits_and_labels_may_be_written_in_another_case(tmp_path: Path) -> None:
    rows = "path,label,split\nPre/a.jpg,pre,Train\nPre/b.jpg,Pre ,TEST\n"
    read = found(tmp_path, rows)
    assert [(one.label, one.split) for one in read.captures] == [("pre", "train"), ("pre", "test")]
    data = read_data(tmp_path, DataTable(), for_training=False)
    assert [one.label for one in data.captures] == ["Pre", "Pre"]
    assert data.warnings == ("the label 'pre' is read as 'Pre' (1 captures)",)


def test_a_table_that_is_a_dead_link_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "Pre").mkdir()
    (tmp_path / "Pre" / "a.jpg").write_bytes(b"a")
    (tmp_path / "labels.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read \(No such file"):
        find_captures(tmp_path)


def test_a_split_that_only_the_folders_tell_is_named(tmp_path: Path) -> None:
    names = ("train/Pre/a.jpg", "val/Pre/b.jpg")
    read = found(tmp_path, "path,label\ntrain/Pre/a.jpg,Pre\nval/Pre/b.jpg,Pre\n", on_disk=names)
    assert "no column split, though captures lie in folders called train and val" in read.warnings[0]
    rows = "path,label,split\ntrain/Pre/a.jpg,Pre,train\nval/Pre/b.jpg,Pre,validation\n"
    assert found(tmp_path, rows, on_disk=names).warnings == ()
