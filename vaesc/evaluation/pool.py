r"""Errors of single test images, for intervals: each by itself, or in random groups.

An interval comes from resampling the test images. Up to :data:`EXACT` of them every error is kept
and drawn by itself. Beyond, images are dealt once into :data:`GROUPS` groups, at random and of
equal size up to one image, and groups are drawn instead. With :math:`S_g` the sum of the errors
of a group of :math:`N_g` images, and m the mean of all n, the images are represented by the values

.. math:: v_g = m + (S_g - N_g m) \, G / n \qquad (g = 1, \ldots, G) :

- their mean is the mean of all images, exactly;
- the variance of their mean over resamples of groups is, on average over the draw of the groups,
  that of the mean of images over resamples of images: dealt at random, images of one group have
  nothing in common, so that sums of N images vary as N times one image does. It is estimated from
  G groups, and the sample variance of G nearly Gaussian sums has a relative error of about
  :math:`\sqrt{2 / G}`: an interval's width has half of that, :math:`1 / \sqrt{2 G}`, or 0.55
  percent. Ends of 2,000 resamples are no more exact.

So memory stops growing with the test split, but for two bytes an image: its group. Whoever
judges sees rows of errors either way. The groups depend on n alone: every method, level and seed
shares them, and may be compared in pairs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 2**17
"""Most images whose errors are kept one by one."""
GROUPS = 2**14
"""Groups that more images are dealt into."""


class Pool:
    """Errors of n images in some columns, filled batch by batch.

    Args:
        n: Number of images.
        columns: Number of columns.
    """

    def __init__(self, n: int, columns: int) -> None:
        self.n, self.groups = n, groups_of(n)
        if self.groups is None:
            self._values: NDArray[Any] = np.full((n, columns), np.nan, np.float32)
        else:
            self._values = np.zeros((GROUPS, columns))
        self._filled = np.zeros(columns, bool)

    def add(self, rows: slice, column: int, errors: NDArray[Any]) -> None:
        """Take the errors of consecutive images, shape (m,)."""
        self._filled[column] = True
        if self.groups is None:
            self._values[rows, column] = errors
        else:
            np.add.at(self._values[:, column], self.groups[rows], errors)

    def rows(self) -> NDArray[Any]:
        """Return errors to resample, shape (n or GROUPS, columns); NaN in columns not filled."""
        if self.groups is None:
            return self._values
        sizes = np.bincount(self.groups, minlength=GROUPS)[:, None]
        mean = self._values.sum(axis=0) / self.n
        values = np.asarray(mean + (self._values - sizes * mean) * (GROUPS / self.n))
        values[:, ~self._filled] = np.nan
        return values


def is_pooled(n: int) -> bool:
    """Tell whether the errors of n images are pooled."""
    return n > EXACT


@lru_cache(maxsize=1)
def groups_of(n: int) -> NDArray[np.uint16] | None:
    """Return the group of each of n images, shape (n,); None where each is kept by itself."""
    if not is_pooled(n):
        return None
    groups = np.resize(np.arange(GROUPS, dtype=np.uint16), n)
    np.random.default_rng(n).shuffle(groups)
    return groups


def safe_tensors(path: Path) -> Any:  # noqa: ANN401 - safetensors has no types
    """Open a safetensors file of errors for reading; a context manager."""
    from safetensors import safe_open

    return safe_open(path, "np")


def pooled_rows(file: Any, name: str) -> NDArray[Any]:  # noqa: ANN401
    """Return an array of errors, (n,) or (n, b), as :meth:`Pool.rows` gives it, a part at a time.

    Args:
        file: Of :func:`safe_tensors`.
        name: Of the array.
    """
    part = file.get_slice(name)
    n, *columns = part.get_shape()
    if not is_pooled(n):
        return np.asarray(file.get_tensor(name))
    pool = Pool(n, columns[0] if columns else 1)
    for start in range(0, n, EXACT):
        rows = slice(start, min(start + EXACT, n))
        for column, values in enumerate(part[rows].reshape(rows.stop - start, -1).T):
            pool.add(rows, column, values)
    return pool.rows().reshape(-1, *columns)
