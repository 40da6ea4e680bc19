"""Pictures of evidence: what was screened, byte for byte, or a sentence; never what lies in its place by now."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contract.cells import StoredCell
from contract.evidence import BEYOND, Picture, picture
from contract.imaging import MAX_BYTES
from contract.outcomes import ScreenedFile
from tests.support.archives import encode
from tests.support.archives import picture as drawn

NAME = "P1/slide/001.png"
CELLS = (StoredCell(0.4, 0.4, 0.6, 0.6, ()), StoredCell(0, 0, 0.1, 0.1, ()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / NAME).parent.mkdir(parents=True)
    (folder / NAME).write_bytes(encode(drawn("Pro", seed=1), "PNG"))
    return folder


@pytest.fixture
def show(root: Path) -> Callable[[], Picture]:
    """Shows NAME as it was screened when the test began."""
    data = (root / NAME).read_bytes()
    screened = ScreenedFile(NAME.encode(), len(data), hashlib.sha256(data).hexdigest())
    return lambda: picture(os.fsencode(root), screened, CELLS, 24)


Show = Callable[[], Picture]


def said(shown: Picture) -> str:
    assert shown.field is None
    assert shown.problem is not None
    assert "P1" not in shown.problem
    return shown.problem


def test_what_was_screened_is_shown_with_frames_also_with_another_time(root: Path, show: Show) -> None:
    os.utime(root / NAME, (0, 0))
    shown = show()
    assert shown.problem is None
    assert shown.field is not None
    assert Image.open(io.BytesIO(shown.field)).size == (96, 80)
    whole, corner = (Image.open(io.BytesIO(one)) for one in shown.cells)
    assert whole.size == corner.size == (24, 24), "all cells at one scale"
    file = Image.open(root / NAME).convert("RGB")
    (left, top), middle = (round(0.5 * 96) - 12, round(0.5 * 80) - 12), (12, 12)
    assert whole.getpixel(middle) == pytest.approx(file.getpixel((left + 12, top + 12)), abs=25)
    assert corner.getpixel((0, 0)) == pytest.approx(BEYOND, abs=10), "what lies beyond the capture is plain"


def test_another_capture_in_its_place_is_said_and_not_shown(root: Path, show: Show) -> None:
    status = (root / NAME).stat()
    data = bytearray((root / NAME).read_bytes())
    data[-20] ^= 1  # the same size and time, and for all we know the same picture
    (root / NAME).write_bytes(data)
    os.utime(root / NAME, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "no longer the one that was screened" in said(show())
    (root / NAME).write_bytes(encode(drawn("Benign", seed=2), "PNG"))
    assert "no longer the one that was screened" in said(show())


def test_a_link_to_what_was_screened_is_not_followed(root: Path, show: Show) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (root / NAME).rename(elsewhere / "001.png")
    (root / NAME).symlink_to(elsewhere / "001.png")
    assert "a link lies" in said(show())
    (root / NAME).unlink()
    (root / NAME).parent.rmdir()
    (root / NAME).parent.symlink_to(elsewhere)
    assert "a link lies" in said(show())


@pytest.mark.timeout(20)
def test_nobody_waits_for_a_pipe_nor_reads_without_end(root: Path, show: Show) -> None:
    (root / NAME).unlink()
    os.mkfifo(root / NAME)
    assert "no longer the one that was screened" in said(show())
    (root / NAME).unlink()
    with (root / NAME).open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    assert "cannot be shown" in said(show())


def test_what_is_gone_is_said_to_be_gone_and_an_archive_that_is_away_to_be_away(root: Path, show: Show) -> None:
    (root / NAME).unlink()
    assert said(show()) == "the file is gone"
    root.rename(root.with_name("away"))
    assert "mount it again" in said(show())


def test_without_a_digest_nothing_is_shown(root: Path) -> None:
    unknown = ScreenedFile(NAME.encode(), (root / NAME).stat().st_size, None)
    assert "does not say which bytes" in said(picture(os.fsencode(root), unknown))
