"""Hidden cells, and what the audit says by them: on drawings whose label lies in both the cells and the background."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from sklearn.linear_model import LogisticRegression  # noqa: E402

from contract.bundle_warnings import is_red  # noqa: E402
from contract.cells import nucleated  # noqa: E402
from tests.support.fields import SIDE, field  # noqa: E402
from trainer import explain, robustness  # noqa: E402
from trainer.masking import hidden, inpainted, too_few_cells  # noqa: E402
from trainer.metrics import Labelled  # noqa: E402
from trainer.robustness import CONTROL, MASKED, findings  # noqa: E402
from trainer.synth.field import draw_capture  # noqa: E402
from trainer.synth.plan import plan_capture  # noqa: E402
from trainer.synth.truth import cell_mask  # noqa: E402

SIZE, SEED = 224, 7
ONE_CELL = [(14, 1), (15, 1), (16, 1), (21, 2), (22, 2), (23, 2), (24, 2), (30, 1), (31, 1), (34, 2), (36, 2), (37, 1)]
FORTY_CELLS = [(patient, capture) for patient in (85, 86, 87, 88) for capture in (1, 3, 7)]
"""Patient and capture of drawings without a scale bar."""

Looks = Callable[[NDArray[np.uint8]], float]


def test_hidden_cells_are_gone_and_the_rest_is_as_it_was():
    for seed in range(4):
        capture = field(seed)
        both = hidden(capture, seed)
        assert both.cells == 2
        assert not nucleated(both.without_cells).any()
        far = np.ones((SIDE, SIDE), bool)
        far[64:128, 30:164] = False
        assert np.array_equal(both.without_cells[far], capture[far])
        with_cells = nucleated(capture)
        assert np.array_equal(both.without_background[with_cells], capture[with_cells])
        assert both.background_area == pytest.approx(both.cell_area, rel=0.1)
        changed = (both.without_background != capture).any(axis=2).mean()
        assert 0.5 * both.background_area < changed <= both.background_area
        again = hidden(capture, seed)
        assert np.array_equal(again.without_background, both.without_background)


def test_a_capture_without_cells_stays_as_it_is():
    both = hidden(field(cells=0), 0)
    assert (both.cells, both.cell_area, both.background_area) == (0, 0, 0)
    assert np.array_equal(both.without_cells, field(cells=0))


def test_where_all_is_hidden_nothing_is_seen():
    assert np.ptp(inpainted(field(), np.ones((SIDE, SIDE), np.uint8)), axis=(0, 1)).max() == 0


def test_labels_with_hardly_any_cells_are_named():
    targets, cells = np.array([0, 0, 0, 1, 1, 1]), np.array([9, 1, 0, 40, 0, 0])
    assert too_few_cells(["a", "b", "c"], targets, cells) == ["b"]


def test_activation_on_cells_is_not_told_where_hardly_any_were_found():
    captures = np.stack([field(0), field(1), field(2, cells=0), field(3, cells=0), field(4)])
    cam = np.ones((5, 2, 6, 6), np.float32)
    targets = np.array([0, 0, 1, 1, 1])
    shares, areas = explain.activation_share(captures, np.arange(5), cam, targets)
    told = explain.by_label(["a", "b"], targets, shares, areas)
    assert told["a"]["on_cells"] == pytest.approx(told["a"]["cells_area"])
    assert told["b"] == {"captures": 0, "on_cells": None, "cells_area": None}


def drawings(places: Sequence[tuple[int, int]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """These captures of these patients, each of them twice: in label 1 cells are stained more strongly than in label 0,
    and what is no cell is yellower.
    """
    captures = []
    for place in places:
        drawn, cells = draw_capture(SEED, *place), cell_mask(SEED, *place)[:, :, None]
        other = np.where(cells, 255 * (drawn / 255) ** 2, drawn * (1.0, 1.0, 0.8)).astype(np.uint8)
        captures += [cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for one in (drawn, other)]
    return np.stack(captures), np.tile([0, 1], len(places))


def at_cells(capture: NDArray[np.uint8]) -> float:
    """How dark the darkest pixels are: those of nuclei, where there are any. Blue is not seen."""
    green = np.sort(capture[:, :, 1].ravel())
    return float(np.log(np.quantile(green, 0.95) / (1 + green[: green.size // 200].mean())))


def at_background(capture: NDArray[np.uint8]) -> float:
    """How yellow the bright pixels are."""
    bright = capture[capture[:, :, 1] >= np.quantile(capture[:, :, 1], 0.8)].mean(axis=0)
    return float(np.log(bright[1] / bright[2]))


class Network:
    """One number of a capture, and a regression that makes probabilities of it; it knows these captures by heart."""

    def __init__(self, looks: Looks, captures: NDArray[np.uint8], targets: NDArray[np.int64]) -> None:
        self.looks = looks
        self.head = LogisticRegression(C=1e4).fit(self._seen(captures), targets)

    def _seen(self, captures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.array([[self.looks(capture)] for capture in captures])

    def probabilities(self, captures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return self.head.predict_proba(self._seen(captures))


@pytest.mark.parametrize(("places", "cells"), [(ONE_CELL, 1), (FORTY_CELLS, 40)])
def test_hidden_cells_tell_who_looks_at_cells_and_who_at_the_background(places, cells):
    assert all(abs(len(plan_capture(SEED, *place).nucleated) - cells) <= cells // 10 for place in places)
    captures, targets = drawings(places)
    looking_at_cells, looking_elsewhere = (
        audited(Network(looks, captures, targets), captures, targets) for looks in (at_cells, at_background)
    )
    assert looking_at_cells[0]["cells_per_capture"] == pytest.approx(cells, rel=0.25)
    masked, control = (line["accuracy"] for line in looking_at_cells[0]["lines"])
    assert masked == pytest.approx(0.5, abs=0.1)
    assert control > 0.9
    assert "the evidence lies in the cells" in looking_at_cells[1]
    assert looking_elsewhere[0]["lines"][0]["accuracy"] > 0.9
    assert "looking elsewhere" in looking_elsewhere[1]


def audited(network: Network, captures: NDArray[np.uint8], targets: NDArray[np.int64]) -> tuple[dict, str]:
    """The masked lines, and the last sentence on them."""
    rows = np.arange(len(captures))
    probabilities = network.probabilities(captures)
    of = Labelled(["Benign", "Pro"], 0, targets, probabilities, rows)
    accuracy = (probabilities.argmax(axis=1) == targets).mean()
    assert accuracy > 0.9
    masking = robustness.masked_out(network, captures, rows, of, lambda _: None)
    return masking, findings([line("as they are", accuracy)], masking, chance=0.5)[-1]


def test_without_cells_the_audit_gives_no_verdict():
    captures = np.stack([field(seed, cells=0) for seed in range(8)])
    captures[::2, :, :, 2] //= 2
    targets = np.tile([0, 1], 4)
    masking, sentence = audited(Network(at_background, captures, targets), captures, targets)
    assert masking["lines"] == []
    assert "not told: in fewer than 50% of the captures of Benign and Pro" in sentence
    assert not is_red(sentence)


def line(change: str, accuracy: float) -> dict[str, object]:
    return {"change": change, "accuracy": accuracy, "interval": [accuracy - 0.05, 1.0]}


def masking(masked: float, control: float) -> dict[str, object]:
    lines = [line(MASKED, masked), line(CONTROL, control)]
    return {"cells_per_capture": 12.3, "too_few_cells": [], "area": 0.2, "control_area": 0.19, "lines": lines}


def test_the_findings_say_where_it_falls_and_whether_it_looks_at_cells():
    lines = [line("as they are", 0.95), line("darker", 0.94), line("greyscale", 0.70)]
    fallen, cells = findings(lines, masking(0.30, 0.90), chance=0.28)
    assert "more than 2 points under 1 of 2 changes, most under “greyscale”: 95.0% to 70.0%" in fallen
    assert "(12.3 per capture, 20% of the area) masked out the accuracy falls to 30.0% (with 19%" in cells
    assert "the evidence lies in the cells" in cells
    assert not is_red(cells)
    elsewhere = findings(lines, masking(0.60, 0.90), chance=0.28)[1]
    assert "the network is looking elsewhere" in elsewhere
    assert is_red(elsewhere)
    misled = findings(lines, masking(0.30, 0.31), chance=0.28)[1]
    assert "masks of any kind mislead this network" in misled
    assert not is_red(misled)
    weak = [line("as they are", 0.30), line("darker", 0.30)]
    assert findings(weak, masking(0.30, 0.30), chance=0.28) == [
        "The accuracy itself (30.0%) is not clearly better than always naming the most frequent label (28.0%)."
    ]
