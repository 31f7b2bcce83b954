r"""Levels that are worth their bits: quantisation by Lagrange's multiplier.

A coefficient a becomes the level v that minimises :math:`(a - \hat a(v))^2 + \lambda\, b(v)`,
where b is what the entropy coder will spend on it. As decisions are independent given the class,
an image's best levels are found one coefficient at a time, each among three: the nearest, the next
smaller, zero.

Without a model of bits the best uniform quantiser at a slope of :math:`\lambda` is wanted. At high
rates its error is :math:`\Delta^2 / 12` and falls by a factor of 4 with each bit, which gives
:math:`\Delta^2 = 6 \lambda / \ln 2`, 8.7 times :math:`\lambda`; at the low rates of images most
coefficients are zero, and a finer step with more zeroing does better (:data:`FINENESS`).

References:
    Shoham and Gersho, "Efficient Bit Allocation for an Arbitrary Set of Quantizers", 1988.
    https://doi.org/10.1109/29.90373
    Chou, Lookabaugh and Gray, "Entropy-Constrained Vector Quantization", 1989.
    https://doi.org/10.1109/29.17498
    Sullivan, "Efficient Scalar Quantization of Exponential and Laplacian Random Variables", 1996.
    https://doi.org/10.1109/18.532878
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import MOST, ONE, CodeModel

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FINENESS = 4.0
"""Square of the step, in units of lambda: on Fashion-MNIST's validation images 4 gave .1 dB more
than 6.7 at equal bits, and 3.3 the same."""
_DEAD = 0.65
"""Coefficients below this many steps become 0 where no model says what bits cost."""

Floats = NDArray[np.float32]


def step_of(price: float) -> float:
    """Return the quantiser's step for a price of lambda, in squared error, a bit."""
    return float(np.sqrt(FINENESS * price))


def rounded(coefficients: Floats, step: float) -> csr_array:
    """Return the nearest levels of dense coefficients (n, K), with a dead zone; int16."""
    sizes = np.abs(coefficients) / step
    near = np.where(sizes < _DEAD, 0, np.clip(np.rint(sizes), 0, MOST))
    return _signed(near, coefficients)


def worthwhile(
    coefficients: Floats, model: CodeModel, classes: NDArray[Any], price: float
) -> csr_array:
    """Return the levels whose error and bits together cost least, int16.

    Args:
        coefficients: Dense, shape (n, K).
        model: What its levels cost and stand for.
        classes: Class of each row, shape (n,).
        price: Lambda, in squared error, of a bit.
    """
    amounts = np.arange(MOST + 1, dtype=np.float32)
    amounts[1 : 1 + len(model.amount)] = model.amount
    sizes = np.abs(coefficients) / model.step
    near = np.minimum(np.rint(sizes), MOST).astype(np.int16)
    worth = np.square(model.step) / np.float32(price)
    prices = _Prices(model)
    no = prices.no[classes]
    least, best = worth * np.square(sizes) + no, np.zeros_like(near)
    rows, atoms = np.nonzero(near)  # most are 0 whatever they cost
    given = classes[rows], atoms, coefficients[rows, atoms] < 0
    size, here, chosen = sizes[rows, atoms], least[rows, atoms], best[rows, atoms]
    for lower in (0, 1):
        level = np.maximum(near[rows, atoms] - lower, 1)
        cost = worth[atoms] * np.square(size - amounts[level]) + prices.of(level, *given)
        chosen = np.where(cost < here, level, chosen)
        here = np.minimum(cost, here)
    best[rows, atoms] = chosen
    return _signed(best, coefficients)


class _Prices:
    """Bits of each level in each class, for each atom."""

    def __init__(self, model: CodeModel) -> None:
        def bits(probability: NDArray[Any]) -> Floats:
            return np.asarray(-np.log2(probability / ONE), np.float32)

        self.no = bits(ONE - model.used.astype(np.int64))
        yes = bits(model.used)
        self._sign = np.stack([bits(ONE - model.negative.astype(np.int64)), bits(model.negative)])
        go, stop = bits(model.larger), bits(ONE - model.larger.astype(np.int64))
        before = np.concatenate([np.zeros_like(go[:1]), np.cumsum(go, axis=0)[:-1]])
        self._level, self._further = yes + before + stop, go[-1]

    def of(
        self, level: NDArray[Any], c: NDArray[Any], atom: NDArray[Any], minus: NDArray[Any]
    ) -> Floats:
        """Return the bits of levels of at least 1, all arguments of shape (n,)."""
        last = len(self._level)
        beyond = np.maximum(level - last, 0)
        own = self._level[np.minimum(level, last) - 1, c, atom]
        return np.asarray(
            own + self._sign[minus.astype(np.intp), c, atom] + beyond * self._further[c, atom],
            np.float32,
        )


def _signed(levels: NDArray[Any], coefficients: Floats) -> csr_array:
    from scipy.sparse import csr_array as csr

    found: csr_array = csr(np.where(coefficients < 0, -levels, levels).astype(np.int16))
    return found
