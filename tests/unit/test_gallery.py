"""Which cells a case shows: those that speak most for its result, then those that speak most against it."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from contract.bundle import Calibration, Manifest
from contract.case_policy import CasePolicy
from contract.cells import Cell, pack
from contract.imaging import ImageSpec
from contract.states import Verdict
from db.run_report import CaptureCells
from producer import gallery
from producer.gallery import Gallery, gallery_of
from tests.support.bundles import LABELS

MANIFEST = Manifest(
    name="four labels", labels=LABELS, benign_label="Benign", image=ImageSpec(size=64),
    calibration=Calibration(temperature=1.0), case_policy=CasePolicy(benign_at_most=0.4, all_at_least=0.6),
    files={"model.onnx": ""},
)  # fmt: skip


def capture(
    number: int, shares: Sequence[Sequence[float]], copy_of: int | None = None, left: float = 0.2
) -> CaptureCells:
    """A capture with a cell for each row of shares."""
    cells = [Cell(left, 0.2, left + 0.1, 0.3, area=0.01, roundness=1, darkness=1, edge=0) for _ in shares]
    evidence = np.asarray(shares, np.float32) if shares and shares[0] else None
    digest = hashlib.sha256(str(copy_of or number).encode()).hexdigest()
    return CaptureCells(
        capture_id=number, path=f"P1/{number}.jpg".encode(), path_text=f"P1/{number}.jpg", p_all=number / 100,
        size_bytes=1000, sha256=digest, width=640, height=480, cells=pack(cells, evidence),
    )  # fmt: skip


def chosen(captures: Sequence[CaptureCells], verdict: Verdict, subtype: str | None = None) -> Gallery:
    return gallery_of(captures, MANIFEST, verdict, subtype)


def numbers(shown: Sequence[gallery.GalleryCell]) -> list[int]:
    return [one.capture.capture_id for one in shown]


CAPTURES = [
    capture(1, [[0.1, 0.7, 0.1, 0.1]]), capture(2, [[0.8, 0.0, 0.2, 0.0]]), capture(3, [[0.0, 0.2, 0.8, 0.0]]),
    capture(4, [[0.3, 0.4, 0.2, 0.1]]),
]  # fmt: skip


@pytest.mark.parametrize(("verdict", "subtype", "order", "result"), [
    (Verdict.ALL, "Early", [1, 4, 3, 2], "Early"), (Verdict.ALL, None, [3, 1, 4, 2], "ALL"),
    (Verdict.INDETERMINATE, "Pre", [3, 1, 4, 2], "ALL"), (Verdict.BENIGN, None, [2, 4, 1, 3], "Benign"),
])  # fmt: skip
def test_the_strongest_for_the_result_come_first(
    verdict: Verdict, subtype: str | None, order: list[int], result: str
) -> None:
    shown = chosen(CAPTURES, verdict, subtype)
    assert numbers(shown.speaking) == order
    assert shown.result == result


def test_under_each_cell_is_the_label_that_its_place_speaks_for() -> None:
    shown = chosen(CAPTURES, Verdict.ALL, "Early").speaking
    assert [(one.label, round(one.share or 0, 1)) for one in shown] == [
        ("Early", 0.7),
        ("Early", 0.4),
        ("Pre", 0.8),
        ("Benign", 0.8),
    ]


def test_those_that_speak_against_the_result_come_from_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "FOR", 2)
    monkeypatch.setattr(gallery, "AGAINST", 1)
    shown = chosen(CAPTURES, Verdict.ALL)
    assert (numbers(shown.speaking), numbers(shown.against)) == ([3, 1], [2])


def test_copies_are_shown_once_and_cells_that_are_cut_off_only_without_others() -> None:
    twice = [capture(1, [[0, 1, 0, 0]]), capture(2, [[0, 1, 0, 0]], copy_of=1), capture(3, [[0, 1, 0, 0]], left=0.0)]
    assert numbers(chosen(twice, Verdict.ALL).speaking) == [1]
    assert numbers(chosen(twice[2:], Verdict.ALL).speaking) == [3]


def test_without_a_map_the_captures_with_the_highest_probability_come_first_and_no_share_is_told() -> None:
    shown = chosen([capture(number, [[]]) for number in (1, 9, 5)], Verdict.ALL).speaking
    assert numbers(shown) == [9, 5, 1]
    assert {(one.label, one.share) for one in shown} == {(None, None)}


def test_all_cells_are_shown_in_one_window_and_every_file_is_read_once() -> None:
    several = [capture(1, [[0, 1, 0, 0], [1, 0, 0, 0]]), capture(2, [[0, 1, 0, 0]])]
    shown = chosen(several, Verdict.ALL)
    assert shown.window == pytest.approx(gallery.MARGIN * 0.1 * 640, abs=3)
    assert [len(cells) for cells in shown.by_capture().values()] in ([2, 1], [1, 2])
    empty = chosen([], Verdict.INSUFFICIENT)
    assert (empty.speaking, empty.against, empty.window) == ((), (), gallery.LEAST_WINDOW)
