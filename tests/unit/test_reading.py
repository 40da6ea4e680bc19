"""Reading a capture: only from below the root, only what was submitted; a storage fault is never a bad capture."""

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from contract import below, reading
from contract.errors import ArchiveUnavailable, CaptureRejected
from contract.imaging import MAX_BYTES
from contract.reading import check_archive, read_capture
from contract.states import RejectCode

PATIENT = "Jane Roe 1970"
NAME = f"{PATIENT}/slide 1/001.jpg"
DATA = b"the bytes of a capture" * 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / NAME).parent.mkdir(parents=True)
    (folder / NAME).write_bytes(DATA)
    return folder


@pytest.fixture
def submitted(root: Path) -> Callable[[], reading.CaptureBytes]:
    """Reads NAME as it was when the test began."""
    status = (root / NAME).stat()
    return lambda: read(root, NAME, status)


def read(root: Path, name: str | bytes, status: os.stat_result) -> reading.CaptureBytes:
    return read_capture(os.fsencode(root), os.fsencode(name), status.st_size, status.st_mtime_ns)


def rejection(call: Callable[[], object], code: RejectCode) -> None:
    """`call` is rejected with this code, and with a sentence that tells nobody's name."""
    with pytest.raises(CaptureRejected) as caught:
        call()
    assert caught.value.code is code
    tells_nothing(caught.value)


def tells_nothing(error: Exception) -> None:
    text = str(error)
    assert text
    for secret in (PATIENT, "Roe", "slide 1", "001.jpg", "archive/"):
        assert secret not in text


def unavailable(call: Callable[[], object]) -> None:
    with pytest.raises(ArchiveUnavailable) as caught:
        call()
    assert caught.value.retryable
    tells_nothing(caught.value)


def keep_times(file: Path, change: Callable[[], object]) -> None:
    """Change a file and give it its modification time back."""
    status = file.stat()
    change()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


Read = Callable[[], reading.CaptureBytes]


def test_the_bytes_come_with_their_digest(submitted: Read) -> None:
    assert submitted() == reading.CaptureBytes(DATA, hashlib.sha256(DATA).hexdigest())


def test_a_name_of_any_bytes_is_read(root: Path) -> None:
    full = os.fsencode(root) + b"/M\xfcller.jpg"
    with open(full, "wb") as stream:  # noqa: PTH123 - bytes
        stream.write(DATA)
    assert read(root, b"M\xfcller.jpg", os.stat(full)).data == DATA  # noqa: PTH116 - bytes


def test_an_archive_reached_through_a_link_is_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path / "link", NAME, (root / NAME).stat()).data == DATA


def test_an_empty_file_is_read_as_it_is(root: Path) -> None:
    (root / "P2").mkdir()
    (root / "P2/a.jpg").touch()
    assert read(root, "P2/a.jpg", (root / "P2/a.jpg").stat()).data == b""


# What happened to the file since it was submitted


def test_a_file_that_is_gone_is_missing(root: Path, submitted: Read) -> None:
    (root / NAME).unlink()
    rejection(submitted, RejectCode.MISSING)


def test_a_patients_folder_that_is_gone_makes_its_captures_missing(root: Path, submitted: Read) -> None:
    (root / "P2").mkdir()
    shutil.rmtree(root / PATIENT)
    rejection(submitted, RejectCode.MISSING)


def test_a_file_in_the_place_of_a_folder_makes_its_captures_missing(root: Path, submitted: Read) -> None:
    shutil.rmtree(root / PATIENT)
    (root / PATIENT).touch()
    rejection(submitted, RejectCode.MISSING)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b""])
def test_another_size_is_a_change_even_at_the_same_time(root: Path, submitted: Read, data: bytes) -> None:
    keep_times(root / NAME, lambda: (root / NAME).write_bytes(data))
    rejection(submitted, RejectCode.CHANGED)


def at(root: Path, seen_ns: int, submitted_ns: int) -> Read:
    """Reads NAME, which this mount shows with one time, and which had another at submit."""
    os.utime(root / NAME, ns=(0, seen_ns))
    assert (root / NAME).stat().st_mtime_ns == seen_ns, "this disk keeps nanoseconds"
    return lambda: read_capture(os.fsencode(root), os.fsencode(NAME), len(DATA), submitted_ns)


EXACT = 1_700_000_001_123_456_789
CHANGED = [EXACT + 1, EXACT - 1, EXACT + 10**9, EXACT - 3600 * 10**9, EXACT + 100, 0]


@pytest.mark.parametrize("submitted_ns", CHANGED)
def test_another_modification_time_is_a_change_even_of_a_nanosecond(root: Path, submitted_ns: int) -> None:
    rejection(at(root, EXACT, submitted_ns), RejectCode.CHANGED)


ROUNDED = [
    1_700_000_001_123_456_700,  # SMB: 100 ns
    1_700_000_001_123_456_000,
    1_700_000_001_123_000_000,
    1_700_000_001_120_000_000,  # exFAT: 10 ms
    1_700_000_001_000_000_000,  # whole seconds, cut off and rounded up
    1_700_000_002_000_000_000,
    1_700_000_000_000_000_000,  # FAT: 2 s
]


@pytest.mark.parametrize("rounded", ROUNDED)
def test_a_time_that_a_mount_rounds_is_no_change_on_either_side(root: Path, rounded: int) -> None:
    assert at(root, EXACT, rounded)().data == DATA
    assert at(root, rounded, EXACT)().data == DATA


@pytest.mark.parametrize(
    ("seen", "submitted"), [(4 * 10**9, 10**9), (7 * 10**9, 9 * 10**9), (10**9 - 1, 2 * 10**9 + 1)]
)
def test_a_time_beyond_a_mounts_step_is_a_change_also_on_coarse_mounts(root: Path, seen: int, submitted: int) -> None:
    rejection(at(root, seen, submitted), RejectCode.CHANGED)


def test_another_size_is_a_change_at_a_rounded_time_too(root: Path) -> None:
    os.utime(root / NAME, ns=(0, EXACT))
    rounded = EXACT - EXACT % 10**9
    read_now = partial(read_capture, os.fsencode(root), os.fsencode(NAME), len(DATA) + 1, rounded)
    rejection(read_now, RejectCode.CHANGED)


@pytest.mark.parametrize("data", [DATA + b"more", DATA[:50]], ids=["grown", "shrunk"])
def test_a_file_that_changes_its_length_while_it_is_read_is_a_change(
    root: Path, submitted: Read, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    real = os.fstat

    def fstat(handle: int) -> os.stat_result:
        status = real(handle)
        (root / NAME).write_bytes(data)  # a scanner still writes, between our look and our read
        return status

    monkeypatch.setattr(reading.os, "fstat", fstat)
    rejection(submitted, RejectCode.CHANGED)


def test_a_folder_in_the_place_of_the_file_is_a_change(root: Path, submitted: Read) -> None:
    (root / NAME).unlink()
    (root / NAME).mkdir()
    rejection(submitted, RejectCode.CHANGED)


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_the_file_is_a_change_and_nobody_waits_for_it(root: Path, submitted: Read) -> None:
    (root / NAME).unlink()
    os.mkfifo(root / NAME)
    rejection(submitted, RejectCode.CHANGED)


def test_a_socket_in_the_place_of_the_file_is_a_change(
    root: Path, submitted: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / NAME).unlink()
    monkeypatch.chdir((root / NAME).parent)  # the address of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("001.jpg")
        rejection(submitted, RejectCode.CHANGED)


def test_a_file_too_large_to_be_a_capture_is_not_read(root: Path) -> None:
    with (root / NAME).open("r+b") as stream:
        stream.truncate(MAX_BYTES + 1)  # sparse: it takes no room
    rejection(lambda: read(root, NAME, (root / NAME).stat()), RejectCode.TOO_LARGE)


# What leads out of the archive


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "secret.jpg"
    file.parent.mkdir()
    file.write_bytes(DATA)
    return file


def test_a_path_that_climbs_out_is_outside(root: Path, outside: Path) -> None:
    for name in ("../outside/secret.jpg", f"{PATIENT}/../../outside/secret.jpg", str(outside)):
        rejection(lambda name=name: read(root, name, outside.stat()), RejectCode.OUTSIDE_ARCHIVE)


def test_a_folder_whose_name_only_begins_like_the_root_is_outside(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "archive2" / "a.jpg"
    file.parent.mkdir()
    file.write_bytes(DATA)
    rejection(lambda: read(root, "../archive2/a.jpg", file.stat()), RejectCode.OUTSIDE_ARCHIVE)


def test_a_file_replaced_by_a_link_is_outside_wherever_it_leads(root: Path, outside: Path) -> None:
    inside = root / PATIENT / "other.jpg"
    inside.write_bytes(DATA)
    for target in (outside, inside, root / "gone.jpg", root / NAME):
        status = inside.stat() if target == inside else outside.stat()
        (root / NAME).unlink()
        (root / NAME).symlink_to(target)
        rejection(lambda status=status: read(root, NAME, status), RejectCode.OUTSIDE_ARCHIVE)


def test_a_link_put_there_between_our_look_and_our_opening_is_not_followed(
    root: Path, submitted: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, twin = os.open, root / PATIENT / "twin.jpg"
    shutil.copy2(root / NAME, twin)  # size and time agree as well

    def open_late(path: bytes, flags: int, *, dir_fd: int | None = None) -> int:
        if path == b"001.jpg":
            (root / NAME).unlink()
            (root / NAME).symlink_to(twin)
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(below.os, "open", open_late)
    rejection(submitted, RejectCode.OUTSIDE_ARCHIVE)


@pytest.mark.parametrize("folder", [PATIENT, f"{PATIENT}/slide 1"])
def test_a_folder_swapped_for_a_link_between_our_look_and_our_opening_is_not_followed(
    root: Path, outside: Path, submitted: Read, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    real, name = os.open, os.fsencode(Path(folder).name)
    twin = outside.parent / Path(NAME).relative_to(folder)
    twin.parent.mkdir(exist_ok=True)
    shutil.copy2(root / NAME, twin)

    def open_late(path: bytes, flags: int, *, dir_fd: int | None = None) -> int:
        if path == name:
            (root / folder).rename(root / "aside")
            (root / folder).symlink_to(outside.parent)
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(below.os, "open", open_late)
    rejection(submitted, RejectCode.OUTSIDE_ARCHIVE)


def test_somebody_who_swaps_folders_all_the_time_never_gets_a_capture_of_elsewhere_read(
    root: Path, outside: Path, submitted: Read
) -> None:
    """The path was looked at and then opened before: this lost some hundred of a hundred thousand races."""
    folder, aside, link = root / PATIENT, root / "aside", root / "link"
    twin = outside.parent / Path(NAME).relative_to(PATIENT)
    twin.parent.mkdir()
    twin.write_bytes(b"\0" * len(DATA))
    os.utime(twin, ns=((root / NAME).stat().st_atime_ns, (root / NAME).stat().st_mtime_ns))
    link.symlink_to(outside.parent)
    swapping = (
        "import itertools, os, sys\n"
        "folder, aside, link = sys.argv[1:]\n"
        "while True:\n"
        "    os.rename(folder, aside); os.rename(link, folder); os.rename(folder, link); os.rename(aside, folder)\n"
    )
    swapper = subprocess.Popen([sys.executable, "-c", swapping, folder, aside, link])
    seen = set()
    try:
        for _ in range(20_000):
            with contextlib.suppress(CaptureRejected, FileNotFoundError):
                seen.add(submitted().data)
    finally:
        swapper.kill()
        swapper.wait()
    assert seen <= {DATA}


def test_a_folder_replaced_by_a_link_out_of_the_archive_is_outside(root: Path, outside: Path) -> None:
    (root / "P2").symlink_to(outside.parent)
    rejection(lambda: read(root, "P2/secret.jpg", outside.stat()), RejectCode.OUTSIDE_ARCHIVE)


def test_a_folder_replaced_by_a_link_to_another_patients_is_not_followed(root: Path) -> None:
    (root / "P2").symlink_to(root / PATIENT)
    rejection(lambda: read(root, "P2/slide 1/001.jpg", (root / NAME).stat()), RejectCode.OUTSIDE_ARCHIVE)


# What is the storage's fault and no capture's


def test_an_archive_that_is_gone_is_unavailable_and_its_captures_are_not_missing(root: Path, submitted: Read) -> None:
    root.rename(root.with_name("moved"))
    unavailable(submitted)
    unavailable(lambda: check_archive(os.fsencode(root)))


def test_an_empty_root_is_an_unmounted_archive_and_its_captures_are_not_missing(root: Path, submitted: Read) -> None:
    shutil.rmtree(root)
    root.mkdir()  # what is left of a mount point: a run's archive had captures, so it had folders
    unavailable(submitted)
    unavailable(lambda: check_archive(os.fsencode(root)))


def test_an_archive_that_is_there_passes_the_check(root: Path) -> None:
    check_archive(os.fsencode(root))


def test_a_file_in_the_place_of_the_root_is_an_archive_that_is_away(root: Path, submitted: Read) -> None:
    shutil.rmtree(root)
    root.touch()
    unavailable(submitted)


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.EMFILE]
)
def test_an_error_of_the_storage_when_opening_is_unavailable_simulated(
    submitted: Read, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(below.os, "open", _raise(number))
    unavailable(submitted)


def test_an_error_of_the_storage_when_reading_is_unavailable() -> None:
    memory = Path("/proc/self/mem")  # opens like a file of no length, and its first byte is a real EIO
    unavailable(lambda: read(memory.parent, memory.name, memory.stat()))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_may_not_be_read_is_rejected_simulated(
    submitted: Read, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(below.os, "open", _raise(number))  # root may read anything, so the error is made up
    rejection(submitted, RejectCode.NOT_READABLE)


def _raise(number: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number), f"/archive/{NAME}")

    return fail


def test_no_handle_stays_open_whatever_happens(root: Path, submitted: Read) -> None:
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir()))
    for _ in range(20):
        submitted()
    (root / NAME).write_bytes(b"changed")
    for _ in range(20):
        with pytest.raises(CaptureRejected):
            submitted()
    assert len(list(handles.iterdir())) <= before
