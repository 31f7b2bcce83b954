"""All numbers that training changes, in four flat tensors.

The model's weights are views of one flat float32 tensor, and so are Adam's two moments and the
moving average: a snapshot, a checkpoint or a rollback is a copy of four tensors, and nothing can
be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vaesc.models import VAE

_ALIGN = 16
"""Floats: each weight begins at 64 bytes, where vector loads are whole."""


class State:
    """Weights, Adam's moments, the weights' moving average, and the number of steps taken.

    Args:
        vae: The model on its device; its parameters become views of :attr:`flat`.
        averaged: Whether to keep a moving average of the weights.
    """

    def __init__(self, vae: VAE, *, averaged: bool) -> None:
        self.names = [name for name, _ in vae.named_parameters()]
        self._shapes = [weight.shape for weight in vae.parameters()]
        self._starts = [0]
        for shape in self._shapes:
            self._starts.append(self._starts[-1] + -(-shape.numel() // _ALIGN) * _ALIGN)
        blank = torch.zeros(self._starts[-1], device=vae.device)
        self.flat = {name: blank.clone() for name in ("weights", "first", "second")}
        self.weights, self.first, self.second = (self.views(self.flat[name]) for name in self.flat)
        with torch.no_grad():
            for weight, view in zip(vae.parameters(), self.weights, strict=True):
                view.copy_(weight)
                weight.data = view
        if averaged:
            self.flat["average"] = self.flat["weights"].clone()
        self.average = self.views(self.flat["average"]) if averaged else []
        self.steps = 0

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the parts of a flat tensor in the parameters' order and shapes."""
        return [
            flat[start : start + shape.numel()].view(shape)
            for start, shape in zip(self._starts, self._shapes, strict=False)
        ]

    def copy(self) -> dict[str, Tensor]:
        """Return a copy of everything but the number of steps."""
        return {name: value.clone() for name, value in self.flat.items()}

    def restore(self, values: Mapping[str, Tensor], steps: int) -> None:
        """Return to what :meth:`copy` gave after `steps` steps."""
        for name, value in self.flat.items():
            value.copy_(values[name])
        self.steps = steps

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Put the weights that are to be kept into the model: the average's, if there is one."""
        if not self.average:
            yield
            return
        trained = self.flat["weights"].clone()
        self.flat["weights"].copy_(self.flat["average"])
        try:
            yield
        finally:
            self.flat["weights"].copy_(trained)
