"""What the axes of an image are."""

import pytest

from vaesc.shapes import n_channels, n_pixels


@pytest.mark.parametrize(
    ("shape", "pixels", "channels"),
    [((64,), 64, 1), ((28, 20), 560, 1), ((1, 28, 20), 560, 1), ((3, 32, 32), 1024, 3),
     ((5, 4, 3), 12, 5)],
)  # fmt: skip
def test_channels_come_first_and_are_of_one_pixel(shape, pixels, channels):
    assert (n_pixels(shape), n_channels(shape)) == (pixels, channels)
