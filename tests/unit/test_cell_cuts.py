"""The cells of a labelled set as a labelled set of their own."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from contract.errors import DataError
from tests.support.fields import SIDE, field
from trainer.cell_cuts import CELLS_FILE, cut_set, cuts_of
from trainer.data import find_captures
from trainer.labelled import LABELS_FILE


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two captures of a patient of each label, one capture without a cell, and one that is none."""
    root = tmp_path / "labelled"
    rows = ["path,patient,label"]
    for label in ("Benign", "Early"):
        (root / label).mkdir(parents=True)
        for number in (1, 2):
            (root / label / f"{number}.png").write_bytes(png(field(number)))
            rows.append(f"{label}/{number}.png,P-{label},{label}")
    (root / "Benign" / "none.png").write_bytes(png(field(cells=0)))
    (root / "Benign" / "bad.png").write_bytes(b"no capture")
    rows += ["Benign/none.png,P-Benign,Benign", "Benign/bad.png,P-Benign,Benign"]
    (root / LABELS_FILE).write_text("\n".join(rows) + "\n")
    return root


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(encoding="utf-8")))


def test_every_cell_becomes_a_capture_with_label_and_patient(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells"
    out.mkdir()
    done: list[float] = []
    summary = cut_set(labelled, find_captures(labelled), out, blot=True, progress=done.append)
    assert summary.cells == {"Benign": 4, "Early": 4}
    assert summary.without == ["Benign/none.png"]
    assert list(summary.unreadable) == ["Benign/bad.png"]
    assert sum(done) == 6
    again = find_captures(out)
    assert again.patients_known
    assert {(one.label, one.patient) for one in again.captures} == {("Benign", "P-Benign"), ("Early", "P-Early")}
    assert len(again.captures) == 8
    rows = read(out / CELLS_FILE)
    assert {row["capture"] for row in rows} == {f"{label}/{n}.png" for label in ("Benign", "Early") for n in (1, 2)}
    assert all((out / row["path"]).exists() for row in rows)
    lefts = sorted(int(row["left"]) for row in rows if row["capture"] == "Early/1.png")
    assert lefts == pytest.approx([60 - 16, 130 - 16], abs=3)


def test_without_patients_the_cells_of_a_capture_stay_together(labelled: Path, tmp_path: Path) -> None:
    (labelled / LABELS_FILE).unlink()
    out = tmp_path / "cells"
    out.mkdir()
    cut_set(labelled, find_captures(labelled), out, blot=False)
    rows = read(out / CELLS_FILE)
    assert {row["patient"] for row in rows} == {f"capture {row['capture']}" for row in rows}
    assert len({row["patient"] for row in rows}) == 4


def test_what_is_beside_a_cell_is_painted_over() -> None:
    blotted, plain = (list(cuts_of(png(field(3)), blot=blot)) for blot in (True, False))
    for one, other in zip(blotted, plain, strict=True):
        assert one.box == other.box
        middle = one.pixels.shape[0] // 2
        assert one.pixels[middle, middle] == pytest.approx(other.pixels[middle, middle])
        assert np.ptp(one.pixels[0].astype(int), axis=0).max() == 0, "the edge of the square is background alone"
        assert np.ptp(other.pixels[0].astype(int), axis=0).max() > 0
    assert SIDE > blotted[0].pixels.shape[0] == pytest.approx(1.6 * 33, abs=6)


def test_cells_that_the_edge_cuts_off_are_left_out() -> None:
    drawn = field(cells=1)
    cv2.circle(drawn, (0, 40), 14, (95, 60, 150), -1, cv2.LINE_AA)
    assert len(list(cuts_of(png(drawn), blot=True))) == 1


@pytest.mark.parametrize("label", ["../outside", "a/b", ".."])
def test_a_label_never_leads_out_of_the_folder(label: str, labelled: Path, tmp_path: Path) -> None:
    (labelled / LABELS_FILE).write_text(f"path,patient,label\nBenign/1.png,P1,{label}\n")
    (tmp_path / "cells").mkdir()
    with pytest.raises(DataError, match="cannot name a folder"):
        cut_set(labelled, find_captures(labelled), tmp_path / "cells", blot=True)
    assert list((tmp_path / "cells").iterdir()) == []
