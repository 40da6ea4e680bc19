"""What a user can get wrong, each as a command: a clear sentence, the next step, the right exit code, nothing lost."""

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from contract.bundle import Bundle
from db.engine import open_engine, writing
from db.progress import progress
from tests.support.archives import encode, jpeg, picture, write_archive
from tests.support.commands import REPOSITORY, Environment
from tests.support.servers import RedisServer


@pytest.fixture
def alone(tmp_path: Path) -> Environment:
    """SQLite, and nothing listening where Redis should be."""
    return Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "redis://127.0.0.1:1/0")


def submit(alone: Environment, archive: Path, bundle: Bundle | Path, *more: object) -> tuple[int, str]:
    alone.screen("db", "upgrade")
    path = bundle if isinstance(bundle, Path) else bundle.path
    done = alone.screen("submit", archive, "--bundle", path, *more)
    assert "Traceback" not in done.err
    return done.code, done.err


def test_no_such_folder(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    code, says = submit(alone, tmp_path / "nowhere", bundle)
    assert code == 2
    assert "no such folder" in says


def test_a_file_instead_of_a_folder(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg("Pro"))
    code, says = submit(alone, tmp_path / "a.jpg", bundle)
    assert code == 2
    assert "one folder per patient" in says


def test_an_empty_folder(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    code, says = submit(alone, tmp_path / "archive", bundle)
    assert code == 2
    assert "it is empty" in says


def test_a_folder_without_patients(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    code, says = submit(alone, archive / "P1", bundle)
    assert code == 2
    assert "name the folder above it" in says


def test_a_bundle_with_a_changed_byte(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, copy)
    model = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    code, says = submit(alone, archive, copy)
    assert code == 2
    assert "model.onnx does not match its digest" in says
    assert alone.screen("bundle", "verify", copy).code == 2
    assert alone.screen("bundle", "verify", bundle.path).out.strip() == bundle.digest


def test_no_bundle_named(alone: Environment, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    done = alone.screen("submit", archive)
    assert done.code == 2
    assert "SCREEN_BUNDLE" in done.err


def test_a_database_without_tables(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    for command in (("submit", archive, "--bundle", bundle.path), ("status",), ("worker",), ("watch", 1)):
        done = alone.screen(*command)
        assert done.code == 2, done.err
        assert "screen db upgrade" in done.err


@pytest.mark.parametrize("command", [("producer.cli", "worker"), ("celery", "-A", "worker.app", "worker")])
def test_a_worker_that_cannot_work_says_so_once_however_it_is_started(
    alone: Environment, tmp_path: Path, command: tuple[str, ...]
) -> None:
    def started(**variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [alone.python, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env=alone.variables | variables | {"PYTHONPATH": str(REPOSITORY)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    without_tables = started()
    assert without_tables.returncode == 2
    assert "screen: there is no database " in without_tables.stderr
    assert "`screen db upgrade`" in without_tables.stderr
    assert alone.screen("db", "upgrade").code == 0
    (tmp_path / "key").write_bytes(b"short")
    (tmp_path / "key").chmod(0o600)
    without_key = started(SCREEN_PSEUDONYM_KEY_FILE=str(tmp_path / "key"))
    assert without_key.returncode == 2
    assert "screen: SCREEN_PSEUDONYM_KEY_FILE: " in without_key.stderr
    away = started(SCREEN_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert away.returncode == 3
    for done in (without_tables, without_key, away):
        assert "Traceback" not in done.stderr + done.stdout
        assert done.stderr.count("screen: ") == 1


def test_a_database_of_a_newer_version(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    alone.screen("db", "upgrade")
    with writing(open_engine(alone.database_url)) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    for command in (("submit", archive, "--bundle", bundle.path), ("status",), ("db", "upgrade"), ("worker",)):
        done = alone.screen(*command)
        assert done.code == 2, done.err
        assert "newer" in done.err


def test_redis_out_of_reach(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    code, says = submit(alone, archive, bundle)
    assert code == 3
    assert "Redis is out of reach" in says


def test_the_database_out_of_reach(alone: Environment) -> None:
    done = alone.screen("status", SCREEN_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.code == 3
    assert "SCREEN_DATABASE_URL" in done.err


def test_a_setting_that_does_not_exist(alone: Environment) -> None:
    done = alone.screen("status", SCREEN_BATCHSIZE="4", SCREEN_LEASE_SECONDS="soon")
    assert done.code == 2
    assert "SCREEN_BATCHSIZE" in done.err
    assert "SCREEN_LEASE_SECONDS" in done.err


def test_a_run_that_does_not_exist(alone: Environment) -> None:
    alone.screen("db", "upgrade")
    for command in ("watch", "report", "status"):
        done = alone.screen(command, 17)
        assert done.code == 2
        assert "no run 17" in done.err


def test_a_dry_run_writes_nothing(alone: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Pre"}, captures=2)
    (archive / "P1" / "Thumbs.db").write_bytes(b"junk")
    alone.screen("db", "upgrade")
    done = alone.screen("submit", archive, "--bundle", bundle.path, "--dry-run", "--json")
    assert done.code == 0
    assert (done.json["to_screen"], done.json["patients"], done.json["run"]) == (4, 2, None)
    assert done.json["skipped"] == {"junk": ["P1/Thumbs.db"]}
    assert alone.screen("status", "--json").json == []


def hostile_files() -> dict[str, tuple[bytes, str | None]]:
    """File name -> (bytes, the code it must be rejected with, or None where it must be screened)."""
    purple = picture("Pro", size=(96, 80))
    whole = jpeg("Pro")
    exif = Image.Exif()
    exif[0x0112] = 6
    pages = io.BytesIO()
    purple.save(pages, "TIFF", save_all=True, append_images=[purple, purple])
    deep = np.asarray(purple.convert("L")).astype(np.uint16) * 257
    huge = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(huge, "PNG")
    return {
        "text.jpg": (b"this is no image at all, only text", "not_an_image"),
        "gif.jpg": (encode(purple, "GIF"), "not_an_image"),
        "zero.jpg": (b"", "empty_file"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "truncated.png": (encode(purple, "PNG")[:-200], "truncated"),
        "one-pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
        "100-megapixel.png": (huge.getvalue(), "too_large"),
        "multi-page.tif": (pages.getvalue(), "multi_page"),
        "cmyk.jpg": (encode(purple.convert("CMYK"), "JPEG"), None),
        "16-bit.png": (encode(Image.fromarray(deep), "PNG"), None),
        "palette.png": (encode(purple.quantize(64), "PNG"), None),
        "alpha.png": (encode(purple.convert("RGBA"), "PNG"), None),
        "rotated.jpg": (encode(purple, "JPEG", exif=exif), None),
        "photo.bmp": (encode(purple, "BMP"), None),
        "photo.TIFF": (encode(purple, "TIFF", compression="tiff_lzw"), None),
    }


def test_hostile_files_are_rejected_one_by_one_and_the_rest_is_screened(
    environment: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", {"P-good": "Pro", "P-hostile": "Pro"}, captures=5)
    files = hostile_files()
    for name, (data, _) in files.items():
        (archive / "P-hostile" / name).write_bytes(data)
    done = environment.screen("run", archive, "--bundle", bundle.path)
    assert done.code == 1, done.err
    report = environment.screen("report", 1, "--json").json
    rejected = {Path(one["path"]).name: one["reject_code"] for one in report["ended_badly"]}
    assert rejected == {name: code for name, (_, code) in files.items() if code}
    assert all(one["reason"] for one in report["ended_badly"])
    cases = {case["patient"]: case for case in report["cases"]}
    assert cases["P-good"]["rejected"] == 0
    assert cases["P-hostile"]["screened"] == 5 + sum(code is None for _, code in files.values())
    assert "incomplete" in [reason["code"] for reason in cases["P-hostile"]["reasons"]]
    run = report["run"]
    assert run["submitted"] == run["screened"] + run["rejected"] + run["quarantined"] == 10 + len(files)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_writes_no_half_run_and_the_run_goes_through_when_there_is_room(
    bundle: Bundle, tmp_path: Path, small_disk: Path, redis_server: RedisServer
) -> None:
    tight = Environment(tmp_path, f"sqlite:///{small_disk / 'screening.db'}", redis_server.url)
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=20)
    assert tight.screen("db", "upgrade").code == 0
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(b"\0" * (free - 64 * 1024))  # room for SQLite's own files, not for a run
    full = tight.screen("submit", archive, "--bundle", bundle.path)
    assert full.code == 3, full.err
    assert "room" in full.err
    ballast.unlink()
    done = tight.screen("run", archive, "--bundle", bundle.path)
    assert done.code == 0, done.err
    assert done.out.count("Run 1") == 1
    now = progress(open_engine(tight.database_url), 1)
    assert (now.screened, now.submitted) == (20, 20)
