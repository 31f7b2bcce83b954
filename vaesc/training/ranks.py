"""The processes that share a training: what each takes, and how they agree.

Every rank holds the whole model. It takes its part of every batch, gradients are added up over
all ranks, and every rank makes the same step of Adam: so all hold the same weights.

A gradient travels as one flat tensor in one ``all_reduce``, without ``DistributedDataParallel``:
that sends buckets of 25 MB while the backward pass still runs, and the article's network (1.1
million weights, 4.4 MB) would be one bucket, sent at its end. It also wants a module whose
``forward`` is called, while the step here is a pure function that may be compiled as a whole.

What the processes tell each other is numbers and JSON, never pickled objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

_PATIENCE = timedelta(minutes=15)
"""A rank that keeps the others waiting for longer, as by compiling, is taken for lost."""


class Ranks:
    """This process and those that share its training; this class: one process alone."""

    rank, n, on_device = 0, 1, 1
    """This process's number, that of all, and that of those who share a device's memory."""

    def part(self, n: int) -> slice:
        """Return which of `n` things in a row this rank takes: none where there are too few.

        Parts differ by at most one, and the first rank's is never the smaller one.
        """
        return slice(-(-n * self.rank // self.n), -(-n * (self.rank + 1) // self.n))

    def add_up(self, numbers: Tensor) -> None:
        """Replace a tensor by its sum over all ranks: the same bits in every one of them."""

    def rows(self, rows: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Return the rows of all ranks, shape (total, *shape), those of the first rank first."""
        return torch.stack(list(rows))

    def tell(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Tell the others something that JSON can say; return what each rank said."""
        return [value]

    def first(self, value: Any) -> Any:  # noqa: ANN401
        """Return what the first rank says, where numbers of unlike machines may differ."""
        return self.tell(value if self.rank == 0 else None)[0]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first rank."""


ALONE = Ranks()


class Group(Ranks):
    """One of several processes that torch's distributed package has brought together.

    Args:
        device: Where this rank computes; nccl knows no other tensors than those of GPUs.
        on_device: Ranks that share the device's memory.
    """

    def __init__(self, device: torch.device, on_device: int) -> None:
        self.rank, self.n = dist.get_rank(), dist.get_world_size()
        self.device, self.on_device = device, on_device

    def add_up(self, numbers: Tensor) -> None:
        """See :class:`Ranks`."""
        dist.all_reduce(numbers)

    def rows(self, rows: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """See :class:`Ranks`. Each row is added to zeros only, so its bits stay."""
        counts = self.tell(len(rows))
        table = torch.zeros((sum(counts), *shape), device=self.device)
        if rows:
            start = sum(counts[: self.rank])
            table[start : start + len(rows)] = torch.stack(list(rows))
        self.add_up(table)
        return table

    def tell(self, value: Any) -> list[Any]:  # noqa: ANN401
        """See :class:`Ranks`."""
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.n, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(said)
        self.add_up(sizes)
        # Added to zeros, too: of the collectives, adding is the one that all backends have.
        texts = torch.zeros(self.n, int(sizes.max()), dtype=torch.uint8, device=self.device)
        texts[self.rank, : len(said)] = said.to(self.device)
        self.add_up(texts)
        lengths = sizes.tolist()
        return [json.loads(bytes(t[:n].tolist())) for t, n in zip(texts, lengths, strict=True)]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """See :class:`Ranks`."""
        for tensor in tensors:
            if not tensor.numel():
                continue
            here = tensor.to(self.device)
            dist.broadcast(here, src=0)
            if here is not tensor:
                tensor.copy_(here)


@contextmanager
def joined(device: torch.device, on_device: int, **where: Any) -> Iterator[Ranks]:  # noqa: ANN401
    """Meet the other ranks of a training, and part from them after the block.

    Args:
        device: Where this rank computes: nccl connects GPUs, gloo processors.
        on_device: Ranks that share the device's memory.
        where: Of the meeting: arguments of :func:`torch.distributed.init_process_group`; default:
            what ``torchrun`` has put into the environment.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        where["device_id"] = device
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE, **where)
    yield Group(device, on_device) if dist.get_world_size() > 1 else ALONE
    # Not after an error: nccl would wait for a rank that is lost, and this process ends anyway.
    dist.destroy_process_group()
