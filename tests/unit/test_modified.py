"""Times of files: every one fits into the database, and only what a mount may have rounded counts as the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.modified import GRAINS_NS, same_time, stored_time

YEAR_NS = 31_556_952 * 10**9
TIMES = st.integers(-(10**21), 10**21)


@given(TIMES)
def test_a_stored_time_has_64_bits_and_is_the_same_time_within_their_range(time: int) -> None:
    stored = stored_time(time)
    assert -(2**63) <= stored < 2**63
    assert (stored == time) == (-(2**63) <= time < 2**63)


@given(TIMES, st.integers(1, 500 * YEAR_NS))
def test_two_times_out_of_range_stay_two(time: int, apart: int) -> None:
    assert stored_time(time) != stored_time(time + apart)


@given(TIMES, st.sampled_from(GRAINS_NS))
def test_a_time_and_what_any_mount_makes_of_it_are_the_same(time: int, grain: int) -> None:
    down = time - time % grain
    for rounded in (time, down, down + grain if time % grain else down):
        assert same_time(time, rounded)
        assert same_time(rounded, time)


@pytest.mark.parametrize("grain", GRAINS_NS)
def test_two_neighbouring_steps_of_a_coarse_mount_are_two_times(grain: int) -> None:
    """Unless a coarser one could have made one of the other."""
    first = 7 * 10**18 + grain
    others = [coarser for coarser in GRAINS_NS if coarser > grain]
    is_coarser = any(time % coarser == 0 for coarser in others for time in (first, first + grain))
    assert same_time(first, first + grain) == is_coarser


@given(TIMES, st.integers(2 * 10**9, 10**20))
def test_times_two_seconds_apart_are_never_the_same(time: int, apart: int) -> None:
    assert not same_time(time, time + apart)
