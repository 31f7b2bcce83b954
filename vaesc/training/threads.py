"""How many cores one gradient step is worth.

A step of a small network is dozens of operations of a few microseconds each; sharing them makes
the cores wait for one another at the end of every one. Alone on the machine that gains nothing;
beside any other work a step takes many times as long (measured with the digits preset's network
on two busy cores: 3 s on one thread, 20 to 90 s on two).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vaesc.models import VAE
from vaesc.training.work import flops_per_image

_WORTH_SHARING = 3e9
"""Floating-point operations of a step, about 50 ms on one core, below which it runs on one.

Beside one other busy core the article's network at batch 128 (7e8 operations) takes twice as long
on two threads as on one: 45 s and 23 s for four epochs in bf16.
"""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread; the caller's number of threads returns afterwards.

    The last bits of a product may depend on how many threads share it, and what is kept must be
    the same bytes alone on a machine and beside others.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fitting_threads(vae: VAE, batch_size: int) -> Iterator[None]:
    """Run small steps on one thread; the caller's number of threads returns afterwards.

    The rule knows only the config, never the machine's load: the same config always runs alike.

    Args:
        vae: The model.
        batch_size: Images per gradient step.
    """
    before = torch.get_num_threads()
    if flops_per_image(vae) * batch_size < _WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
