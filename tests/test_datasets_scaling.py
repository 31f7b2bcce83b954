"""The one map from a data set's own range to [0, 1]."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaesc.datasets import to_unit
from vaesc.datasets.scaling import from_unit
from vaesc.errors import DataError


def test_bytes_are_divided_by_255_and_booleans_are_0_and_1():
    ramp = np.arange(256, dtype=np.uint8)
    expected = (np.arange(256) / 255).astype(np.float32)

    assert np.array_equal(to_unit(ramp), expected)
    assert np.array_equal(to_unit(ramp, low=0, high=255), expected)
    assert np.array_equal(to_unit(ramp.astype(np.int64)), expected)
    assert np.array_equal(to_unit(ramp.astype(float), low=0, high=255), expected)
    assert np.array_equal(to_unit(ramp > 3, low=0, high=255), (ramp > 3).astype(np.float32))


@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1)),
    st.floats(-50, 50),
    st.floats(0.1, 1000),
)
def test_it_inverts_the_map_from_the_unit_interval(unit, low, width):
    unit[0, 0], unit[0, 1] = 0, 1
    values = low + unit * width

    assert to_unit(values, low=low, high=low + width) == pytest.approx(unit, abs=1e-5)


@given(hnp.arrays(np.float32, (2, 5), elements=st.floats(-0.75, 1.75, width=32)))
def test_the_result_lies_in_the_unit_interval_and_what_did_is_unchanged(values):
    unit = to_unit(values)

    assert unit.dtype == np.float32
    assert unit.min() >= 0
    assert unit.max() <= 1
    inside = (values >= 0) & (values <= 1)
    assert np.array_equal(unit[inside], values[inside])


@pytest.mark.parametrize(
    ("images", "low", "high", "sentence"),
    [
        (np.array([0.0, 255.0]), 0, 1, "from 0 to 255"),
        (np.array([-1.5, 0.7]), 0, 255, r"\[0, 1\] of the data set, got values from -1.5"),
        (np.array([-np.inf, 0.7]), 0, 255, "finite"),
        (np.array([0.0, 33.0]), 0, 16, "from 0 to 33"),
        (np.array([0.0, np.nan]), 0, 1, "finite"),
        (np.array([0.0, np.inf]), 0, 255, "finite"),
        (np.array([0, 256]), 0, 1, r"0\.\.255"),
        (np.array([-1, 5]), 0, 1, r"0\.\.255"),
        (np.array(["a"]), 0, 1, "got type <U1"),
        (np.array([None]), 0, 1, "got type object"),
    ],
)
def test_another_scale_is_refused_and_never_guessed(images, low, high, sentence):
    with pytest.raises(DataError, match=sentence):
        to_unit(images, low=low, high=high)


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)),
    st.integers(8, 70_000),
)
def test_floats_up_to_1_are_in_the_unit_interval_where_the_range_is_one_of_integers(unit, high):
    assert np.array_equal(to_unit(unit, low=0, high=high), unit)


@pytest.mark.parametrize("high", [16, 255])
def test_floats_beyond_1_and_integers_are_in_the_data_sets_own_range(high):
    ramp = np.arange(high + 1)
    expected = (ramp / high).astype(np.float32)

    assert np.array_equal(to_unit(ramp.astype(float), low=0, high=high), expected)
    # The same dark image: as integers it stays dark, whatever its largest value.
    for dtype in (np.uint8, np.int64):
        assert np.array_equal(to_unit(ramp[:2].astype(dtype), low=0, high=high), expected[:2])


@given(
    hnp.arrays(np.uint8, (2, 5)),
    st.sampled_from([(0, 1), (0, 7), (0, 16), (0, 100), (0, 255), (-3.25, 7.5), (-100, 300)]),
)
def test_bytes_are_judged_as_any_other_integers(values, limits):
    low, high = limits

    def outcome(images):
        try:
            return to_unit(images, low=low, high=high).tobytes()
        except DataError as error:
            return str(error)

    assert outcome(values) == outcome(values.astype(np.int64))


def test_bytes_of_another_scale_are_not_clipped_to_white():
    with pytest.raises(
        DataError, match=r"range \[0, 16\] of the data set, got values from 0 to 255"
    ):
        to_unit(np.arange(256, dtype=np.uint8), low=0, high=16)


@pytest.mark.parametrize(("low", "high"), [(-3.5, 7), (0, 4), (0, 8.5), (-16, 16), (-100, 300)])
def test_floats_are_always_in_the_data_sets_own_range_where_it_is_no_range_of_integers(low, high):
    values = np.array([0.0, 0.25, 1.0])
    expected = (values - low) / (high - low)

    assert to_unit(values, low=low, high=high) == pytest.approx(expected)


_RANGES = st.sampled_from([(0, 1), (0, 255), (0, 16), (0, 4095), (0, 7), (-3.25, 7.5), (-1, 1)])


@given(hnp.arrays(np.float32, (2, 5), elements=st.floats(0, 1, width=32)), _RANGES)
def test_what_goes_back_can_come_in_again_and_is_the_same(unit, limits):
    low, high = limits
    back = from_unit(unit, low=low, high=high)

    assert back.dtype == np.float32
    assert min(low, 0) <= back.min() <= back.max() <= high
    assert to_unit(back, low=low, high=high) == pytest.approx(unit, abs=1e-6)


def test_black_images_and_no_images_are_fine_at_any_scale():
    assert (to_unit(np.zeros((2, 3)), low=0, high=255) == 0).all()
    assert to_unit(np.empty((0, 3))).shape == (0, 3)


def test_floats_that_overshoot_one_are_not_taken_for_nearly_black_bytes():
    overshot = np.array([[0.2, 1.03]], np.float32)
    with pytest.raises(DataError, match=r"1\.03 as the largest value, which is neither"):
        to_unit(overshot, low=0, high=255)
    np.testing.assert_allclose(to_unit(overshot, low=0, high=16), overshot / 16, rtol=1e-6)
