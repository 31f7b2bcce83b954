"""Which images meet in which batch: decided by the seed and the epoch, never by memory.

A data set of at most `window_bytes` is permuted as a whole. A larger one is cut into *pages* of
consecutive images; each epoch permutes the pages, deals them into *windows* of at most
`window_bytes`, and permutes the images of each window. So a window is all that must be in memory
at once, reading stays sequential, and a machine that could hold everything takes the same order
as one that streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vaesc.training.determinism import stream
from vaesc.windows import deal

_PAGE = 4096
"""Most images to a page, about; always whole batches, so that only the last may be short."""


class Window(NamedTuple):
    """Images that are permuted together."""

    pages: list[slice]
    """Where they lie in the split, in the order in which they are put together."""
    batches: tuple[Tensor, ...]
    """Positions among them, a tensor for each batch."""

    def rows(self) -> Tensor:
        """Return where each image lies in the split, in the window's order."""
        return torch.cat([torch.arange(page.start, page.stop) for page in self.pages])


class Order:
    """The order of a split's images in every epoch.

    Args:
        n: Number of images.
        batch_size: Images per batch; the last batch of an epoch holds what is left.
        image_bytes: Size of one image as stored.
        seed: The run's seed.
        window_bytes: Images permuted together, as stored; a batch at least.
        name: Of the random streams.
        part: Of a batch of so many images, those that this process takes; default: all.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        image_bytes: int,
        *,
        seed: int,
        window_bytes: int,
        name: str = "train/order",
        part: Callable[[int], slice] = slice,
    ) -> None:
        self.n, self.batch_size, self.seed, self.part = n, batch_size, seed, part
        self.name = name
        self.n_batches = math.ceil(n / batch_size)
        self._page = batch_size * max(1, min(_PAGE, window_bytes // image_bytes) // batch_size)
        self._pages_per_window = max(1, window_bytes // (self._page * image_bytes))

    def windows(self, epoch: int) -> list[list[slice]]:
        """Return the pages of each window of an epoch."""

        def permuted(n: int) -> Tensor:
            generator = stream(self.seed, f"{self.name}/{epoch}/pages")
            return torch.randperm(n, generator=generator)

        return deal(self.n, self._page, self._pages_per_window, permuted)

    def window(self, epoch: int, pages: list[slice], number: int) -> Window:
        """Return one window of an epoch with its images permuted."""
        n = sum(page.stop - page.start for page in pages)
        whole = n == self.n
        name = f"{self.name}/{epoch}" if whole else f"{self.name}/{epoch}/{number}"
        order = torch.randperm(n, generator=stream(self.seed, name))
        batches = torch.split(order, self.batch_size)
        return Window(pages, tuple(batch[self.part(len(batch))] for batch in batches))
