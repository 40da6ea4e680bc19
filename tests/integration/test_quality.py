"""Quality and novelty from the file to the result: a bundle with a reference, a worker's process, a database."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from sqlalchemy import Engine, select

pytest.importorskip("torch")

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.errors import BundleError, DataError, UsageError
from contract.novelty import FILE, read_novelty
from contract.settings import Settings
from db.chunks import sweep
from db.drift import drift_warning
from db.engine import reading
from db.fsck import fsck
from db.models import Capture
from db.run_report import read_run
from db.submission import submit
from tests.support.archives import COLOURS, encode, jpeg, picture, write_archive
from tests.support.bundles import colour_bundle
from tests.support.runs import request
from trainer.renew import renew
from worker.process import WorkerProcess

TRAINING, VALIDATION = 24, 8


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captures per label, and split.csv beside it."""
    root = tmp_path_factory.mktemp("labelled") / "captures"
    lines = ["path,split"]
    for place, label in enumerate(COLOURS):
        (root / label).mkdir(parents=True)
        for number in range(TRAINING + VALIDATION):
            (root / label / f"{number:02d}.jpg").write_bytes(jpeg(label, seed=1000 * place + number))
            lines.append(f"{label}/{number:02d}.jpg,{'train' if number < TRAINING else 'validation'}")
    (root.parent / "split.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def known(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of colours, with a reference."""
    folder = tmp_path_factory.mktemp("known")
    plain = colour_bundle(folder / "plain.bundle")
    return renew(plain, labelled, folder / "known.bundle", split=labelled.parent / "split.csv", cache=folder / "cache")


@pytest.fixture
def process(database: Engine, tmp_path: Path) -> Iterator[WorkerProcess]:
    url = database.url.render_as_string(hide_password=False)
    made = WorkerProcess(Settings(database_url=url, cache_dir=tmp_path / "cache", decoders=2, batch_size=4))
    yield made
    made.close()


def screened(database: Engine, bundle: Bundle, archive: Path, process: WorkerProcess) -> int:
    found = walk_archive(archive)
    run = submit(database, request(bundle, found.captures, chunk_size=8, root=found.root)).run_id
    assert run is not None
    for chunk_id in sweep(database, waiting_messages=0, republish_seconds=0):
        process.screen_chunk(chunk_id)
    return run


def rows(database: Engine, run: int) -> dict[str, Capture]:
    columns = [Capture.path_text, Capture.quality, Capture.marks, Capture.novelty, Capture.excluded, Capture.camera,
               Capture.captured_at]  # fmt: skip
    with reading(database) as connection:
        return {row.path_text: row for row in connection.execute(select(*columns).where(Capture.run_id == run))}


def test_the_copy_of_a_bundle_answers_as_before_and_says_what_its_reference_is_of(known: Bundle) -> None:
    taken = known.manifest.provenance["reference"]
    assert (taken["train"], taken["validation"]) == (4 * TRAINING, 4 * VALIDATION)
    novelty = read_novelty(known)
    assert novelty is not None
    assert [(block.begin, block.end) for block in novelty.blocks] == [(0, 3)]
    assert len(known.golden()) == 4


def test_a_reference_needs_training_captures_of_every_label_and_a_new_folder(
    known: Bundle, labelled: Path, tmp_path: Path
) -> None:
    lines = (labelled.parent / "split.csv").read_text().replace("train", "test")
    (tmp_path / "split.csv").write_text(lines)
    with pytest.raises(DataError, match="training captures of every label"):
        renew(known, labelled, tmp_path / "new", split=tmp_path / "split.csv", cache=tmp_path / "cache")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="is there already"):
        renew(known, labelled, tmp_path, split=tmp_path / "split.csv", cache=tmp_path / "cache")


def test_a_reference_that_cannot_be_read_is_the_bundles_fault(known: Bundle, tmp_path: Path) -> None:
    broken = Bundle(tmp_path, known.digest, known.manifest, {**known.contents, FILE: b"PK no archive"})
    with pytest.raises(BundleError, match=FILE):
        read_novelty(broken)


def test_sound_captures_count_and_the_others_are_marked_with_a_sentence(
    database: Engine, known: Bundle, tmp_path: Path, process: WorkerProcess
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=5)
    smooth = Image.new("RGB", (96, 80), COLOURS["Pro"])
    (archive / "P1" / "smooth.png").write_bytes(encode(smooth, "PNG"))
    (archive / "P1" / "yellow.png").write_bytes(encode(Image.new("RGB", (96, 80), (250, 240, 0)), "PNG"))
    run = screened(database, known, archive, process)
    found = rows(database, run)
    assert not any(found[f"P1/{number:03d}.jpg"].excluded for number in range(5))
    marks = {path: {mark["code"]: mark["sentence"] for mark in row.marks} for path, row in found.items()}
    assert marks["P1/smooth.png"]["out_of_focus"].startswith("out of focus: sharpness 0, reference ")
    assert "novel" in marks["P1/yellow.png"]
    assert found["P1/yellow.png"].novelty > 1 >= found["P1/000.jpg"].novelty
    assert found["P1/smooth.png"].excluded
    assert found["P1/yellow.png"].excluded
    (case,) = read_run(database, run).cases
    assert (case.verdict, case.screened, case.excluded) == ("all", 7, 2)
    assert case.reasons[-1].code == "excluded"
    assert all(finding.holds for finding in fsck(database, run, grace_s=0))


def test_a_case_of_nothing_but_strange_captures_is_not_called_anything(
    database: Engine, known: Bundle, tmp_path: Path, process: WorkerProcess
) -> None:
    folder = tmp_path / "archive" / "P1"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encode(Image.new("RGB", (96, 80), (250, 240 - number, 0)), "PNG"))
    run = screened(database, known, tmp_path / "archive", process)
    (case,) = read_run(database, run).cases
    assert (case.verdict, case.score, case.excluded, case.novel) == ("insufficient", None, 4, 4)
    assert case.reasons[0].code == "mostly_excluded"


def test_of_a_files_exif_camera_and_time_are_kept_and_nothing_else(
    database: Engine, known: Bundle, tmp_path: Path, process: WorkerProcess
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=3)
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "DS-Fi2"
    exif[ExifTags.Base.Artist] = "Canary"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:11:02 09:14:00"
    (archive / "P1" / "000.jpg").write_bytes(encode(picture("Pro"), "JPEG", exif=exif))
    exif[ExifTags.Base.Model] = "x" * 500
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "yesterday"
    (archive / "P1" / "001.jpg").write_bytes(encode(picture("Pro", seed=1), "JPEG", exif=exif))
    run = screened(database, known, archive, process)
    found = rows(database, run)
    assert (found["P1/000.jpg"].camera, found["P1/000.jpg"].captured_at) == ("DS-Fi2", datetime(2026, 11, 2, 9, 14))
    assert (found["P1/001.jpg"].camera, found["P1/001.jpg"].captured_at) == (None, None)
    assert (found["P1/002.jpg"].camera, found["P1/002.jpg"].captured_at) == (None, None)
    with reading(database) as connection:
        assert all("Canary" not in str(row) for row in connection.execute(select(Capture)))


def test_a_run_of_other_captures_has_drifted_and_one_of_the_same_kind_has_not(
    database: Engine, known: Bundle, tmp_path: Path, process: WorkerProcess
) -> None:
    labels = {f"P{number}": label for number, label in enumerate([*COLOURS] * 10)}
    same = screened(database, known, write_archive(tmp_path / "same", labels, captures=4), process)
    found = {one.measure: one for one in read_run(database, same).drift}
    assert (found["brightness"].captures, found["brightness"].patients) == (160, 40)
    assert not found["brightness"].far
    dark = tmp_path / "dark"
    for patient, label in labels.items():
        (dark / patient).mkdir(parents=True)
        for number in range(4):
            shaded = picture(label, seed=number).point(lambda value: value * 0.7)
            (dark / patient / f"{number:03d}.png").write_bytes(encode(shaded, "PNG"))
    other = read_run(database, screened(database, known, dark, process)).drift
    assert {one.measure: one for one in other}["brightness"].far
    warning = drift_warning(other)
    assert warning is not None
    assert "brightness" in warning
    assert drift_warning([one for one in other if not one.far]) is None
