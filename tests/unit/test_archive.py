"""Walking an archive: every entry is a capture or named with the reason why not; no error looks like emptiness."""

import errno
import os
import random
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.archive import MAX_PATH_BYTES, Archive, FoundCapture, walk, walk_archive
from contract.entries import is_junk
from contract.errors import ArchiveError, ArchiveUnavailable, ExitCode
from contract.imaging import SUFFIXES
from contract.names import display_name
from contract.states import NoCaptures, SkipReason
from tests.support.archives import encode, picture


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


def absent(archive: Archive) -> list[tuple[bytes, NoCaptures, str]]:
    return [(one.patient, one.code, one.reason) for one in archive.without_captures]


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


BINS = [
    "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle", "#Recycle", "@Recycle",
    "@recycle", "#snapshot", "#SNAPSHOT", "@Recently-Snapshot", "RECYCLER", "Recycled", "@tmp", "#Trash", "~snapshot",
    "Network Trash Folder", "FOUND.000", ".Trash-1000", ".Trash-65534", ".Trash", ".Trashes", ".snapshot", ".zfs",
    ".AppleDouble", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".thumbnails", ".@__thumb",
]  # fmt: skip


@pytest.mark.parametrize("folder", BINS)
@pytest.mark.parametrize("below", ["", "P1/"])
def test_a_junk_folder_is_named_and_not_entered(root: Path, folder: str, below: str) -> None:
    put(root, f"{below}{folder}/P1/01.jpg")
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.JUNK: [below + folder]}
    assert archive.patients == 2


@pytest.mark.parametrize("folder", BINS)
def test_a_junk_folder_is_not_even_listed(root: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """`lost+found` belongs to root, and may be read by nobody else."""
    put(root, f"{folder}/P1/01.jpg")
    failing(monkeypatch, root / folder, errno.EACCES)
    archive = walk_archive(root)
    assert (paths(archive), archive.without_captures) == ([b"P1/01.jpg", b"P2/01.jpg"], [])


@pytest.mark.parametrize("folder", ["lost", "recycle", "Trash", "snapshot-2026", "P#recycle", "@", "#1"])
def test_a_folder_with_another_name_is_a_patient(root: Path, folder: str) -> None:
    put(root, f"{folder}/01.jpg")
    assert folder.encode() in {one.patient for one in walk_archive(root).captures}


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


NUMBERS = [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT, errno.ETIMEDOUT]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_root_that_may_not_be_read_stops_the_submit_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing(monkeypatch, root, number)
    text = refusal(root)
    assert text.startswith("the archive's root: may not be read by this user")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.ETIMEDOUT])
def test_a_root_whose_storage_does_not_answer_is_unavailable_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing(monkeypatch, root, number)
    with pytest.raises(ArchiveUnavailable, match="the archive's root: cannot be listed") as caught:
        walk_archive(root)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert caught.value.retryable


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("below", ["P2", "P2/slide"])
def test_a_folder_that_cannot_be_listed_names_its_patient_and_stops_nobody_else_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, below: str, number: int
) -> None:
    """The rest of the patient is not submitted either: a result must rest on all of a patient's captures."""
    (root / "P2/slide").mkdir()
    put(root, "P3/01.jpg")
    failing(monkeypatch, root / below, number)
    archive = walk_archive(root)
    assert paths(archive) == [b"P1/01.jpg", b"P3/01.jpg"]
    ((patient, code, reason),) = absent(archive)
    assert (patient, code) == (b"P2", NoCaptures.NOT_READABLE)
    what = "slide in its folder" if below == "P2/slide" else "its folder"
    how = "may not be read by this user" if number in (errno.EACCES, errno.EPERM) else "cannot be read"
    assert reason.startswith(f"{what} {how}")
    assert archive.complete


def test_an_archive_that_goes_away_while_it_is_walked_is_unavailable_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder that cannot be read is its patient's trouble; if the root is gone too, it is everybody's."""
    real, listed = os.scandir, list[str]()

    def scandir(path: bytes) -> object:
        listed.append(os.path.relpath(os.fsdecode(path), root))
        if "P2" in listed:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ArchiveUnavailable, match="the archive's root: cannot be listed"):
        walk_archive(root)
    assert listed == [".", "P1", "P2", "."]


def test_an_archive_that_leaves_its_empty_mount_point_behind_is_unavailable_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, listed = os.scandir, list[bytes]()

    def scandir(path: bytes) -> object:
        listed.append(path)
        if os.path.basename(path) == b"P2":  # noqa: PTH119 - bytes
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _Listing([]) if len(listed) > 3 else real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ArchiveUnavailable, match="has become empty"):
        walk_archive(root)


@pytest.mark.parametrize(("number", "error"), [(errno.EACCES, ArchiveError), (errno.EIO, ArchiveUnavailable)])
def test_an_archive_of_which_nothing_can_be_read_is_refused_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    put(tmp_path, "P1/01.jpg")
    failing(monkeypatch, tmp_path / "P1", number)
    with pytest.raises(error, match="no captures that can be read: P1: its folder"):
        walk_archive(tmp_path)


def test_a_tree_for_training_must_be_readable_as_a_whole_simulated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, root / "P2", errno.EACCES)
    with pytest.raises(ArchiveError, match="P2: may not be read"):
        walk(root, follow_links=True)


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


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("method", ["stat", "is_dir", "is_file", "is_symlink"])
def test_an_error_on_one_entry_is_never_taken_for_an_absent_file_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    put(root, "P2/02.jpg")
    replacing(monkeypatch, b"02.jpg", **{method: _raise(number)})
    archive = walk_archive(root)
    assert paths(archive) == [b"P1/01.jpg"]
    ((patient, code, reason),) = absent(archive)
    assert (patient, code) == (b"P2", NoCaptures.NOT_READABLE)
    assert reason.startswith("02.jpg in its folder")


@pytest.mark.parametrize("method", ["is_dir", "is_symlink"])
def test_an_entry_of_the_root_that_cannot_be_looked_at_may_be_a_patient_simulated(
    root: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    put(root, "P0")
    replacing(monkeypatch, b"P0", **{method: _raise(errno.EIO)})
    archive = walk_archive(root)
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg"]
    assert [(patient, code) for patient, code, _ in absent(archive)] == [(b"P0", NoCaptures.NOT_READABLE)]


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


# Patients without captures


def plant_links(root: Path) -> None:
    (root / "P9").mkdir()
    (root / "P9/a.jpg").symlink_to(root / "P1/01.jpg")
    (root / "P9/more").symlink_to(root / "P1")


def plant_nothing_but_junk(root: Path) -> None:
    put(root, "P9/.DS_Store")
    put(root, "P9/@eaDir/01.jpg")


def plant_slides(root: Path) -> None:
    for name in ("a.czi", "b.CZI", "deep/c.czi", "d.svs", "Thumbs.db"):
        put(root, f"P9/{name}")


ABSENT: dict[str, tuple[Callable[[Path], object], NoCaptures, str]] = {
    "empty": (lambda root: (root / "P9").mkdir(), NoCaptures.EMPTY, "its folder is empty"),
    "empty below": (lambda root: (root / "P9/a/b").mkdir(parents=True), NoCaptures.EMPTY, "its folder is empty"),
    "junk": (plant_nothing_but_junk, NoCaptures.EMPTY, "its folder holds nothing but junk"),
    "links": (plant_links, NoCaptures.ONLY_LINKS, "its folder holds only links, which are not followed: 2 links"),
    "link": (
        lambda root: (root / "P9").symlink_to(root / "P1"),
        NoCaptures.ONLY_LINKS,
        "its folder is a link, which is not followed",
    ),
    "slides": (plant_slides, NoCaptures.NO_CAPTURE_FILES, "its folder holds no captures: 3 .czi files, 1 .svs file"),
    "text": (
        lambda root: put(root, "P9/README"),
        NoCaptures.NO_CAPTURE_FILES,
        "its folder holds no captures: 1 file without an ending",
    ),
}


@pytest.mark.parametrize("what", ABSENT)
def test_a_patient_without_captures_is_named_with_the_reason(root: Path, what: str) -> None:
    make, code, reason = ABSENT[what]
    make(root)
    archive = walk_archive(root)
    assert absent(archive) == [(b"P9", code, reason)]
    assert archive.patients == 2


def test_a_link_that_leads_to_no_folder_is_no_patient(root: Path) -> None:
    (root / "to a file").symlink_to(root / "P1/01.jpg")
    (root / "nowhere").symlink_to(root / "gone")
    (root / ".Trash").symlink_to(root / "P1")
    assert walk_archive(root).without_captures == []


@given(st.dictionaries(NAMES, TREES, max_size=5))
@settings(max_examples=100, deadline=None)
def test_of_any_tree_each_folder_of_a_patient_has_captures_or_is_named(tree: dict[bytes, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.realpath(os.fsencode(folder))
        list(plant(root, tree))
        archive = walk(Path(folder))
    links = {name for name, kind in tree.items() if kind == "link to a folder" and not is_junk(name)}
    folders = {name for name, below in tree.items() if isinstance(below, dict) and not is_junk(name)}
    with_captures = {one.patient for one in archive.captures}
    without = [one.patient for one in archive.without_captures]
    assert sorted([*with_captures, *without]) == sorted(folders | links)


# The depth of the patients


def test_patients_may_lie_deeper(root: Path) -> None:
    for name in ("2026-11-23/P1/a.jpg", "2026-11-23/P1/slide/b.jpg", "2026-11-24/P1/a.jpg", "2026-11-24/P0/a.jpg"):
        put(root, name)
    archive = walk_archive(root, patient_depth=2)
    assert [(one.patient, one.path) for one in archive.captures] == [
        (b"2026-11-23/P1", b"2026-11-23/P1/a.jpg"),
        (b"2026-11-23/P1", b"2026-11-23/P1/slide/b.jpg"),
        (b"2026-11-24/P0", b"2026-11-24/P0/a.jpg"),
        (b"2026-11-24/P1", b"2026-11-24/P1/a.jpg"),
    ]
    assert absent(archive) == [
        (
            name,
            NoCaptures.NOT_AT_DEPTH,
            "it is above the patients' folders and holds captures (1), but no patient's folder",
        )
        for name in (b"P1", b"P2")
    ]
    assert archive.skipped == {SkipReason.NO_PATIENT: ["P1/01.jpg", "P2/01.jpg"]}


def test_a_folder_above_the_patients_that_cannot_be_listed_leaves_the_archive_incomplete_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/P1/01.jpg", "b/P1/01.jpg"):
        put(tmp_path, name)
    (tmp_path / "c").mkdir()
    failing(monkeypatch, tmp_path / "b", errno.EACCES)
    archive = walk_archive(tmp_path, patient_depth=2)
    assert paths(archive) == [b"a/P1/01.jpg"]
    assert [(patient, code) for patient, code, _ in absent(archive)] == [
        (b"b", NoCaptures.NOT_READABLE),
        (b"c", NoCaptures.NOT_AT_DEPTH),
    ]
    assert not archive.complete


LAYOUTS: dict[str, tuple[list[str], str | None]] = {
    "flat": (["P1/a.jpg", "P2/a.jpg"], None),
    "one slide each": (["P1/s/a.jpg", "P2/s/a.jpg"], None),
    "captures beside slides": (["P1/a.jpg", "P1/s/a.jpg", "P1/t/a.jpg"], None),
    "one of them is flat": (["A/P1/a.jpg", "A/P2/a.jpg", "P3/a.jpg"], None),
    "wards": (["A/P1/a.jpg", "A/P2/a.jpg", "B/P3/s/a.jpg", "B/P4/a.jpg"], "holds several folders with captures"),
    "dates": (["2026-11-23/P1/a.jpg", "2026-11-24/P2/a.jpg"], "has a date as its name; if the folders in them are"),
    "German dates": (["23.11.2026/P1/a.jpg", "24.11.26/P2/a.jpg"], "has a date as its name"),
    "months": (["2026-10/P1/a.jpg", "Nov 2026/P2/a.jpg", "2025/P1/a.jpg"], "has a date as its name"),
    "dates with words": (["20261123 evening/P1/a.jpg"], "has a date as its name"),
    "captures by date": (["2026-11-23/a.jpg"], "has a date as its name; if they hold captures of several"),
    "personal numbers": (["19450312-1234/a.jpg", "20011224-0001/a.jpg"], None),
    "numbers": (["00231511/a.jpg", "99999999/a.jpg"], None),
    "a date among others": (["2026-11-23/P1/a.jpg", "P2/a.jpg"], None),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_folders_that_look_as_if_the_patients_lay_deeper_are_doubted(tmp_path: Path, what: str) -> None:
    files, doubt = LAYOUTS[what]
    for name in files:
        put(tmp_path, name)
    said = walk_archive(tmp_path).layout.doubt(1)
    assert said is None if doubt is None else doubt in str(said)
    assert said is None or "--patient-depth 2" in said or "make a folder for each" in said


# What no database takes


@pytest.mark.parametrize("year", [1, 1600, 1677, 1969, 2262, 2263, 2446, 9999])
def test_a_time_out_of_the_databases_range_costs_no_capture(
    root: Path, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """Not every file system keeps such a time, so the entry's status is made up."""
    seconds = (year - 1970) * 31_556_952
    times = [seconds] * 3 + [float(seconds)] * 3 + [seconds * 10**9] * 3
    status = os.stat_result((0o100644, 1, 1, 1, 0, 0, 7, *times))
    put(root, "P2/02.jpg")
    replacing(monkeypatch, b"02.jpg", stat=lambda **_: status)
    found = {one.path: one for one in walk_archive(root).captures}
    assert len(found) == 3
    stored = found[b"P2/02.jpg"].modified_ns
    assert -(2**63) <= stored < 2**63
    assert (stored - seconds * 10**9) % 2**64 == 0


Deep = Callable[[str, int, int], bytes]


@pytest.fixture
def deep(root: Path) -> Iterator[Deep]:
    """Makes a capture of a patient below so many folders with names of this length, and returns its path, which may be
    too long to use. Afterwards the folders are removed, which Python would do too recursively.
    """

    def make(patient: str, levels: int, length: int) -> bytes:
        name = b"d" * length
        (root / patient).mkdir(exist_ok=True)
        handle = os.open(root / patient, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=handle)
            below = os.open(name, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = below
        os.close(os.open("x.jpg", os.O_CREAT, dir_fd=handle))
        os.close(handle)
        return os.path.join(os.fsencode(patient), *[name] * levels, b"x.jpg")  # noqa: PTH118 - bytes

    yield make
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_folders_hundreds_deep_are_walked(root: Path, deep: Deep) -> None:
    path = deep("P2", 700, 2)
    assert paths(walk_archive(root)) == [b"P1/01.jpg", b"P2/01.jpg", path]


@pytest.mark.parametrize(("levels", "length"), [(10, 248), (10, 250), (20, 250), (1500, 2)])
def test_a_path_too_long_for_an_index_costs_that_capture_alone(
    root: Path, deep: Deep, levels: int, length: int
) -> None:
    path = deep("P2", levels, length)
    archive = walk_archive(root)
    if len(path) <= MAX_PATH_BYTES:
        assert paths(archive)[2:] == [path]
        assert archive.skipped == {}
        return
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg"]
    ((reason, (shown,)),) = archive.skipped.items()
    assert reason == SkipReason.PATH_TOO_LONG
    assert display_name(path).startswith(shown)
    assert archive.unscreened


def test_a_path_too_long_for_the_system_costs_that_capture_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a root whose own path is long. The system would refuse to open the file."""
    monkeypatch.setattr("contract.archive._SYSTEMS_PATH_BYTES", len(os.fsencode(root)) + 1 + len("P2/slide/02.jpg"))
    put(root, "P2/slide/02.jpg")
    put(root, "P2/slide/2.jpg")
    archive = walk_archive(root)
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg", b"P2/slide/2.jpg"]
    assert archive.skipped == {SkipReason.PATH_TOO_LONG: ["P2/slide/02.jpg"]}


def test_a_patient_with_nothing_but_paths_that_are_too_long_is_not_readable(root: Path, deep: Deep) -> None:
    deep("P9", 20, 250)
    assert absent(walk_archive(root)) == [
        (b"P9", NoCaptures.NOT_READABLE, "its folder holds no capture that can be read: 1 path that is too long")
    ]


# Captures by their content


HEADS = {
    "jpeg": encode(picture("Pro"), "JPEG"),
    "png": encode(picture("Pro"), "PNG"),
    "bmp": encode(picture("Pro"), "BMP"),
    "tiff": encode(picture("Pro"), "TIFF"),
    "tiff, big-endian": b"MM\0*\0\0\0\x08",
    "BigTIFF": b"II+\0\x08\0\0\0",
}
SILENT = ["001", "IMG_7", "a.", "x.dcm", "x.DCM", "x.dat", "x.img", "x.001", "1.2.840.7", "Dr. Roe left"]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", SILENT)
def test_a_file_whose_ending_says_nothing_is_a_capture_by_its_content(root: Path, name: str, kind: str) -> None:
    put(root, f"P3/{name}", HEADS[kind])
    archive = walk_archive(root)
    assert paths(archive) == [b"P1/01.jpg", b"P2/01.jpg", f"P3/{name}".encode()]
    assert archive.skipped == {}


@pytest.mark.parametrize("name", ["x.czi", "x.svs", "x.txt", "x.thm", "x.jpg.part", "x.jpg~", "x.lsm", "x.html"])
def test_a_file_whose_ending_says_what_it_is_is_not_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(root, f"P3/{name}", HEADS["tiff"])
    monkeypatch.setattr(os, "open", _raise(errno.EIO))
    assert walk_archive(root).skipped == {SkipReason.NOT_A_CAPTURE: [f"P3/{name}"]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"BMI of the patients: ...",
        b"II",
        b"\xff\xd8",
        b"GIF89a",
        b"RIFF....WEBPVP8 ",
        b"%PDF-1.7",
        bytes(200),
    ],
)
def test_a_file_without_ending_that_is_no_image_is_no_capture(root: Path, data: bytes) -> None:
    put(root, "P3/notes", data)
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.NOT_A_CAPTURE: ["P3/notes"]}
    assert absent(archive) == [
        (b"P3", NoCaptures.NO_CAPTURE_FILES, "its folder holds no captures: 1 file without an ending")
    ]


@pytest.mark.parametrize("name", ["x.dcm", "x", "x.1"])
def test_dicom_is_named_as_not_supported(root: Path, name: str) -> None:
    put(root, f"P3/{name}", bytes(128) + b"DICM" + bytes(100))
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.DICOM: [f"P3/{name}"]}
    assert absent(archive) == [(b"P3", NoCaptures.NO_CAPTURE_FILES, "its folder holds no captures: 1 DICOM file")]


def test_no_more_than_16_bytes_of_a_file_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "P3/a", bytes(1000))
    put(root, "P3/b.jpg", bytes(1000))
    real, asked = os.pread, list[int]()

    def pread(handle: int, count: int, offset: int) -> bytes:
        asked.append(count)
        return real(handle, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    walk_archive(root)
    assert sum(asked) == 16


def test_links_and_pipes_without_an_ending_are_not_opened(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "elsewhere", HEADS["jpeg"])
    (root / "P1/link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "P1/pipe")
    monkeypatch.setattr(os, "open", _raise(errno.EIO))
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.LINK: ["P1/link"], SkipReason.NOT_A_FILE: ["P1/pipe"]}


def test_a_file_without_an_ending_that_may_not_be_opened_may_be_a_capture(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "P1/02")
    monkeypatch.setattr(os, "open", _raise(errno.EACCES))
    archive = walk_archive(root)
    assert archive.skipped == {SkipReason.NOT_READABLE: ["P1/02"]}
    assert archive.unscreened
    assert archive.without_captures == []


def test_a_file_without_an_ending_on_bad_storage_makes_its_patient_unreadable(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "P1/02")
    monkeypatch.setattr(os, "open", _raise(errno.EIO))
    archive = walk_archive(root)
    assert paths(archive) == [b"P2/01.jpg"]
    assert [(patient, code) for patient, code, _ in absent(archive)] == [(b"P1", NoCaptures.NOT_READABLE)]
