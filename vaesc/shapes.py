"""What the axes of an image are: (h, w), grey; (c, h, w), its channels first; or (d,), flat.

Channels come first wherever there are images; a data set that has them last is refused. Only image
formats and figures want them last: there, and nowhere else, they are moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def n_pixels(shape: Sequence[int]) -> int:
    """Return the pixels of an image of this shape: the values of all its channels are of one."""
    return math.prod(shape[-2:])


def n_channels(shape: Sequence[int]) -> int:
    """Return the channels of an image of this shape: 1 unless it has an axis for them."""
    return shape[0] if len(shape) == 3 else 1
