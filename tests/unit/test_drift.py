"""The population stability index, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy.stats import chi2

from contract.drift import LIMIT, Bins, chance, reference_bins, stability_index


def test_the_index_by_hand() -> None:
    bins = Bins(edges=(0.0,), shares=(0.5, 0.5))
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
    assert stability_index(bins, [80, 20], 1000) == pytest.approx(0.3 * np.log(1.6) + 0.3 * np.log(2.5))
    assert stability_index(bins, [50, 50], 1000) == 0


def test_the_reference_itself_has_not_drifted_and_a_shifted_one_has() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 2, 5000)
    bins = Bins.of(values)
    assert sum(bins.shares) == pytest.approx(1)

    def counted(found: np.ndarray) -> list[int]:
        return np.bincount(np.searchsorted(bins.edges, found, side="left"), minlength=len(bins.shares)).tolist()

    assert stability_index(bins, counted(values), 5000) == pytest.approx(0, abs=1e-9)
    assert stability_index(bins, counted(rng.normal(10, 2, 1000)), 1000) < 0.05
    assert stability_index(bins, counted(rng.normal(12, 2, 1000)), 1000) > LIMIT


def test_what_chance_can_do_with_few_patients_is_no_drift() -> None:
    rng = np.random.default_rng(1)
    bins = Bins.of(rng.normal(0, 1, 100_000))

    def index(patients: int) -> float:
        found = np.repeat(rng.normal(0, 1, patients), 24)  # the captures of a patient are all alike
        counts = np.bincount(np.searchsorted(bins.edges, found, side="left"), minlength=len(bins.shares))
        return stability_index(bins, counts.tolist(), patients)

    for patients in (30, 60, 200):
        assert np.mean([index(patients) > chance(bins, patients) for _ in range(2000)]) < 0.01
    assert chance(bins, 60) == pytest.approx(chi2.ppf(0.999, 5) / 60, rel=0.02)


def test_a_measure_that_is_mostly_zero_has_its_true_shares() -> None:
    values = np.concatenate([np.zeros(970), np.linspace(0.1, 0.3, 30)])
    bins = Bins.of(values)
    assert bins.edges[0] == 0
    assert bins.shares[0] == pytest.approx(0.97)


def test_a_bin_without_captures_gives_a_large_but_finite_index() -> None:
    assert LIMIT < stability_index(Bins(edges=(0.0,), shares=(0.5, 0.5)), [0, 100], 100) < 10


def test_a_bundle_without_a_reference_has_no_bins() -> None:
    assert reference_bins({}) == {}
