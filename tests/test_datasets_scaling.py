"""The one map from a data set's own range to [0, 1]."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaesc.datasets import to_unit
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
        (np.array([0.0, 0.7]), 0, 255, r"floats within \[0, 1\]"),
        (np.array([0.0, 1.0]), 0, 16, r"floats within \[0, 1\]"),
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


def test_black_images_and_no_images_are_fine_at_any_scale():
    assert (to_unit(np.zeros((2, 3)), low=0, high=255) == 0).all()
    assert to_unit(np.empty((0, 3))).shape == (0, 3)
