"""Synthetic captures: the same for the same seed, balanced, told apart by shape and not by colour."""

import csv
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from contract.errors import UsageError
from trainer.synth.archive import write_archive
from trainer.synth.command import synth
from trainer.synth.field import draw_capture, plan_capture
from trainer.synth.kinds import KIND_OF_LABEL, LABELS, Kind
from trainer.synth.stain import label_of, material_of, patient_of


def contents(folder: Path) -> dict[str, bytes]:
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("synth") / "seven", 4, 2, seed=7, processes=1).parent


def test_same_seed_same_bytes_whatever_the_number_of_processes(archive: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "again", 4, 2, seed=7, processes=3)
    assert contents(tmp_path / "again") == contents(archive)


def test_more_patients_leave_the_earlier_ones_as_they_are(archive: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "more", 6, 1, seed=7, processes=1)
    more, before = contents(tmp_path / "more"), contents(archive)
    assert all(more[f"patient-000{n}/001.jpg"] == before[f"patient-000{n}/001.jpg"] for n in range(1, 5))


def test_another_seed_draws_another_capture() -> None:
    assert not np.array_equal(draw_capture(1, 1, 1), draw_capture(2, 1, 1))
    assert not np.array_equal(draw_capture(1, 1, 1), draw_capture(1, 1, 2))


def test_drawing_order_does_not_matter() -> None:
    first = draw_capture(3, 1, 1)
    draw_capture(3, 5, 2)
    patient_of.cache_clear()
    material_of.cache_clear()
    assert np.array_equal(draw_capture(3, 1, 1), first)


def test_capture_is_rgb_of_the_documented_size() -> None:
    pixels = draw_capture(1, 2, 3)
    assert pixels.shape == (768, 1024, 3)
    assert pixels.dtype == np.uint8


def test_layout_and_labels(archive: Path) -> None:
    rows = list(csv.DictReader((archive / "labels.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["path", "patient", "label"]
    assert [row["path"] for row in rows] == [f"patient-000{p}/00{c}.jpg" for p in range(1, 5) for c in (1, 2)]
    assert all(row["path"].startswith(f"{row['patient']}/") for row in rows)
    assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, 2)
    assert cv2.imread(str(archive / rows[0]["path"])).shape == (768, 1024, 3)
    assert {one.name for one in archive.iterdir()} == {
        *(f"patient-000{n}" for n in range(1, 5)), "labels.csv", ".synth.json",
    }  # fmt: skip


def test_labels_are_balanced_and_not_in_the_order_of_names() -> None:
    assert Counter(label_of(1, patient) for patient in range(1, 13)) == dict.fromkeys(LABELS, 3)
    blocks = {tuple(label_of(1, 4 * block + n) for n in range(1, 5)) for block in range(12)}
    assert len(blocks) > 4


def test_what_is_drawn_has_the_promised_shares() -> None:
    plans = [plan_capture(1, patient, capture) for patient in range(1, 41) for capture in range(1, 13)]
    empty = np.mean([plan.empty for plan in plans])
    bars = np.mean([plan.scale_bar for plan in plans])
    neutrophils = np.mean([any(cell.kind is Kind.NEUTROPHIL for cell in plan.nucleated) for plan in plans])
    assert 0.05 < empty < 0.13
    assert 0.15 < bars < 0.45
    assert 0.01 < neutrophils < 0.10
    assert all(36 <= len(plan.red_cells) <= 84 and len(plan.platelets) <= 12 for plan in plans)
    assert {len(plan.nucleated) for plan in plans} >= set(range(7))
    for plan in plans:
        assert plan.empty or plan.nucleated[0].kind is KIND_OF_LABEL[plan.label]


def test_number_of_cells_tells_nothing_about_the_label() -> None:
    counts: dict[str, list[int]] = {label: [] for label in LABELS}
    for patient in range(1, 41):
        for capture in range(1, 13):
            plan = plan_capture(5, patient, capture)
            counts[plan.label].append(len(plan.nucleated))
    means = [float(np.mean(counts[label])) for label in LABELS]
    assert max(means) - min(means) < 0.7


def colours(patient: int) -> list[list[float]]:
    """Mean and standard deviation of R, G, B of some captures of a patient."""
    rows = []
    for capture in range(1, 7):
        mean, spread = cv2.meanStdDev(draw_capture(11, patient, capture))
        rows.append([*mean.ravel().tolist(), *spread.ravel().tolist()])
    return rows


def test_colour_alone_does_not_tell_the_label() -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    patients = range(1, 49)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        features = np.array(list(pool.map(colours, patients, chunksize=4))).reshape(-1, 6)
    groups = np.repeat(np.array(patients), 6)
    labels = [label_of(11, int(patient)) for patient in groups]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy = cross_val_score(model, features, labels, groups=groups, cv=GroupKFold(6)).mean()
    assert accuracy < 0.6


def test_captures_that_are_there_are_kept(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    write_archive(out, 2, 1, seed=7, processes=1)
    before = (out / "patient-0001/001.jpg").stat().st_mtime_ns
    done: list[int] = []
    write_archive(out, 4, 2, seed=7, processes=1, progress=done.append)
    assert (out / "patient-0001/001.jpg").stat().st_mtime_ns == before
    assert sum(done) == 8
    assert contents(out) == contents(archive)


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"not ours")
    with pytest.raises(UsageError, match="name a new or empty folder"):
        write_archive(tmp_path, 1, 1, seed=1, processes=1)
    assert contents(tmp_path) == {"holiday.jpg": b"not ours"}


def test_folder_of_another_seed_is_refused(archive: Path) -> None:
    with pytest.raises(ValueError, match="another folder"):
        write_archive(archive, 1, 1, seed=8, processes=1)


def test_command_prints_only_the_path_of_the_labels(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(synth, [str(out), "--patients", "1", "--captures", "1", "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out / 'labels.csv'}\n"


@pytest.mark.parametrize("option", ["--patients", "--captures", "--processes"])
def test_command_refuses_zero(tmp_path: Path, option: str) -> None:
    assert CliRunner().invoke(synth, [str(tmp_path / "out"), option, "0"]).exit_code == 2
