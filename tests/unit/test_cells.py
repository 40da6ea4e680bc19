"""Nucleated cells on drawings, which know theirs: found, counted, and stored; and none where there is none."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from contract import cells
from contract.cells import Cell, cell_labels, evidence_of, find_cells, nucleated, pack, unpack
from tests.support.fields import SIDE, field
from trainer.synth.field import draw_capture
from trainer.synth.kinds import Kind
from trainer.synth.looks import Look
from trainer.synth.plan import plan_capture
from trainer.synth.stain import look_of
from trainer.synth.truth import cell_mask, cells_of

SEED = 5
SIZE = 224


def of_look(look: Look) -> list[tuple[int, int]]:
    """Patient and capture of some drawings of a look."""
    return [(patient, capture) for patient in range(1, 97) if look_of(SEED, patient) is look for capture in (1, 2)][
        : 36 if look is Look.PINK else 10
    ]


def small(drawn: NDArray[np.uint8], side: int = SIZE) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(drawn, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("look", Look)
def test_the_cells_of_drawings_are_found_and_counted_in_every_look(look: Look) -> None:
    true = found = counted = false = 0
    for patient, capture in of_look(look):
        in_list, labels = cell_labels(small(draw_capture(SEED, patient, capture)))
        mask = small(cell_mask(SEED, patient, capture).view(np.uint8)) > 0
        boxes = [
            (one.x_min / 1024, one.y_min / 768, one.x_max / 1024, one.y_max / 768)
            for one in cells_of(SEED, patient, capture)
        ]
        true += len(boxes)
        for left, top, right, bottom in boxes:
            box = labels[int(top * SIZE) : round(bottom * SIZE), int(left * SIZE) : round(right * SIZE)]
            found += bool((box > 0).mean() > 0.3)
        for number, cell in enumerate(in_list, start=1):
            x, y = (cell.left + cell.right) / 2, (cell.top + cell.bottom) / 2
            inside = any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)
            counted += inside
            false += not inside and mask[labels == number].mean() < 0.4
    assert true > 30
    assert found >= 0.97 * true
    assert counted == pytest.approx(true, rel=0.2), "touching cells are parted"
    assert false <= (0.06 if look is Look.PINK else 0.15) * true, "smudge cells are taken for cells, platelets are not"


@pytest.mark.parametrize("tint", [(1, 1, 1), (0.9, 1.0, 1.05), (1.0, 0.85, 0.95), (0.6, 0.6, 0.6)])
def test_light_and_density_of_the_field_change_nothing(tint: tuple[float, float, float]) -> None:
    assert len(find_cells(field(tint=tint))) == 2
    assert nucleated(field(tint=tint)).mean() == pytest.approx(nucleated(field()).mean(), rel=0.05)
    assert find_cells(field(cells=0, tint=tint)) == []


@pytest.mark.parametrize("capture", [
    np.full((SIDE, SIDE, 3), 235, np.uint8),
    np.zeros((SIDE, SIDE, 3), np.uint8),
    np.random.default_rng(0).integers(225, 236, (SIDE, SIDE, 3), np.uint8),
    np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8),
    np.tile(np.linspace(60, 240, SIDE, dtype=np.uint8)[:, None, None], (1, SIDE, 3)),
])  # fmt: skip
def test_a_field_without_cells_has_none(capture: NDArray[np.uint8]) -> None:
    assert find_cells(capture) == []


def test_touching_cells_are_parted() -> None:
    touching = field(cells=0)
    for x in (60, 89, 118):
        cv2.circle(touching, (x, 96), 15, (95, 60, 150), -1, cv2.LINE_AA)
    assert len(find_cells(touching)) == 3


def test_the_lobes_of_a_nucleus_are_one_cell() -> None:
    found: list[int] = []
    for patient in range(1, 60):
        for capture in (1, 2, 3):
            if all(one.kind is not Kind.NEUTROPHIL for one in plan_capture(SEED, patient, capture).nucleated):
                continue
            middles = [((one.left + one.right) / 2, (one.top + one.bottom) / 2)
                       for one in find_cells(small(draw_capture(SEED, patient, capture)))]  # fmt: skip
            found += [
                sum(one.x_min <= 1024 * x <= one.x_max and one.y_min <= 768 * y <= one.y_max for x, y in middles)
                for one in cells_of(SEED, patient, capture)
                if one.kind is Kind.NEUTROPHIL
            ]
    assert len(found) >= 5
    assert max(found) == 1
    assert sum(found) >= 0.6 * len(found)


def test_a_cell_is_measured() -> None:
    drawn = field(cells=1)
    cv2.circle(drawn, (0, 40), 14, (95, 60, 150), -1, cv2.LINE_AA)
    whole, cut = find_cells(drawn)
    assert (whole.left * SIDE, whole.top * SIDE) == pytest.approx((44, 80), abs=3)
    assert (whole.right * SIDE, whole.bottom * SIDE) == pytest.approx((77, 113), abs=3)
    assert whole.area * SIDE**2 == pytest.approx(np.pi * 16**2, rel=0.15)
    assert 0.8 < whole.roundness <= 1
    assert whole.darkness == pytest.approx(np.log(222 / 60), rel=0.2)
    assert whole.edge == 0
    assert cut.left == 0
    assert 0.2 < cut.edge < 0.6


def test_at_most_so_many_are_kept_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    (patient, capture), *_ = (one for one in of_look(Look.BLUE) if len(cells_of(SEED, *one)) > 12)
    drawn = small(draw_capture(SEED, patient, capture))
    everything = find_cells(drawn)
    assert [one.area for one in everything] == sorted((one.area for one in everything), reverse=True)
    monkeypatch.setattr(cells, "MOST_CELLS", 5)
    kept, labels = cell_labels(drawn)
    assert kept == everything[:5]
    assert labels.max() == 5


def cell(left: float, top: float, right: float, bottom: float) -> Cell:
    return Cell(left, top, right, bottom, area=0.01, roundness=1, darkness=1, edge=0)


def test_the_evidence_of_a_cell_is_what_the_map_says_at_its_place() -> None:
    activation = np.zeros((2, 4, 4), np.float32)
    activation[1, 0, 0] = 50
    shares = evidence_of([cell(0, 0, 0.25, 0.25), cell(0, 0, 0.5, 0.25), cell(0.5, 0.5, 1, 1)], activation)
    assert shares == pytest.approx(np.array([[0, 1], [0.25, 0.75], [0.5, 0.5]]), abs=1e-6)
    assert evidence_of([], activation).shape == (0, 2)


def test_cells_are_stored_and_read_again_to_a_step() -> None:
    found = [cell(0, 0.25, 0.5, 1), cell(0.1, 0.2, 0.3, 0.4)]
    stored = pack(found, np.array([[0.2, 0.8], [1, 0]], np.float32))
    assert len(stored) == 2 + 2 * 6
    for one, read in zip(found, unpack(stored), strict=True):
        assert (read.left, read.top, read.right, read.bottom) == pytest.approx(
            (one.left, one.top, one.right, one.bottom), abs=1 / 510
        )
    assert unpack(stored)[0].shares == pytest.approx((0.2, 0.8), abs=1 / 510)
    assert [one.shares for one in unpack(pack(found, None))] == [(), ()]
    assert unpack(pack([], np.empty((0, 4), np.float32))) == []
    for damaged in (b"", b"\x02" + stored[1:], stored[:-1]):
        with pytest.raises(ValueError, match="layout"):
            unpack(damaged)


def test_leukaemic_fields_cost_less_than_300_bytes_each_in_the_mean() -> None:
    sizes = []
    for patient, capture in (one for look in Look if look is not Look.PINK for one in of_look(look)[:4]):
        found = find_cells(small(draw_capture(SEED, patient, capture)))
        sizes.append(len(pack(found, np.zeros((len(found), 4), np.float32))))
    assert 40 < np.mean(sizes) <= 300
