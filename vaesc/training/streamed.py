"""Batches from a data set larger than memory: window by window, the next one read meanwhile.

At most :data:`vaesc.windows.IMAGE_WINDOWS` windows are in memory (:mod:`vaesc.training.order`):
the one in use, the one that is read ahead, and its pages on their way in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaesc import cgroup
from vaesc.training.order import Order, Window
from vaesc.training.ranks import ALONE, Ranks
from vaesc.training.resident import ResidentBatches, load_split
from vaesc.windows import IMAGE_WINDOWS

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset


class StreamedBatches:
    """Batches of images that lie on disk; the same batches as :class:`ResidentBatches` gives.

    Args:
        dataset: Whose training split is read.
        order: Which image comes when.
        device: Where batches go.
    """

    def __init__(self, dataset: ImageDataset, order: Order, device: torch.device) -> None:
        self.dataset, self.order, self.device = dataset, order, device

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch as stored, from one of them on."""
        windows = list(enumerate(self.order.windows(epoch)))
        while windows and first_batch >= (n := self._n_batches(windows[0][1])):
            first_batch -= n
            del windows[0]
        if not windows:
            return
        with ThreadPoolExecutor(1, "vaesc-read") as reader:
            ahead = reader.submit(self._read, epoch, *windows[0])
            for following in [*windows[1:], None]:
                window, images = ahead.result()
                if following:
                    ahead = reader.submit(self._read, epoch, *following)
                for positions in window.batches[first_batch:]:
                    yield _sent(images[positions], self.device)
                first_batch = 0
                del images

    def _n_batches(self, pages: list[slice]) -> int:
        n = int(sum(page.stop - page.start for page in pages))
        return math.ceil(n / self.order.batch_size)

    def _read(self, epoch: int, number: int, pages: list[slice]) -> tuple[Window, Tensor]:
        first = self.dataset.images("train", slice(0, 1))
        n = sum(page.stop - page.start for page in pages)
        images = torch.empty((n, *first.shape[1:]), dtype=torch.from_numpy(first).dtype)
        start = 0
        for page in pages:
            stop = start + page.stop - page.start
            images[start:stop] = torch.from_numpy(self.dataset.images("train", page))
            start = stop
        return self.order.window(epoch, pages, number), images


def _sent(images: Tensor, device: torch.device) -> Tensor:
    """Copy a batch to its device; from pinned memory a GPU fetches it while it computes."""
    if device.type == "cuda":
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def open_batches(
    dataset: ImageDataset,
    device: torch.device,
    *,
    batch_size: int,
    seed: int,
    block_size: int,
    window_bytes: int,
    name: str = "train/order",
    ranks: Ranks = ALONE,
) -> ResidentBatches | StreamedBatches:
    """Return the training batches: resident if they are few, see :func:`may_stay`.

    Ranks that share a device's memory have their share of it each. A rank holds, or reads, every
    image and takes its part of every batch: which images meet does not depend on the ranks.

    Args:
        dataset: Whose training split is read.
        device: Where batches go.
        batch_size: Images per batch.
        seed: The run's seed.
        block_size: Images read at once.
        window_bytes: Images permuted together, as stored, and the bound of what is held.
        name: Of the order's random streams.
        ranks: Who shares the batches.
    """
    image_bytes = dataset.images("train", slice(0, 1)).nbytes
    order = Order(
        dataset.n("train"), batch_size, image_bytes, seed=seed, window_bytes=window_bytes,
        name=name, part=ranks.part,
    )  # fmt: skip
    most = IMAGE_WINDOWS * window_bytes
    if not may_stay(order.n * image_bytes, most, device, 2 * ranks.on_device):
        return StreamedBatches(dataset, order, device)
    return ResidentBatches(load_split(dataset, "train", device, block_size=block_size), order)


def may_stay(n_bytes: int, most: int, device: torch.device, share: int) -> bool:
    """Tell whether so many bytes may stay in memory: no result depends on it.

    They must fit one of `share` parts of what the device has left; and, but for a GPU's own
    memory, be no more than `most`, the part of the setting's bound that they have.
    """
    room = free_bytes(device) // share
    return n_bytes <= (room if device.type == "cuda" else min(room, most))


def free_bytes(device: torch.device) -> int:
    """Return about how much memory a device has left; of a container, what its limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        machine = 2**32  # no such question on this system
    allowed = cgroup.free_bytes()
    return machine if allowed is None else min(machine, allowed)
