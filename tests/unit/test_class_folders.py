"""A folder for each class: what is junk, what is read in another spelling, and layouts that only look like it."""

from pathlib import Path

import pytest

from contract.errors import DataError
from trainer.config import DataTable
from trainer.data import find_captures, read_data


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


@pytest.mark.parametrize("base", ["", "Original/", "original/"])
@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", ".hidden"])
def test_junk_is_neither_a_class_nor_a_capture_of_one(tmp_path: Path, base: str, folder: str) -> None:
    real = [f"{base}Benign/0.jpg", f"{base}Pre/series/1.jpg"]
    junk = [f"{base}{folder}/2.jpg", f"{base}{folder}/Pre/2.jpg", f"{base}Pre/{folder}/3.jpg", f"{base}Pre/._1.jpg"]
    found = find_captures(files(tmp_path, *real, *junk, f"{base}Benign/Thumbs.db"))
    assert [(one.path, one.label) for one in found.captures] == list(zip(real, ["Benign", "Pre"], strict=True))
    assert found.warnings == ()


def test_a_class_in_another_case_is_read_as_the_known_one_and_named(tmp_path: Path) -> None:
    root = files(tmp_path, "benign/0.jpg", "Benign/1.jpg", "PRE/2.jpg", "Pro /3.jpg")
    data = read_data(root, DataTable(), for_training=False)
    assert {one.path: one.label for one in data.captures} == {
        "benign/0.jpg": "Benign", "Benign/1.jpg": "Benign", "PRE/2.jpg": "Pre", "Pro /3.jpg": "Pro",
    }  # fmt: skip
    assert sorted(data.warnings) == [
        "the label 'PRE' is read as 'Pre' (1 captures)", "the label 'benign' is read as 'Benign' (1 captures)",
    ]  # fmt: skip


def test_without_known_labels_the_most_frequent_spelling_counts(tmp_path: Path) -> None:
    found = find_captures(files(tmp_path, "benign/0.jpg", "Benign/1.jpg", "Benign/2.jpg", "Pre/3.jpg"))
    assert sorted({one.label for one in found.captures}) == ["Benign", "Pre"]
    assert found.warnings == ("the label 'benign' is read as 'Benign' (1 captures)",)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("train/Benign/0.jpg", "train/Pre/1.jpg", "val/Benign/2.jpg"),
            r"holds train \(with Benign, Pre\) and val \(with Benign\), which look like parts of a split, not like "
            r"labels; .*\. Write .*/labels\.csv with the columns path, label, split \(train, validation, test\) and, "
            r"if you know it, patient; or name one part, such as .*/train",
        ),
        (("Training/Pre/0.jpg", "Test_Set/Pre/0.jpg"), r"holds Test_Set \(with Pre\) and Training \(with Pre\)"),
        (("Original/train/Pre/0.jpg", "Original/valid/Pre/0.jpg"), r"Original: holds train .* and valid"),
        (("fold1/Pre/0.jpg", "fold2/Pre/0.jpg"), r"holds fold1 .* and fold2"),
        (("Benign/0.jpg", "test/Benign/1.jpg"), r"holds test \(with Benign\)"),
        (("train/0.jpg", "val/0.jpg"), r"holds train and val, which .* patient$"),
        (("Benign/train/0.jpg", "Pre/test/1.jpg"), r"holds test and train in the folders of its classes"),
        (("train/labels.csv", "train/P1/0.jpg", "val/P2/0.jpg"), r"or name one part, such as .*/train"),
    ],
)
def test_a_split_by_folders_is_refused_with_what_was_found(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_captures(files(tmp_path, *names))


def test_a_class_may_be_called_like_a_part_of_a_split(tmp_path: Path) -> None:
    table = DataTable(labels=["test", "Pre"], benign_label="test")
    data = read_data(files(tmp_path, "test/0.jpg", "Pre/train/1.jpg"), table, for_training=False)
    assert [one.label for one in data.captures] == ["Pre", "test"]


@pytest.mark.parametrize(
    "name",
    [
        "Labels.csv",
        "LABELS.CSV",
        "labels.csv.txt",
        "labels (1).csv",
        "labels.xlsx",
        "label.csv",
        "labels_new.csv",
        "Original/labels.csv",
    ],
)
def test_a_table_of_another_name_is_not_passed_over(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"holds .*, and only .*/labels\.csv is read; save it there as CSV"):
        find_captures(files(tmp_path, "Pre/0.jpg", name))


def test_a_workbook_beside_labels_csv_is_no_matter(tmp_path: Path) -> None:
    files(tmp_path, "Pre/0.jpg", "labels.xlsx")
    (tmp_path / "labels.csv").write_text("path,label\nPre/0.jpg,Pre\n")
    assert len(find_captures(tmp_path).captures) == 1


def test_the_folder_that_holds_the_classes_is_named(tmp_path: Path) -> None:
    files(tmp_path, "set/blood/Benign/0.jpg", "set/blood/pre/0.jpg")
    with pytest.raises(DataError, match=r"label 'set', which is not in the set.*Is .*/set/blood the folder to name\?"):
        read_data(tmp_path, DataTable(), for_training=False)


def test_captures_that_are_left_out_are_named(tmp_path: Path) -> None:
    found = find_captures(files(tmp_path, "Pre/0.jpg", "loose.jpg", "Pre/1.czi", "README.txt"))
    assert found.warnings == (
        f"{tmp_path}: left out 1 files outside of every class's folder: loose.jpg",
        f"{tmp_path}: left out 1 files (not_a_capture): Pre/1.czi",
    )
