"""Samples larger than memory: read by windows, shuffled by pages, or a fair part of them.

A run's one bound is the setting ``window_mib``: so many images, as they are stored, are a
*window*, which is shuffled as a whole. Of the samples that dictionaries are learned from half as
many bytes are one, since their order, codes and products with the atoms lie beside them.

Whatever holds samples may hand them over *lazily*, as anything with a shape, a dtype and slices of
rows; then it may say, as ``window_bytes``, what the bound is. A window is all that is held at
once. Sums over a split are added up window by window, so that what fits one window is summed as if
it were an array.

A pass in random order cuts the samples into *pages* of consecutive rows; it permutes the pages,
deals them into windows, and permutes the rows of each window. Samples of one window are permuted
as a whole, as an array would be. This is the order in which training passes over images
(:mod:`vaesc.training.order`), drawn from numpy's generators instead of torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaesc.config import PipelineConfig

WINDOW_BYTES = PipelineConfig().window_bytes
"""Images that are shuffled together, as stored, if nothing else is asked for: 342,392 of 28x28
bytes. Of samples, half of it: 1,048,576 float32 latents of 32 dimensions."""
IMAGE_WINDOWS = 3
"""In memory at most while a network is trained: in use, read ahead, and on its way in."""
VALIDATION_WINDOWS = 1
"""Of validation images beside them; more are read anew whenever they are looked at."""
BLOCK_BYTES = 2**23
"""Samples read at once where they are taken in order: half a shard on disk."""
PAGE = 4096
"""Most samples to a page, about: whole batches, so that only a split's last may be short."""


class Rows(Protocol):
    """Samples of shape (n, D): an array, or what reads one slice at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what slices hold."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return consecutive samples, shape (m, D)."""


def rows_per_window(X: Rows, page: int | None = None) -> int:
    """Return how many samples are held at once: whole pages, one at least."""
    page = page or page_rows(X)
    return max(1, half_window(X) // (page * row_bytes(X))) * page


def page_rows(X: Rows, batch_size: int = 1) -> int:
    """Return how many samples are a page: whole batches, :data:`PAGE` or what half a window holds.

    The one thing that no window is too small for is a batch.
    """
    most = min(PAGE, half_window(X) // row_bytes(X))
    return batch_size * max(1, most // batch_size)


def half_window(X: Rows) -> int:
    """Return how many bytes of the samples are held at once."""
    return int(getattr(X, "window_bytes", WINDOW_BYTES)) // 2


def row_bytes(X: Rows) -> int:
    """Return the size of one sample."""
    return int(np.prod(X.shape[1:], dtype=np.int64)) * np.dtype(X.dtype).itemsize


def fits(X: Rows) -> bool:
    """Tell whether the samples are one window: then they may be an array."""
    return bool(X.shape[0] <= rows_per_window(X))


def blocks(X: Rows) -> Iterator[NDArray[Any]]:
    """Yield the samples in order: an array or one window as a whole, more in small blocks.

    Blocks of :data:`BLOCK_BYTES` are whole pages: who holds one while the next is read holds no
    second window.
    """
    found = loaded(X)
    if isinstance(found, np.ndarray):
        yield found
        return
    for rows in _runs(X):
        yield X[rows]


def loaded(X: Rows) -> Rows:
    """Return the samples as an array if they are one window, else as they are."""
    if isinstance(X, np.ndarray) or not fits(X):
        return X
    return read(X, _runs(X))


def _runs(X: Rows) -> list[slice]:
    page, most = page_rows(X), min(BLOCK_BYTES, half_window(X))
    n, step = X.shape[0], max(1, most // (page * row_bytes(X))) * page
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def sample(X: Rows, seed: int) -> NDArray[Any]:
    """Return the samples if they are one window, else one window of pages drawn at random.

    Args:
        X: Samples.
        seed: Of the draw.

    Returns:
        Shape (m, D), in the order of `X`.
    """
    found = loaded(X)
    if isinstance(found, np.ndarray):
        return found
    first = dealt(X, np.random.default_rng(seed))[0]
    return read(X, sorted(first, key=lambda page: page.start))


def dealt(X: Rows, rng: np.random.Generator, page: int | None = None) -> list[list[slice]]:
    """Return the pages of each window of a pass in random order.

    Args:
        X: Samples.
        rng: Where the order is drawn from; nothing is drawn for a single window.
        page: Rows of a page; default: :func:`page_rows`.
    """
    page = page or page_rows(X)
    return deal(X.shape[0], page, rows_per_window(X, page) // page, rng.permutation)


def deal(
    n: int, page: int, size: int, permuted: Callable[[int], Iterable[Any]]
) -> list[list[slice]]:
    """Cut n samples into pages, and deal these into windows.

    Args:
        n: Number of samples.
        page: Rows of a page.
        size: Pages of a window.
        permuted: Returns a random permutation of so many; not called for a single window.
    """
    pages = [slice(i, min(i + page, n)) for i in range(0, n, page)]
    if len(pages) <= size:
        return [pages]
    # The short page comes last, so that every batch but the pass's last is whole.
    whole = n // page
    pages = [pages[i] for i in permuted(whole)] + pages[whole:]
    return [pages[i : i + size] for i in range(0, len(pages), size)]


def read(X: Rows, pages: list[slice]) -> NDArray[Any]:
    """Return the samples of some pages, one page after the other."""
    window = np.empty((sum(p.stop - p.start for p in pages), *X.shape[1:]), X.dtype)
    at = 0
    for page in pages:
        stop = at + page.stop - page.start
        window[at:stop] = X[page]
        at = stop
    return window


def numbers(pages: list[slice]) -> NDArray[np.int64]:
    """Return the row number of each sample of :func:`read`."""
    return np.concatenate([np.arange(page.start, page.stop) for page in pages])
