"""Walking an archive: every entry is a capture or named with the reason why not; no error looks like emptiness."""

import errno
import os
import random
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.archive import JUNK_FOLDERS, JUNK_NAMES, Archive, FoundCapture, walk_archive
from contract.errors import ArchiveError, ArchiveUnavailable, ExitCode, UsageError
from contract.imaging import SUFFIXES
from contract.names import display_name
from contract.states import SkipReason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive of two patients with one capture each."""
    folder = tmp_path / "archive"
    for name in ("P1/01.jpg", "P2/01.jpg"):
        put(folder, name)
    return folder


def put(root: Path, name: str | bytes, data: bytes = b"x") -> bytes:
    """Write a file below `root`, with its folders."""
    full = os.path.join(os.fsencode(root), os.fsencode(name))  # noqa: PTH118 - bytes
    os.makedirs(os.path.dirname(full), exist_ok=True)  # noqa: PTH103, PTH120 - bytes
    with open(full, "wb") as stream:  # noqa: PTH123 - bytes
        stream.write(data)
    return full


def paths(archive: Archive) -> list[bytes]:
    return [one.path for one in archive.captures]


def everything(archive: Archive) -> tuple[bytes, list[FoundCapture], dict[str, list[str]]]:
    return archive.root, list(archive.captures), archive.skipped


def refusal(folder: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        walk_archive(folder)
    assert caught.value.exit_code is ExitCode.USAGE
    return str(caught.value)


# What is found


def test_each_folder_below_the_root_is_a_patient_and_what_lies_below_is_theirs(root: Path) -> None:
    put(root, "P1/slide 2/left/02.PNG")
    archive = walk_archive(root)
    assert [(one.path, one.patient) for one in archive.captures] == [
        (b"P1/01.jpg", b"P1"),
        (b"P1/slide 2/left/02.PNG", b"P1"),
        (b"P2/01.jpg", b"P2"),
    ]
    assert archive.patients == 2
    assert archive.skipped == {}
    assert archive.root == os.path.realpath(os.fsencode(root))


def test_a_capture_has_the_size_and_the_time_of_its_file(root: Path) -> None:
    full = put(root, "P1/01.jpg", b"twelve bytes")
    os.utime(full, ns=(5, 1_700_000_000_123_456_789))
    first = next(iter(walk_archive(root).captures))
    assert (first.size_bytes, first.modified_ns) == (12, 1_700_000_000_123_456_789)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.jpe", "a.jfif", "a.png", "a.tif", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("spell", [str, str.upper, str.title])
def test_every_ending_of_a_capture_counts_in_any_spelling(root: Path, name: str, spell: Callable[[str], str]) -> None:
    put(root, f"P3/{spell(name)}")
    assert f"P3/{spell(name)}".encode() in paths(walk_archive(root))


def test_names_in_any_language_and_any_bytes_are_found(root: Path) -> None:
    names = ["Müller/Präparat 1.jpg".encode(), "患者/一.png".encode(), b"M\xfcller/\xff\xfe.tif", b"a\nb/new\nline.bmp"]
    for name in names:
        put(root, name)
    archive = walk_archive(root)
    assert set(names) < set(paths(archive))
    assert {one.patient for one in archive.captures} > {b"M\xfcller", "Müller".encode(), b"a\nb"}


def test_the_same_base_name_under_two_patients_is_two_captures(root: Path) -> None:
    assert paths(walk_archive(root)) == [b"P1/01.jpg", b"P2/01.jpg"]


def test_an_archive_may_itself_be_named_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert everything(walk_archive(tmp_path / "link")) == everything(walk_archive(root))


def test_captures_come_in_the_order_of_their_bytes_whatever_order_the_disk_has(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "P10/a.jpg",
        "P1/b/c.jpg",
        "P1/b.jpg",
        "P1/B.jpg",
        "Z/a.jpg",
        "é/a.jpg",
        "P1/.DS_Store",
        "P2/x.txt",
        "P2/a.txt",
    ):
        put(root, name)
    first = walk_archive(root)
    assert paths(first) == sorted(paths(first))
    assert len(paths(first)) == 8
    real, dice = os.scandir, random.Random(1)
    for _ in range(5):
        monkeypatch.setattr(
            os, "scandir", lambda path: _Listing(dice.sample(entries := list(real(path)), len(entries)))
        )
        assert everything(walk_archive(root)) == everything(first)


class _Listing:
    """What os.scandir returns: entries, usable in a `with`."""

    def __init__(self, entries: list["os.DirEntry[bytes]"]) -> None:
        self._entries = entries

    def __enter__(self) -> "_Listing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator["os.DirEntry[bytes]"]:
        return iter(self._entries)


# What is passed over


@pytest.mark.parametrize(
    "name",
    [
        "P1/.DS_Store",
        "P1/Thumbs.db",
        "P1/THUMBS.DB",
        "P1/desktop.ini",
        "P1/._01.jpg",
        "P1/.hidden.jpg",
        ".DS_Store",
        "Thumbs.db",
    ],
)
def test_junk_is_named_and_skipped(root: Path, name: str) -> None:
    put(root, name)
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.JUNK: [name]}
    assert len(archive.captures) == 2


@pytest.mark.parametrize("folder", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"])
@pytest.mark.parametrize("below", ["", "P1/"])
def test_a_junk_folder_is_named_and_not_entered(root: Path, folder: str, below: str) -> None:
    put(root, f"{below}{folder}/P1/01.jpg")
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.JUNK: [below + folder]}
    assert archive.patients == 2


@pytest.mark.parametrize("folder", [".snapshot", ".Trash-1000", ".thumbnails", ".@__thumb"])
def test_a_hidden_folder_is_junk_and_no_patient(root: Path, folder: str) -> None:
    put(root, f"{folder}/01.jpg")
    put(root, f"P1/{folder}/01.jpg")
    archive = walk_archive(root)
    assert {one.patient for one in archive.captures} == {b"P1", b"P2"}
    assert len(archive.captures) == 2
    assert sorted(archive.skipped[SkipReason.JUNK]) == sorted([folder, f"P1/{folder}"])


@pytest.mark.parametrize(
    "name", ["P1/notes.txt", "P1/scan.gif", "P1/scan.svs", "P1/jpg", "P1/a.jpg.part", "labels.csv"]
)
def test_a_file_with_another_ending_is_named(root: Path, name: str) -> None:
    put(root, name)
    assert walk_archive(root).skipped == {SkipReason.NOT_A_CAPTURE: [name]}


def test_a_capture_outside_every_patients_folder_is_named(root: Path) -> None:
    put(root, "stray.jpg")
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.NO_PATIENT: ["stray.jpg"]}
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg"]


def test_links_are_named_and_not_followed(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/01.jpg")
    links = {
        "P1/file.jpg": tmp_path / "elsewhere/01.jpg",
        "P1/folder": tmp_path / "elsewhere",
        "P1/loop": root,
        "P1/self": root / "P1/self",
        "P1/gone.jpg": tmp_path / "gone.jpg",
        "P3": root / "P1",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    archive = walk_archive(root)
    assert {reason: sorted(names) for reason, names in archive.skipped.items()} == {SkipReason.LINK: sorted(links)}
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg"]


def test_sockets_and_pipes_are_named_and_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "P1/pipe.jpg")
    monkeypatch.chdir(root)  # the address of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("P1/socket.jpg")
        archive = walk_archive(root)
    assert archive.skipped == {SkipReason.NOT_A_FILE: ["P1/pipe.jpg", "P1/socket.jpg"]}


def test_skipped_names_are_safe_to_print(root: Path) -> None:
    put(root, b"P1/M\xfcller\n\x1b[2J.txt")
    (shown,) = walk_archive(root).skipped[SkipReason.NOT_A_CAPTURE]
    assert shown == display_name(b"P1/M\xfcller\n\x1b[2J.txt")
    assert shown.isprintable()


def test_every_entry_is_either_a_capture_or_named(root: Path) -> None:
    for name in ("a.jpg", "P1/b.txt", "P1/x/c.TIF", "P1/x/Thumbs.db", "P4/d.bmp", "P4/._d.bmp", "__MACOSX/e.jpg"):
        put(root, name)
    archive = walk_archive(root)
    named = [name for names in archive.skipped.values() for name in names]
    found = [display_name(path) for path in paths(archive)]
    expected = ["P1/01.jpg", "P2/01.jpg", "a.jpg", "P1/b.txt", "P1/x/c.TIF", "P1/x/Thumbs.db"]
    expected += ["P4/d.bmp", "P4/._d.bmp", "__MACOSX"]
    assert sorted(found + named) == sorted(expected)


NAMES = st.one_of(
    st.binary(min_size=1, max_size=8).map(lambda name: re.sub(rb"[/\0]", b"_", name)),
    st.sampled_from(
        [b"a.jpg", b"A.JPG", b"b.png", b"P1", b"p1", b".hidden", b"._a.jpg", b"Thumbs.db", b"__MACOSX", b"a"]
    ),
).filter(lambda name: name not in (b".", b".."))
ENTRIES = st.sampled_from(["file", "file", "file", "link to a file", "link to a folder", "link to itself", "pipe"])
TREES = st.recursive(ENTRIES, lambda below: st.dictionaries(NAMES, below, max_size=5), max_leaves=20)


def plant(folder: bytes, tree: dict[bytes, Any]) -> Iterator[tuple[bytes, str]]:
    """Make the tree; yields path and kind of everything in it that is no folder."""
    for name, kind in tree.items():
        path = os.path.join(folder, name)  # noqa: PTH118 - bytes
        if isinstance(kind, dict):
            os.mkdir(path)  # noqa: PTH102 - bytes
            yield from plant(path, kind)
            continue
        yield path, kind
        if kind == "file":
            put(Path(os.fsdecode(folder)), name)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            targets = {"link to a file": b"/etc/hostname", "link to a folder": b"/etc", "link to itself": name}
            os.symlink(targets[kind], path)  # noqa: PTH211 - bytes


ENDINGS = tuple(suffix.encode() for suffix in SUFFIXES)


def is_junk(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in JUNK_NAMES | JUNK_FOLDERS


@given(st.dictionaries(NAMES, TREES, max_size=5))
@settings(max_examples=200, deadline=None)
def test_of_any_tree_each_file_is_a_capture_or_named(tree: dict[bytes, Any]) -> None:
    captures: list[bytes] = []
    others: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.realpath(os.fsencode(folder))
        for path, kind in plant(root, tree):
            *folders, name = path.removeprefix(root + b"/").split(b"/")
            if any(map(is_junk, folders)):
                continue  # the folder itself is named
            is_capture = kind == "file" and folders and not is_junk(name) and name.lower().endswith(ENDINGS)
            (captures if is_capture else others).append(b"/".join([*folders, name]))
        if not captures:
            refusal(Path(folder))
            return
        archive = walk_archive(Path(folder))
    assert paths(archive) == sorted(captures, key=lambda path: (path.split(b"/")[0], path)), "patient by patient"
    assert [one.patient for one in archive.captures] == [one.path.split(b"/")[0] for one in archive.captures]
    named = {name for names in archive.skipped.values() for name in names}
    assert {display_name(path) for path in others} <= named
    assert named.isdisjoint(map(display_name, captures))


# What is refused


def test_no_such_folder(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert "no such folder" in refusal(tmp_path / "dangling")


def test_a_file_is_no_archive(tmp_path: Path) -> None:
    put(tmp_path, "capture.jpg")
    assert "is a file" in refusal(tmp_path / "capture.jpg")


def test_an_empty_folder_is_no_archive(tmp_path: Path) -> None:
    assert "it is empty" in refusal(tmp_path)


def test_folders_without_captures_are_no_archive(tmp_path: Path) -> None:
    (tmp_path / "P1").mkdir()
    refusal(tmp_path)
    put(tmp_path, "P1/notes.txt")
    put(tmp_path, "P1/.DS_Store")
    assert "none of its 2 files is a capture" in refusal(tmp_path)


def test_a_folder_of_only_loose_captures_is_taken_for_one_patients_folder(tmp_path: Path) -> None:
    put(tmp_path, "01.jpg")
    put(tmp_path, "02.jpg")
    text = refusal(tmp_path)
    assert "2 captures but no folder of a patient" in text
    assert "name the folder above it" in text


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "loose"])
def test_a_refusal_can_be_printed_whatever_the_folder_is_called(tmp_path: Path, kind: str) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller\x1b[2J"))
    if kind == "file":
        folder.touch()
    elif kind != "missing":
        folder.mkdir()
    if kind == "loose":
        put(folder, "01.jpg")
    text = refusal(folder)
    text.encode("utf-8")
    assert text.isprintable()


# What goes wrong while walking. These tests run as root too, whom no permission stops: the error is simulated.


def failing(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Let listing `folder` fail with this errno."""
    real = os.scandir

    def scandir(path: bytes) -> object:
        if os.path.realpath(path) == os.path.realpath(os.fsencode(folder)):
            raise OSError(number, os.strerror(number), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("below", ["", "P2", "P2/slide"])
def test_a_folder_that_may_not_be_read_stops_the_submit_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, below: str, number: int
) -> None:
    (root / "P2/slide").mkdir()
    failing(monkeypatch, root / below, number)
    text = refusal(root)
    assert "may not be read by this user" in text
    assert text.startswith(below or "the archive's root")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.ETIMEDOUT])
def test_storage_that_does_not_answer_is_unavailable_and_nothing_is_submitted_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing(monkeypatch, root / "P2", number)
    with pytest.raises(ArchiveUnavailable, match="P2: cannot be listed") as caught:
        walk_archive(root)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert caught.value.retryable


class _Entry:
    """A directory entry that behaves otherwise than the file system's in one respect."""

    def __init__(self, real: "os.DirEntry[bytes]", **other: Callable[..., object]) -> None:
        self._real = real
        self.__dict__.update(other)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def replacing(monkeypatch: pytest.MonkeyPatch, name: bytes, **other: Callable[..., object]) -> None:
    """Let every entry called `name` behave otherwise."""
    real = os.scandir

    def scandir(path: bytes) -> _Listing:
        with real(path) as entries:
            return _Listing([_Entry(e, **other) if e.name == name else e for e in entries])  # type: ignore[misc]

    monkeypatch.setattr(os, "scandir", scandir)


def _raise(number: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_removed_between_listing_and_looking_is_not_in_the_archive(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "P2/02.jpg")
    real = os.scandir

    def scandir(path: bytes) -> _Listing:
        with real(path) as listing:
            entries = list(listing)
        if any(entry.name == b"02.jpg" for entry in entries):
            (root / "P2/02.jpg").unlink()
        return _Listing(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    archive = walk_archive(root)
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg"]
    assert archive.skipped == {}


@pytest.mark.parametrize("method", ["stat", "is_dir", "is_file", "is_symlink"])
def test_an_error_on_one_entry_is_never_taken_for_an_absent_file_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    put(root, "P2/02.jpg")
    replacing(monkeypatch, b"02.jpg", **{method: _raise(errno.EIO)})
    with pytest.raises(ArchiveUnavailable, match="P2"):
        walk_archive(root)


def test_an_entry_that_may_not_be_looked_at_is_the_users_to_mend_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "P2/02.jpg")
    replacing(monkeypatch, b"02.jpg", stat=_raise(errno.EACCES))
    with pytest.raises(UsageError, match=r"P2/02\.jpg: may not be read"):
        walk_archive(root)


def test_an_archive_too_large_for_memory_lies_on_the_disk_and_reads_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patient in range(20):
        for capture in range(20):
            put(root, f"P{patient:02d}/{capture:02d}.jpg")
    in_memory = walk_archive(root)
    monkeypatch.setattr("contract.archive.IN_MEMORY_BYTES", 500)
    on_disk = walk_archive(root)
    assert on_disk.captures._spool._rolled  # type: ignore[attr-defined]
    assert everything(on_disk) == everything(on_disk) == everything(in_memory)
    assert len(on_disk.captures) == len(paths(in_memory)) > 400
