"""Colour, cells, scale bars, changes and references: on drawn fields, against numbers worked out another way."""

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

torch = pytest.importorskip("torch")

from contract import cells, novelty  # noqa: E402
from tests.support.fields import SIDE, field, with_bar  # noqa: E402
from trainer import explain, reference, robustness, stain  # noqa: E402
from trainer.augment import Augment, Mixer, background, to_unit  # noqa: E402
from trainer.config import AugmentTable  # noqa: E402
from trainer.robustness import CHANGES, changed  # noqa: E402
from trainer.synth.field import draw_capture  # noqa: E402
from trainer.traits import find_scale_bar, perceptual_hash, traits_of, without_scale_bar  # noqa: E402

NOTHING = AugmentTable(
    flips=False, quarter_turns=False, scale=0, translation=0, stain_scale=0, stain_shift=0, brightness=0, contrast=0,
    white_balance=0, blur=0, noise=0,
)  # fmt: skip


def fields(count: int = 4, **more: object) -> np.ndarray:
    return np.stack([field(seed, **more) for seed in range(count)])


def unit(captures: np.ndarray) -> "torch.Tensor":
    return to_unit(torch.from_numpy(captures))


def test_nucleated_cells_are_the_purple_discs_in_torch_and_in_numpy():
    captures = fields()
    in_torch = stain.nucleated(unit(captures))[:, 0].numpy() > 0
    in_numpy = np.stack([cells.nucleated(one) for one in captures])
    assert (in_torch != in_numpy).mean() < 1e-3
    truth = np.zeros((SIDE, SIDE), np.uint8)
    for x in (60, 130):
        cv2.circle(truth, (x, 96), 16, 1, -1)
    for mask in in_torch:
        assert (mask & (truth > 0)).sum() > 0.9 * truth.sum()
        assert (mask & (truth == 0)).sum() < 0.1 * truth.sum()
    assert not stain.nucleated(unit(fields(cells=0))).mean() > 0.01


@pytest.mark.parametrize("size", [128, 224, 300])
def test_graph_and_library_find_the_same_nuclei_in_every_look(size: int):
    shared = either = 0
    for patient in range(1, 33, 3):
        drawn = cv2.resize(draw_capture(5, patient, 1), (size, size), interpolation=cv2.INTER_AREA)
        in_torch = stain.nucleated(unit(drawn[None]))[0, 0].numpy() > 0
        in_numpy = cells.nucleated(drawn)
        shared, either = shared + (in_torch & in_numpy).sum(), either + (in_torch | in_numpy).sum()
    assert shared >= 0.95 * either > 0


@pytest.mark.parametrize("tint", [(0.9, 1.0, 1.05), (1.0, 0.85, 0.95), (0.8, 0.8, 0.8)])
def test_the_cells_are_found_under_another_light(tint):
    plain, tinted = (stain.nucleated(unit(fields(tint=one))) for one in ((1, 1, 1), tint))
    assert (plain != tinted).float().mean() < 0.01


def test_standardised_captures_have_the_same_mean_and_deviation_of_density():
    for tint in ((1, 1, 1), (0.8, 0.9, 1.0)):
        density = stain.standardised(unit(fields(tint=tint))).log()
        assert torch.allclose(density.mean(dim=(2, 3)), torch.tensor(stain.DENSITY_MEAN).expand(4, 3), atol=5e-3)
        assert torch.allclose(density.std(dim=(2, 3)), torch.tensor(stain.DENSITY_DEVIATION).expand(4, 3), atol=5e-3)


def test_normalisation_undoes_gain_and_strength_of_the_stain():
    x = unit(fields())
    gain = torch.tensor([0.7, 0.9, 0.8]).view(1, 3, 1, 1)
    strength = torch.tensor([1.3, 0.8, 1.1]).view(1, 3, 1, 1)
    plain, other = stain.standardised(x), stain.standardised(x**strength * gain)
    assert (plain - other).abs().max() < 1e-4


def test_an_empty_field_is_not_stretched_into_noise():
    empty = np.random.default_rng(0).integers(225, 228, (1, SIDE, SIDE, 3), np.uint8)
    assert stain.standardised(unit(empty)).std() < 0.1
    assert not stain.nucleated(unit(empty)).any()
    assert torch.isfinite(stain.standardised(torch.zeros(1, 3, 32, 32))).all()


def test_the_second_input_shows_cells_with_a_rim():
    x = unit(fields())
    assert torch.equal(stain.cells(x) * 1.0, (stain.cells(x) > 0) * 1.0)
    assert stain.cells(x).mean() > stain.nucleated(x).mean()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 20, 20), (30, 90, 200)])
@pytest.mark.parametrize(("left", "top"), [(130, 176), (12, 176), (140, 24)])
def test_a_scale_bar_is_found_where_it_is_and_removed(colour, left, top):
    plain = field(cells=0)
    drawn = with_bar(plain, colour, left, top)
    assert find_scale_bar(plain) is None
    box = find_scale_bar(drawn)
    assert box is not None
    assert box[0] == pytest.approx(left, abs=3)
    assert box[2] == pytest.approx(left + 40, abs=3)
    assert top - 2 <= box[1] <= box[3] <= top + 6
    clean = without_scale_bar(drawn, box)
    assert find_scale_bar(clean) is None
    bar = np.abs(clean[top : top + 4, left : left + 40].astype(int) - np.median(plain, axis=(0, 1))).max()
    assert bar < 90
    assert np.array_equal(clean[60:120], drawn[60:120])


def test_a_perceptual_hash_survives_jpeg_and_tells_fields_apart():
    _, packed = cv2.imencode(".jpg", field(), [cv2.IMWRITE_JPEG_QUALITY, 70])
    again = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    assert bin(perceptual_hash(field()) ^ perceptual_hash(again)).count("1") <= 4
    assert bin(perceptual_hash(field(0)) ^ perceptual_hash(field(1))).count("1") > 8


def test_traits_of_rows_are_those_of_all():
    captures = fields()
    all_of_them = traits_of(captures)
    some = traits_of(captures, [2, 0])
    assert np.array_equal(some.colour, all_of_them.of(np.array([2, 0])).colour)
    assert np.array_equal(some.hashes, all_of_them.hashes[[2, 0]])
    assert all_of_them.colour[0] == pytest.approx(
        [*captures[0].reshape(-1, 3).mean(0), *captures[0].reshape(-1, 3).std(0)], abs=1e-6
    )
    assert np.allclose(all_of_them.background, (228, 222, 226), atol=4)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_the_audit_changes_captures_and_keeps_their_form(name):
    captures = np.stack([with_bar(field(seed)) for seed in range(3)])
    after = changed(captures, CHANGES[name])
    assert (after.shape, after.dtype) == (captures.shape, np.uint8)
    assert not np.array_equal(after, captures)
    assert np.array_equal(after, changed(captures, CHANGES[name]))  # the same every time


def test_no_change_is_no_change():
    captures = fields()
    assert np.array_equal(changed(captures, lambda x: x), captures)
    assert np.abs(changed(captures, robustness.stain(1, 1)).astype(int) - captures).max() <= 1


def test_a_pure_stain_gets_denser_by_its_factor():
    density = torch.nn.functional.normalize(torch.tensor([0.65, 0.70, 0.29]), dim=0) * 0.6
    pure = torch.exp(-density).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    after = -robustness.stain(1.25, 0.5)(pure).log()[0, :, 0, 0]
    assert torch.allclose(after, 1.25 * density, atol=1e-3)


def test_the_share_of_activation_on_cells():
    captures = fields(2)
    cam = np.zeros((2, 3, 6, 6), np.float32)
    cam[0, 1, 3, 1] = 4.0  # the left cell: 60/192 of 6 is place 1, 96/192 is place 3 (and 2)
    cam[0, 1, 0, 5] = 12.0  # nothing is there
    cam[1, 2] = -1.0
    shares, areas = explain.activation_share(captures, np.arange(2), cam, np.array([1, 2]))
    assert shares[0] == pytest.approx(0.25)
    assert 0 < areas[0] < 0.5
    assert np.isnan(shares[1])  # nothing is active
    found = explain.by_label(["a", "b"], np.array([0, 1]), shares, areas)
    assert found["a"] == {"captures": 1, "on_cells": pytest.approx(0.25), "cells_area": pytest.approx(areas[0])}
    assert found["b"] == {"captures": 0, "on_cells": None, "cells_area": None}


def test_novelty_is_the_mahalanobis_distance_of_the_strangest_block_to_its_nearest_class(tmp_path):
    rng = np.random.default_rng(0)
    train = np.concatenate([rng.normal(0, 1, (60, 5)), rng.normal(6, 1, (60, 5))]).astype(np.float32)
    train[:, 3] *= 100  # features of any scale
    targets = np.repeat([0, 1], 60)
    blocks = reference.write_embeddings(tmp_path, (2, 3), train, targets, train[::7])
    known = novelty.open_reference((tmp_path / novelty.FILE).read_bytes(), blocks)
    probe = rng.normal(3, 3, (4, 5)).astype(np.float32)
    for point, found in zip(probe, known.of(probe), strict=True):
        each = [
            min(
                mahalanobis(block.components @ (point[block.begin : block.end] - block.mean), mean, block.precision)
                for mean in block.class_means
            )
            / block.threshold
            for block in known.blocks
        ]
        assert found == pytest.approx(max(each), rel=1e-4)
    assert (known.of(train[::7]) <= 1.0001).all(), "so few that each threshold is the largest distance"
    strange = train[:1].copy()
    strange[0, 4] = 50  # one feature of one block
    assert known.of(strange)[0] > 1
    assert novelty.mark_of(float(known.of(strange)[0])).code == "novel"
    assert novelty.mark_of(1.0) is None


def test_blocks_that_make_no_embedding_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no embedding of 5"):
        reference.write_embeddings(tmp_path, (2, 2), np.zeros((9, 5), np.float32), np.zeros(9, int), np.zeros((2, 5)))


def augmented(captures: np.ndarray, **changes: object) -> "torch.Tensor":
    table = NOTHING.model_copy(update=changes)
    return Augment(table, torch.Generator().manual_seed(1))(torch.from_numpy(captures), SIDE)


def test_covered_corners_are_background_and_the_middle_stays():
    captures = np.stack([with_bar(field(seed)) for seed in range(8)])
    after = augmented(captures, corner_mask=1.0)
    x = unit(captures)
    assert (after[:, :, 50:140, :] - x[:, :, 50:140, :]).abs().max() < 0.01
    corners = torch.stack([after[:, :, row, column] for row in (2, -3) for column in (2, -3)])
    assert (corners - background(x)[:, :, 0, 0]).abs().max() < 0.01


def test_drawn_bars_are_mostly_found_and_stay_near_the_edge():
    captures = fields(16, cells=0)
    after = (augmented(captures, scale_bar=1.0) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    moved = np.abs(after.astype(int) - captures).max(axis=3) > 12
    assert moved.any(axis=(1, 2)).all()
    assert not moved[:, 50:142].any()


@pytest.mark.parametrize("step", ["grey", "jpeg"])
def test_grey_and_jpeg_come_in_their_share_and_repeat(step):
    captures = fields(40)
    after = augmented(captures, **{step: 0.5})
    assert torch.equal(after, augmented(captures, **{step: 0.5}))
    touched = (after - unit(captures)).abs().amax(dim=(1, 2, 3)) > 0.015
    assert 10 < int(touched.sum()) < 30
    if step == "grey":
        assert (after[touched].std(dim=1) < 1e-6).all()


def test_mixing_keeps_labels_whole_or_shares_them():
    torch.manual_seed(0)
    x, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 4
    same, targets = Mixer(NOTHING, 4)(x, labels)
    assert same is x
    assert targets is labels
    for changes in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mixed, shares = Mixer(NOTHING.model_copy(update=changes), 4)(x.clone(), labels)
        assert shares.shape == (6, 4)
        assert torch.allclose(shares.sum(dim=1), torch.ones(6))
        assert not torch.equal(mixed, x)
    kinds = {Mixer(NOTHING.model_copy(update={"cutmix": 0.5}), 4)(x.clone(), labels)[1].ndim for _ in range(30)}
    assert kinds == {1, 2}
