"""Labelled captures: both layouts, every way of being wrong, the cache and the split."""

import csv
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from contract import imaging
from contract.errors import DataError, StorageFull
from contract.imaging import ImageSpec, decode
from tests.support.tiffs import Stored, tiff
from trainer import cache, splits
from trainer.config import DataTable
from trainer.data import find_captures, read_data
from trainer.traits import traits_of

TABLE = DataTable(min_images=3)
SPEC = ImageSpec(size=32, min_side=8)


def write(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 18), (value % 256, 100, 100)).save(file)


def write_csv(root: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("path", "patient", "label")) -> None:
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def archive(root: Path, patients: int = 3, each: int = 3) -> list[tuple[str, ...]]:
    """A labels.csv with so many patients of each label; its rows."""
    rows: list[tuple[str, ...]] = []
    for label in TABLE.labels:
        for patient in range(patients):
            for number in range(each):
                path = f"{label}-{patient}/{number}.png"
                write(root / path, len(rows))
                rows.append((path, f"{label}-{patient}", label))
    write_csv(root, rows)
    return rows


def test_labels_csv(tmp_path):
    archive(tmp_path)
    data = read_data(tmp_path, TABLE)
    assert data.patients_known
    assert not data.warnings
    assert [one.path for one in data.captures] == sorted(one.path for one in data.captures)
    assert np.bincount(data.targets()).tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("level", ["", "Original"])
def test_folder_per_class(tmp_path, level):
    for label in TABLE.labels:
        for number in range(3):
            write(tmp_path / level / label / f"{number}.png", number)
    (tmp_path / level / "Benign" / "Thumbs.db").write_bytes(b"junk")
    if level:
        write(tmp_path / "Segmented" / "Benign" / "0.png", 0)
    data = read_data(tmp_path, TABLE)
    assert len(data.captures) == 12
    assert not data.patients_known
    assert "patients are unknown" in data.warnings[0]


def test_the_digest_is_of_bytes_and_labels(tmp_path):
    rows = archive(tmp_path)
    first = read_data(tmp_path, TABLE).digest
    assert read_data(tmp_path, TABLE).digest == first
    write(tmp_path / rows[0][0], 255)
    assert read_data(tmp_path, TABLE).digest != first


def _without(column):
    return lambda rows: [row[:column] + row[column + 1 :] for row in rows]


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        (
            lambda rows: [*rows, ("gone.png", "Pro-0", "Pro")],
            None,
            r"line 38: 1 listed file is missing, the first is gone\.png",
        ),
        (
            lambda rows: [*rows[:-1], (*rows[-1][:2], "Late")],
            None,
            r"labels\.csv, line 37: Pro-2/2\.png has the label 'Late', which is not in the set",
        ),
        (
            lambda rows: [*rows[:-1], (*rows[-1][:2], "Pre")],
            None,
            r"lines 35 and 37: patient Pro-2 has two labels: Pre and Pro",
        ),
        (lambda rows: rows[:-9], None, r"class Pro has 0 images, at least 3"),
        (lambda rows: rows[:-3], None, r"class Pro has 2 patients; at least 3"),
        (lambda rows: [(*rows[0][:1], "", rows[0][2]), *rows[1:]], None, r"line 2: no patient"),
        (_without(2), ("path", "patient"), r"column label is missing"),
        (
            lambda rows: [(*row, "test" if i % 2 else "train") for i, row in enumerate(rows)],
            ("path", "patient", "label", "split"),
            r"lines 2 and 3: patient Benign-0 has two splits: test and train",
        ),
        (
            lambda rows: [(*row, "holdout") for row in rows],
            ("path", "patient", "label", "split"),
            r"line 2: unknown split 'holdout'",
        ),
        (
            lambda rows: [(*row, "" if i else "train") for i, row in enumerate(rows)],
            ("path", "patient", "label", "split"),
            r"only 1 of 36 lines name a split, line 3 does not",
        ),
    ],
)
def test_what_is_wrong_with_the_data_is_named(tmp_path, change, columns, message):
    rows = archive(tmp_path)
    write_csv(tmp_path, change(rows), columns or ("path", "patient", "label"))
    with pytest.raises(DataError, match=message):
        read_data(tmp_path, TABLE)


def test_no_such_folder_and_no_data(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_data(tmp_path / "none", TABLE)
    with pytest.raises(DataError, match=r"neither labels\.csv nor a folder per class"):
        read_data(tmp_path, TABLE)
    write(tmp_path / "Patient 1" / "0.png", 0)
    with pytest.raises(DataError, match="the label 'Patient 1', which is not in the set"):
        read_data(tmp_path, TABLE)


@pytest.mark.parametrize("junk", ["._0.png", "@eaDir/0.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png"])
def test_what_is_junk_in_an_archive_is_junk_in_a_folder_of_a_label(tmp_path, junk):
    for label in TABLE.labels:
        write(tmp_path / label / "series" / "0.png", 0)
    write(tmp_path / TABLE.labels[0] / junk, 0)
    found = find_captures(tmp_path).captures
    assert [one.path for one in found] == sorted(f"{label}/series/0.png" for label in TABLE.labels)


def test_links_to_captures_and_folders_are_followed_once(tmp_path):
    write(tmp_path / "elsewhere" / "0.png", 0)
    data = tmp_path / "data"
    (data / "Pre").mkdir(parents=True)
    (data / "Pre" / "1.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (data / "Pro").symlink_to(tmp_path / "elsewhere")
    (data / "Pre" / "circle").symlink_to(data / "Pre")
    found = find_captures(data).captures
    assert [(one.path, one.label) for one in found] == [("Pre/1.png", "Pre"), ("Pro/0.png", "Pro")]


def test_the_cache_is_built_once_and_whole(tmp_path, monkeypatch):
    archive(tmp_path)
    data = read_data(tmp_path, TABLE)
    steps = []
    first = cache.decoded(data, SPEC, tmp_path / "cache", steps.append)
    assert (first.pixels.shape, first.pixels.dtype, sum(steps)) == ((36, 32, 32, 3), np.uint8, 36)
    assert first.pixels[5, 0, 0, 0] in range(3, 8)
    monkeypatch.setattr(cache, "decode", None)
    assert np.array_equal(cache.decoded(data, SPEC, tmp_path / "cache").pixels, first.pixels)
    assert [entry.name for entry in (tmp_path / "cache").iterdir() if entry.name.startswith("building")] == []


def test_a_killed_cache_leaves_nothing_that_counts(tmp_path, monkeypatch):
    archive(tmp_path)
    data = read_data(tmp_path, TABLE)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            cache.decoded(data, SPEC, tmp_path / "cache")
    assert len(cache.decoded(data, SPEC, tmp_path / "cache").pixels) == 36


def test_one_unreadable_image_in_a_hundred_is_left_out_more_are_refused(tmp_path):
    rows = archive(tmp_path, patients=5, each=5)
    (tmp_path / rows[0][0]).write_bytes(b"not an image")
    data = read_data(tmp_path, TABLE)
    unreadable = cache.decoded(data, SPEC, tmp_path / "cache").unreadable
    assert {data.captures[i].path: why for i, why in unreadable.items()} == {
        rows[0][0]: "not_an_image: the bytes are no JPEG, PNG, TIFF or BMP"
    }
    (tmp_path / rows[1][0]).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 100 images cannot be read.*Benign-0/0\.png \(not_an_image"):
        cache.decoded(read_data(tmp_path, TABLE), SPEC, tmp_path / "cache")


def test_training_reads_captures_as_screening_does(tmp_path):
    """The same pixels, and what screening refuses is left out with the same words."""
    rows = archive(tmp_path, patients=5, each=7)
    deep = np.random.default_rng(0).integers(0, 2**16, (18, 24, 3)).astype(np.uint16)
    planar = tiff(Stored(deep, 2, 16, is_planar=True))
    (tmp_path / rows[0][0]).write_bytes(planar)
    (tmp_path / rows[1][0]).write_bytes(tiff(Stored(deep, 2, 16, more={259: ("H", [34712])})))
    data = read_data(tmp_path, TABLE)
    place = {capture.path: number for number, capture in enumerate(data.captures)}
    found = cache.decoded(data, SPEC, tmp_path / "cache")
    assert np.array_equal(found.pixels[place[rows[0][0]]], decode(planar, SPEC).pixels)
    assert list(found.unreadable) == [place[rows[1][0]]]
    assert (
        "unsupported_kind: a TIFF of a kind that is not read (RGB, 16 bits, JPEG 2000)"
        in found.unreadable[place[rows[1][0]]]
    )


def test_whatever_decodes_makes_a_new_cache_when_it_changes():
    """Each module of contract/ that a decoder calls is a part of the cache's key."""
    called = {
        value for module in cache.DECODERS for value in vars(module).values() if isinstance(value, types.ModuleType)
    }
    assert {module for module in called if module.__name__.startswith("contract.")} <= set(cache.DECODERS)
    assert cache.DECODERS[0] is imaging


def test_a_cache_without_room_says_so(tmp_path, monkeypatch):
    archive(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(StorageFull, match="--cache"):
        cache.decoded(read_data(tmp_path, TABLE), SPEC, tmp_path / "cache")


def test_a_given_split_is_kept_or_refused(tmp_path):
    rows = [(*row, ("train", "validation", "test")[int(row[1][-1])]) for row in archive(tmp_path)]
    write_csv(tmp_path, rows, ("path", "patient", "label", "split"))
    data = read_data(tmp_path, TABLE)
    pixels = cache.decoded(data, SPEC, tmp_path / "cache").pixels
    split = splits.assign(data, traits_of(pixels), [], TABLE, 0)
    assert split.rule == "given by the data's column split"
    assert split.names.tolist() == [one.split for one in data.captures]
    write_csv(tmp_path, [(*row[:3], "train") for row in rows], ("path", "patient", "label", "split"))
    with pytest.raises(DataError, match="the given split has no Benign in validation"):
        splits.assign(read_data(tmp_path, TABLE), traits_of(pixels), [], TABLE, 0)


def test_sites_are_read_and_empty_ones_are_none(tmp_path):
    rows = [(*row, "north" if i % 2 else "") for i, row in enumerate(archive(tmp_path))]
    write_csv(tmp_path, rows, ("path", "patient", "label", "site"))
    assert {one.site for one in read_data(tmp_path, TABLE).captures} == {"north", None}


def test_data_that_is_only_scored_may_lack_labels(tmp_path):
    rows = archive(tmp_path)
    write_csv(tmp_path, rows[:2])
    assert len(read_data(tmp_path, TABLE, for_training=False).captures) == 2
    with pytest.raises(DataError, match="class Benign has 2 images"):
        read_data(tmp_path, TABLE)


def test_the_cache_remembers_sizes(tmp_path):
    archive(tmp_path)
    found = cache.decoded(read_data(tmp_path, TABLE), SPEC, tmp_path / "cache")
    assert np.unique(found.sizes, axis=0).tolist() == [[24, 18]]
