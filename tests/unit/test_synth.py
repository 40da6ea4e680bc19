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
from trainer.synth.field import CapturePlan, draw_capture, plan_capture
from trainer.synth.kinds import KIND_OF_LABEL, LABELS, Kind
from trainer.synth.looks import Look
from trainer.synth.stain import label_of, look_of, material_of, patient_of
from trainer.synth.truth import cell_mask, cells_of


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


@pytest.fixture(scope="module")
def plans() -> dict[tuple[int, int], CapturePlan]:
    """Of captures 1 to 8 of the patients of 32 blocks; patients and captures count from 1."""
    return {
        (patient, capture): plan_capture(1, patient, capture) for patient in range(1, 129) for capture in range(1, 9)
    }


def test_what_is_drawn_has_the_promised_shares(plans: dict[tuple[int, int], CapturePlan]) -> None:
    pink = [plan for (patient, _), plan in plans.items() if look_of(1, patient) is Look.PINK]
    assert len(pink) == len(plans) / 2
    assert 0.05 < np.mean([plan.empty for plan in pink]) < 0.13
    assert all(24 <= len(plan.red_cells) <= 96 and not plan.smudges for plan in pink)
    assert {len(plan.nucleated) for plan in pink} >= set(range(7))
    assert max(len(plan.nucleated) for plan in pink) <= 7, "six and a neutrophil"
    assert 0.15 < np.mean([plan.scale_bar for plan in plans.values()]) < 0.45
    neutrophils = [any(cell.kind is Kind.NEUTROPHIL for cell in plan.nucleated) for plan in plans.values()]
    assert 0.01 < np.mean(neutrophils) < 0.10
    for plan in plans.values():
        assert len(plan.platelets) <= 12
        assert plan.empty or plan.nucleated[0].kind is KIND_OF_LABEL[plan.label]


def test_leukaemic_fields_have_up_to_forty_cells_many_of_which_touch(
    plans: dict[tuple[int, int], CapturePlan],
) -> None:
    fields = [plan for (patient, _), plan in plans.items() if look_of(1, patient) is not Look.PINK]
    counts = np.array([len(plan.nucleated) for plan in fields])
    assert 0 < np.mean(counts == 0) < 0.1
    assert 0.2 < np.mean((counts >= 1) & (counts <= 6)) < 0.5
    assert np.mean(counts > 25) > 0.1
    assert 36 <= counts.max() <= 41, "forty and a neutrophil"
    pressed = np.mean([bool(cell.sides) for plan in fields for cell in plan.nucleated if len(plan.nucleated) > 15])
    assert 0.4 < pressed < 0.95
    assert 0.5 < np.mean([len(plan.smudges) for plan in fields]) < 2.5
    diameters = [cell.diameter for plan in fields for cell in plan.nucleated if cell.kind is not Kind.NEUTROPHIL]
    assert min(diameters) > 768 / 13, "of a height of 768 px"
    assert max(diameters) < 768 / 6.4, "of a height of 768 px"


def test_looks_tell_nothing_about_the_label() -> None:
    labels_of_look: dict[Look, list[str]] = {look: [] for look in Look}
    for patient in range(1, 97):
        labels_of_look[look_of(9, patient)].append(label_of(9, patient))
    assert all(Counter(labels) == dict.fromkeys(LABELS, len(labels) // 4) for labels in labels_of_look.values())
    assert Counter({look: len(labels) for look, labels in labels_of_look.items()}) == {
        Look.PINK: 48, **dict.fromkeys((Look.GREY, Look.LILAC, Look.BLUE, Look.PALE), 12),
    }  # fmt: skip
    rows = {tuple(look_of(9, 32 * row + 4 * block + 1) for block in range(8)) for row in range(4)}
    assert len(rows) > 2, "in a random order"


MEANS = {
    Look.GREY: (213, 218, 233), Look.LILAC: (208, 217, 237), Look.BLUE: (194, 206, 243), Look.PALE: (231, 233, 241),
}  # fmt: skip
"""Mean R, G, B of the public ALL set's captures in each look."""


@pytest.mark.parametrize("look", MEANS)
def test_a_look_has_the_colours_of_the_public_set(look: Look) -> None:
    patients = [patient for patient in range(1, 65) if look_of(2, patient) is look]
    assert len(patients) == 8
    captures = np.array([draw_capture(2, patient, capture) for patient in patients for capture in (1, 2)])
    assert np.allclose(captures.mean(axis=(0, 1, 2)), MEANS[look], atol=16)
    background = np.percentile(captures.reshape(-1, 3)[::101], 95, axis=0)
    assert np.all(background >= 244)


def test_number_of_cells_tells_nothing_about_the_label() -> None:
    counts: dict[str, list[int]] = {label: [] for label in LABELS}
    for patient in range(1, 41):
        for capture in range(1, 13):
            plan = plan_capture(5, patient, capture)
            counts[plan.label].append(len(plan.nucleated))
    means = [float(np.mean(counts[label])) for label in LABELS]
    assert max(means) - min(means) < 0.7
    without_neutrophils = [
        sorted(
            sum(cell.kind is not Kind.NEUTROPHIL for cell in plan_capture(5, patient, 1).nucleated) for patient in block
        )
        for block in (range(first, first + 4) for first in range(1, 41, 4))
    ]
    assert all(len(set(block)) == 1 for block in without_neutrophils), "a patient of each label has the same number"


def test_cells_are_boxed_where_they_are_drawn(plans: dict[tuple[int, int], CapturePlan]) -> None:
    """The chromatin stain of this look takes away much more green than red and blue; erythrocytes take red."""
    crowded = next(
        place for place, plan in plans.items() if look_of(1, place[0]) is Look.BLUE and len(plan.nucleated) > 25
    )
    density = -np.log(np.maximum(draw_capture(1, *crowded), 1) / 255.0)
    violet = density[..., 1] - (density[..., 0] + density[..., 2]) / 2 > 0.12
    cells, mask = cells_of(1, *crowded), cell_mask(1, *crowded)
    assert mask.shape == (768, 1024)
    assert 20 < len(cells) <= len(plans[crowded].nucleated)
    assert violet[mask].mean() > 0.6
    assert violet[~mask].mean() < 0.05
    boxed = np.zeros_like(mask)
    for cell in cells:
        box = np.s_[cell.y_min : cell.y_max, cell.x_min : cell.x_max]
        assert 0 <= cell.x_min < cell.x_max <= 1024
        assert 0 <= cell.y_min < cell.y_max <= 768
        assert all(mask[box].any(axis=axis).all() for axis in (0, 1)), "the box has no empty row or column"
        assert mask[box].mean() > 0.6
        boxed[box] = True
    unboxed = mask & ~boxed
    assert not unboxed[70:-70, 70:-70].any(), "only cells that are cut off at the frame have no box"


def test_cells_that_are_mostly_cut_off_are_left_out() -> None:
    left_out = 0
    for patient in range(1, 17):
        for capture in (1, 2):
            plan, cells = plan_capture(1, patient, capture), cells_of(1, patient, capture)
            inside = [0 <= cell.x < 1024 and 0 <= cell.y < 768 for cell in plan.nucleated]
            assert len(cells) <= sum(inside)
            assert {cell.kind for cell in cells} <= {cell.kind for cell in plan.nucleated}
            left_out += len(inside) - len(cells)
    assert left_out > 0


def test_list_of_cells_covers_the_whole_archive(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_archive(out, 3, 1, seed=1, processes=1, cells=tmp_path / "lists" / "cells.csv")
    write_archive(out, 1, 2, seed=1, processes=2, cells=tmp_path / "lists" / "cells.csv")
    expected = [
        [path, *(str(side) for side in (cell.x_min, cell.y_min, cell.x_max, cell.y_max)), cell.kind.value]
        for path, patient, capture in (
            ("patient-0001/001.jpg", 1, 1), ("patient-0001/002.jpg", 1, 2),
            ("patient-0002/001.jpg", 2, 1), ("patient-0003/001.jpg", 3, 1),
        )
        for cell in cells_of(1, patient, capture)
    ]  # fmt: skip
    with (tmp_path / "lists" / "cells.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["path", "x_min", "y_min", "x_max", "y_max", "kind"]
    assert rows == expected
    assert len({row[0] for row in rows}) > 2


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
    result = CliRunner().invoke(
        synth, [str(out), "--patients", "1", "--captures", "1", "--seed", "4", "--cells", str(tmp_path / "cells.csv")]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out / 'labels.csv'}\n"
    assert (tmp_path / "cells.csv").read_text().startswith("path,x_min,y_min,x_max,y_max,kind\n")


@pytest.mark.parametrize("option", ["--patients", "--captures", "--processes"])
def test_command_refuses_zero(tmp_path: Path, option: str) -> None:
    assert CliRunner().invoke(synth, [str(tmp_path / "out"), option, "0"]).exit_code == 2
