"""Files and folders exist completely or not at all."""

import stat
from pathlib import Path

import pytest

from contract.files import whole_folder, write_whole


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "missing" / "x.bundle"
    with whole_folder(out) as folder:
        (folder / "a").write_text("a")
        assert not out.exists()
    assert names_in(out.parent) == ["x.bundle"]
    assert names_in(out) == ["a"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


def test_after_an_error_nothing_of_a_folder_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "x.bundle") as folder:
            (folder / "a").write_text("a")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names_in(tmp_path) == []


def test_a_folder_that_has_appeared_meanwhile_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "x.bundle"

    def meet() -> None:
        with whole_folder(out):
            out.mkdir()
            (out / "theirs").write_text("1")

    with pytest.raises(FileExistsError, match="appeared in the meantime"):
        meet()
    assert names_in(out) == ["theirs"]
    with whole_folder(out, replace=True) as folder:
        (folder / "ours").write_text("2")
    assert names_in(out) == ["ours"]
    assert names_in(tmp_path) == ["x.bundle"]


def test_a_file_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    write_whole(file, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "\ud800")
    assert file.read_text() == "before"
    assert names_in(tmp_path) == ["x.csv"]
