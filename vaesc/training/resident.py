"""A whole split on the device, in the type it is stored in, converted batch by batch.

Bytes stay bytes until a batch needs them: a quarter of the memory of floats, and gathering rows
of a resident tensor beats any loader for images of this size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaesc.errors import DataError
from vaesc.models.elbo import GROUP
from vaesc.training.order import Order

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset


class ResidentBatches:
    """Batches of images that all lie on the device.

    Args:
        images: As stored, shape (n, *shape).
        order: Which image comes when.
    """

    def __init__(self, images: Tensor, order: Order) -> None:
        self.images, self.order = images, order

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch as stored, from one of them on.

        A window's permutation goes to the device as a whole; batches are gathered there.
        """
        for number, pages in enumerate(self.order.windows(epoch)):
            window = self.order.window(epoch, pages, number)
            skipped = min(first_batch, len(window.batches))
            first_batch -= skipped
            if skipped == len(window.batches):
                continue
            chosen = torch.cat(window.batches)
            if len(window.batches) < self.order.n_batches:
                chosen = window.rows()[chosen]
            sizes = [len(positions) for positions in window.batches]
            for rows in torch.split(chosen.to(self.images.device), sizes)[skipped:]:
                yield self.images[rows]


def load_split(
    dataset: ImageDataset,
    split: str,
    device: torch.device,
    *,
    block_size: int,
    rows: slice | None = None,
) -> Tensor:
    """Return the images of a split as stored (uint8 or float32), shape (n, *shape), on `device`.

    Args:
        dataset: Where from.
        split: ``train``, ``validation`` or ``test``.
        device: Where to.
        block_size: Images copied at once.
        rows: Start and stop of those to return; default: all.
    """
    first, last = (rows.start, rows.stop) if rows else (0, dataset.n(split))
    sample = torch.from_numpy(dataset.images(split, slice(0, 1)))
    images = torch.empty((last - first, *sample.shape[1:]), dtype=sample.dtype, device=device)
    for start in range(first, last, block_size):
        stop = min(start + block_size, last)
        block = torch.from_numpy(dataset.images(split, slice(start, stop)))
        images[start - first : stop - first] = block.to(device)
    return images


def require_images(dataset: ImageDataset, split: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: It is empty.
    """
    if dataset.n(split) == 0:
        raise DataError(f"training needs at least one {split} image, got none; give more images")


def to_unit(images: Tensor) -> Tensor:
    """Return stored images as float32 in [0, 1]: bytes over 255, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def in_groups(images: Tensor) -> Iterator[Tensor]:
    """Yield all images in [0, 1], in the groups of :mod:`vaesc.models.elbo`."""
    return (to_unit(images[i : i + GROUP]) for i in range(0, len(images), GROUP))
