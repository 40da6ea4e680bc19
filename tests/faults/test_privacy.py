"""Fault 19: names of patients in folders, files and EXIF must not get into queue, logs or error texts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import select

from contract.bundle import Bundle
from db.engine import reading
from db.models import Capture, Chunk, Event
from tests.faults.lab import HOSTILE, Lab
from tests.support.archives import picture
from tests.support.commands import Environment
from tests.support.servers import RedisServer

CANARY = "Canary"
DESCRIPTION = 0x010E
"""EXIF's tag ImageDescription."""


@pytest.fixture
def lab(environment: Environment, bundle: Bundle, tmp_path: Path) -> Lab:
    """Every file of the archive names a patient thrice; some are bad, and one crashes its worker."""
    archive = tmp_path / "archive"
    for patient in range(20):
        folder = archive / f"{CANARY}-Folder-{patient:02d}"
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[DESCRIPTION] = f"{CANARY}-Exif-{patient}"
        for number in range(5):
            picture("Pro", seed=100 * patient + number).save(folder / f"{CANARY}-File-{number}.jpg", exif=exif)
    bad = archive / f"{CANARY}-Folder-00"
    data = (bad / f"{CANARY}-File-0.jpg").read_bytes()
    (bad / f"{CANARY}-cut.jpg").write_bytes(data[: len(data) // 2])
    (bad / f"{CANARY}-text.jpg").write_bytes(f"{CANARY}, born 1980".encode())
    (bad / f"{CANARY}-empty.png").write_bytes(b"")
    shutil.copy2(bad / f"{CANARY}-File-0.jpg", bad / f"{CANARY}-crash.jpg")
    (archive / f"{CANARY}-Folder-01" / f"{CANARY}-link.jpg").symlink_to(bad / f"{CANARY}-File-0.jpg")
    return Lab.open(environment, archive, bundle)


def test_no_patients_name_leaves_the_tables_that_hold_it(
    lab: Lab, redis_server: RedisServer, counted: Callable[..., None]
) -> None:
    run = lab.submit()
    gone = lab.archive / f"{CANARY}-Folder-02" / f"{CANARY}-File-0.jpg"
    gone.unlink()
    queued = everything_in(redis_server)
    with lab.worker(HOSTILE, SCREEN_LOG_LEVEL="debug", SCREEN_LOG_FORMAT="json"):
        now = lab.finish(run)
        queued += everything_in(redis_server)
    lab.check(run)
    assert (now.rejected, now.quarantined) == (4, 1)
    texts = [queued.decode("utf-8", "replace"), lab.log]
    with reading(lab.database) as connection:
        texts += [text for text in connection.execute(select(Capture.reason)).scalars() if text]
        texts += [text for text in connection.execute(select(Chunk.last_error)).scalars() if text]
        texts += [
            str(one) for one in connection.execute(select(Event.detail).where(Event.kind != "submitted")).scalars()
        ]
    found = [text for text in texts if CANARY.lower() in text.lower()]
    assert found == []
    assert str(lab.archive) not in texts[1], "nor where the archive lies"
    counted(19, "patients' names in folders, file names and EXIF", captures=now.submitted, names=3 * now.submitted,
            found_in_queue_logs_or_error_texts=len(found))  # fmt: skip


def everything_in(server: RedisServer) -> bytes:
    """All keys and values of a Redis. Not by DUMP, which compresses."""
    read: dict[bytes, Callable[[bytes], object]] = {
        b"string": server.client.get,
        b"list": lambda key: server.client.lrange(key, 0, -1),
        b"hash": server.client.hgetall,
        b"set": server.client.smembers,
        b"zset": lambda key: server.client.zrange(key, 0, -1),
        b"none": lambda _: "",  # it was taken since
    }
    return b"".join(key + repr(read[server.client.type(key)](key)).encode() for key in server.client.scan_iter())
