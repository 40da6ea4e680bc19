"""Fault 11: a corpus of hostile files goes through a real worker: no death, a code for each, nothing painted over."""

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import reading
from db.models import Capture
from tests.faults.conftest import Size
from tests.faults.lab import Lab
from tests.support.archives import encode, picture
from tests.support.commands import Environment

SCREENED = "screened"
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "jpg": ("JPEG", {"quality": 90}),
    "jpeg": ("JPEG", {"quality": 90, "progressive": True}),
    "png": ("PNG", {}),
    "tif": ("TIFF", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
}
SOUND = {suffix: encode(picture("Pro", seed=7, size=(160, 120)), kind, **how) for suffix, (kind, how) in KINDS.items()}
JPEG, PNG = SOUND["jpg"], SOUND["png"]


def segment(marker: int, payload: bytes) -> bytes:
    """The sound JPEG with one more segment, right behind its start."""
    return JPEG[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + JPEG[2:]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large, and holds one row at most."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def pages(count: int) -> bytes:
    buffer = io.BytesIO()
    first, *others = [Image.new("L", (64, 64), n % 256) for n in range(count)]
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def archive_of_itself() -> bytes:
    """A JPEG that is a ZIP, too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("a.txt", "b" * 1000)
    return JPEG + buffer.getvalue()


def corpus() -> dict[bytes, tuple[bytes, str]]:
    """Path in the archive -> the file's bytes, and its code, or `screened`."""
    made: dict[bytes, tuple[bytes, str]] = {}
    for suffix, data in SOUND.items():
        made[f"sound/whole.{suffix}".encode()] = (data, SCREENED)
        for tenth in range(1, 10):
            made[f"cut/{tenth}.{suffix}".encode()] = (data[: len(data) * tenth // 10], "truncated corrupt not_an_image")
    noise = np.random.default_rng(0).bytes(5000)
    claims = {
        b"bomb/rows.png": (png_header(30_000, 30_000), "too_large"),
        b"bomb/line.png": (png_header(2**31 - 1, 1), "too_large corrupt too_small"),
        b"bomb/nothing.png": (png_header(0, 0), "corrupt not_an_image too_small truncated"),
        b"pages/thousand.tif": (pages(1000), "multi_page"),
        b"pages/two.tif": (pages(2), "multi_page"),
        b"meta/exif.jpg": (segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff" + noise[:200]), SCREENED),
        b"meta/exif-endless.jpg": (segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 400), SCREENED),
        b"meta/icc.jpg": (segment(0xE2, b"ICC_PROFILE\0\x01\x01" + noise[:300]), SCREENED),
        b"meta/comment.jpg": (segment(0xFE, b"x" * 60_000), SCREENED),
        b"polyglot/zip.jpg": (archive_of_itself(), SCREENED),
        b"polyglot/html.jpg": (b"<html><script>" + JPEG, "not_an_image"),
        b"polyglot/gif.jpg": (encode(picture("Pro"), "GIF"), "not_an_image"),
        b"polyglot/webp.png": (encode(picture("Pro"), "WEBP"), "not_an_image"),
        b"polyglot/eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        b"polyglot/svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        b"polyglot/elf.bmp": (b"\x7fELF" + noise, "not_an_image"),
        b"noise/random.jpg": (noise, "not_an_image"),
        b"noise/behind-a-start.jpg": (b"\xff\xd8\xff" + noise, "corrupt truncated not_an_image"),
        b"noise/empty.jpg": (b"", "empty_file"),
        b"noise/zeros.tif": (bytes(4096), "not_an_image"),
        b"size/tiny.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
        b"names/\xff\xfe not utf-8.jpg": (JPEG, SCREENED),
        b"names/new\nline.jpg": (JPEG, SCREENED),
        b"names/" + b"long" * 62 + b".jpg": (JPEG, SCREENED),
        "names/\u202egpj.right to left.jpg".encode(): (JPEG, SCREENED),
        "names/\U0001f52c microscope.jpg".encode(): (JPEG, SCREENED),
        b"names/'; DROP TABLE capture; --.jpg": (JPEG, SCREENED),
        b"names/%s%n{0}$(reboot).jpg": (JPEG, SCREENED),
        b"names/CASE.jpg": (JPEG, SCREENED),
        b"names/case.JPG": (JPEG, SCREENED),
        b"\xe9tranger/1.jpg": (JPEG, SCREENED),
    }
    return made | claims


@pytest.fixture
def lab(environment: Environment, bundle: Bundle, tmp_path: Path) -> Lab:
    archive = tmp_path / "archive"
    for path, (data, _) in corpus().items():
        file = Path(str(archive)) / path.decode("utf-8", "surrogateescape")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    loop = archive / "links"
    loop.mkdir()
    (loop / "again").symlink_to(archive)
    return Lab.open(environment, archive, bundle)


def test_every_file_has_its_code_and_no_worker_dies(lab: Lab, counted: Callable[..., None]) -> None:
    wanted = {path: code for path, (_, code) in corpus().items()}
    assert len(wanted) >= 60
    run = lab.submit(exit_codes=(ExitCode.SOME_ENDED_BADLY,))  # the folder `links` is a patient without captures
    with lab.worker() as worker:
        now = lab.finish(run)
        assert worker.process.poll() is None
    lab.check(run)
    with reading(lab.database) as connection:
        rows = connection.execute(select(Capture.path, Capture.state, Capture.reject_code)).all()
    ended = {bytes(path): code or state for path, state, code in rows}
    assert ended.keys() == wanted.keys()
    assert {path: code for path, code in ended.items() if code not in wanted[path].split()} == {}
    assert "Worker exited prematurely" not in lab.log
    codes = Counter(ended.values())
    counted(11, "a corpus of hostile files", files=now.submitted, deaths=0, **dict(sorted(codes.items())))


def test_a_hundred_thousand_files_in_one_folder(
    environment: Environment, bundle: Bundle, tmp_path: Path, size: Size, counted: Callable[..., None]
) -> None:
    """Captures of one patient, every tenth of them no capture; submitted, not screened."""
    folder = tmp_path / "archive" / "P1"
    folder.mkdir(parents=True)
    files = size.times(100_000, 10_000)
    for number in range(files):
        (folder / f"{number:06d}.{'txt' if number % 10 == 9 else 'jpg'}").touch()
    lab = Lab.open(environment, tmp_path / "archive", bundle)
    run = lab.submit()
    now = lab.progress(run)
    assert (now.submitted, now.cases) == (files // 10 * 9, 1)
    lab.check(run)
    assert lab.submit() == run, "nothing is new"
    counted(11, "a folder of very many files", files=files, captures_submitted=now.submitted)
