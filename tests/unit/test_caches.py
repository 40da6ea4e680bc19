"""The cache folder saves time and nothing else: wherever it cannot be used, there is another one, or none."""

import os
import tempfile
from pathlib import Path

import pytest

from contract import caches
from contract.caches import find_cache
from contract.settings import Settings
from worker import cache as worker_cache


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the system, for this test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def unusable(tmp_path: Path) -> Path:
    """No user, and not even root, can make this folder."""
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "cache"


def fallback(temporary: Path) -> Path:
    return temporary / f"slide-screen-{os.geteuid()}"


def test_the_folder_that_was_chosen_is_made_for_this_user_alone(tmp_path: Path) -> None:
    found = find_cache(tmp_path / "a" / "cache")
    assert (found.folder, found.problem) == (tmp_path / "a" / "cache", None)
    assert (tmp_path / "a" / "cache").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "a" / "cache").iterdir()) == [], "it was tried, and nothing is left of that"


def test_without_a_chosen_one_it_is_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_cache(None).folder == tmp_path / "slide-screen"


def test_a_folder_that_cannot_be_written_to_is_replaced_by_one_in_the_temporary_folder(
    unusable: Path, temporary: Path
) -> None:
    found = find_cache(unusable)
    assert found.folder == fallback(temporary)
    assert found.problem is not None
    assert str(unusable) in found.problem
    assert str(found.folder) in found.problem
    assert find_cache(unusable).folder == found.folder, "the next process finds the same"


def test_a_user_without_a_home_has_a_cache_too(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(caches, "user_cache_path", homeless)
    found = find_cache(None)
    assert found.folder == fallback(temporary)
    assert "no home" in str(found.problem)


def test_a_folder_that_another_user_has_put_there_is_not_used(unusable: Path, temporary: Path) -> None:
    fallback(temporary).mkdir()
    fallback(temporary).chmod(0o777)
    found = find_cache(unusable)
    assert found.folder is None
    assert "nothing is kept" in str(found.problem)


def test_without_any_folder_there_is_no_cache(unusable: Path, temporary: Path) -> None:
    fallback(temporary).write_bytes(b"")
    assert find_cache(unusable).folder is None


def test_libraries_find_a_home_where_the_user_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: str) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setenv("HOME", "/home/anna")
    caches.give_libraries_a_home()
    assert os.environ["HOME"] == "/home/anna"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", homeless)
    caches.give_libraries_a_home()
    assert not Path.home().exists()


def test_a_worker_says_once_that_its_cache_is_elsewhere(
    unusable: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(worker_cache.log, "warning", said.append)
    settings = Settings(cache_dir=unusable)
    assert [worker_cache.cache_folder(settings) for _ in range(3)] == [fallback(temporary)] * 3
    assert len(said) == 1
    assert "SCREEN_CACHE_DIR" in said[0]
