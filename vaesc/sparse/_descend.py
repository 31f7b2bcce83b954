"""One pass of coordinate descent over the atoms of a dictionary, given sufficient statistics."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Atoms moved between two matrix products; the result does not depend on it but for rounding."""


def descend(
    dictionary: NDArray[Any],
    gram: NDArray[Any],
    products: NDArray[Any],
    *,
    in_ball: bool = False,
    positive: bool = False,
) -> None:
    """Move every atom once to its best place, one after the other; in place.

    Blocks of atoms take their part of ``A D`` from one matrix product, and correct it for the
    atoms of the block that have moved already: the numbers of one by one, at a product's speed.

    Args:
        dictionary: D, shape (K, d), C-contiguous.
        gram: A = Z^T Z, shape (K, K).
        products: B = Z^T X, shape (K, d).
        in_ball: Atoms may be shorter than 1.
        positive: Atoms have no negative entry.
    """
    from vaesc.sparse._update import descend_block

    moved = np.empty((BLOCK, dictionary.shape[1]), dictionary.dtype)
    for first in range(0, len(dictionary), BLOCK):
        block = slice(first, first + BLOCK)
        pull = products[block] - gram[block] @ dictionary
        descend_block(first, gram, pull, dictionary, moved, in_ball, positive)
