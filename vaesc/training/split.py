"""A gradient step whose batch is cut into parts: among ranks, and into micro-batches one by one.

The gradient of a mean over a batch is a sum over its images, so it can be added up part by part;
all parts see the weights from before the step, and one step of Adam follows for the whole batch.
So the result is that of the undivided step but for the order of the sums: the last bits of
float32, and of bf16 the rounding of each part's gradient (to 8 bits: 2^-9 of it). Free bits and a
capacity ask for the whole batch's KL, an optimal variance for its squared error; where one of them
is set that is added up first, which takes one more forward pass of the encoder, or of both.

Sums and gradient of a batch travel in one flat tensor. Between the ranks' products and Adam there
are the other ranks to be waited for, so only the gradient of a part is compiled; Adam is one fused
kernel, as in an eager step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vaesc.training.engine import Engine, compile_options, compiled_form, hold_still
from vaesc.training.objective import Objective
from vaesc.training.ranks import Ranks
from vaesc.training.state import State


class SplitEngine(Engine):
    """Takes the same steps as :class:`Engine`, batch by batch, in parts.

    Args:
        objective: The loss, over the model whose weights are the state's.
        state: What is changed.
        compiled: Compile the gradient of the parts of whole batches.
        batch_size: Images per batch, of all ranks together.
        ranks: Among whom each batch is divided.
        accumulate: Micro-batches into which a rank divides its part.
    """

    def __init__(
        self, objective: Objective, state: State, *, compiled: bool, batch_size: int,
        ranks: Ranks, accumulate: int,
    ) -> None:  # fmt: skip
        super().__init__(objective, state, compiled=False, batch_size=batch_size)
        self.ranks, self.accumulate = ranks, accumulate
        weights = state.flat["weights"]
        self._flat = weights.new_zeros(len(weights) + 2)
        self._gradients, self._sums = state.views(self._flat), self._flat[-2:]
        if compiled:
            function = pure_gradient(objective, state.names)
            self._graph = compiled_form(function, compile_options(weights.device.type))
            if weights.device.type == "cuda":
                hold_still(state)

    def step(
        self, images: Tensor, noise: Tensor, rate: float, knobs: tuple[float, float]
    ) -> Tensor:
        """Take one step and return the whole batch's sums of distortion and kl, shape (2,).

        Args:
            images: This rank's part of the batch, as stored.
            noise: Of the whole batch, shape (k, n, d).
            rate: Learning rate.
            knobs: See :func:`vaesc.training.objective.knobs_at`.
        """
        n, numbers = noise.shape[1], self._next(rate, knobs)
        noise = noise[:, self.ranks.part(n)]
        scalars = torch.tensor([*knobs, 1 / n]).to(images.device)
        whole = self._whole_batch(images, noise, n)
        common = self.objective.slopes(whole[:-1], scalars[:2]), whole[-1], scalars[2]
        self._flat.zero_()
        for rows in self._micro_batches(len(images)):
            part = images[rows], noise[:, rows], *common
            gradients, sums = self._gradient(*part, of_whole=n == self.batch_size)
            torch._foreach_add_(self._gradients, gradients)
            self._sums.add_(sums)
        self.ranks.add_up(self._flat)
        self._update(self._gradients, rate, numbers)
        return self._sums

    def _micro_batches(self, n: int) -> Iterator[slice]:
        size = -(-n // self.accumulate)
        return (slice(i, min(i + size, n)) for i in range(0, n, size or 1))

    @torch.no_grad()
    def _whole_batch(self, images: Tensor, noise: Tensor, n: int) -> Tensor:
        """Return the means over the batch of each dimension's KL and of the squared error."""
        total = torch.zeros(self.objective.vae.latent_dim + 1, device=images.device)
        if self.objective.needs_whole_batch:
            for rows in self._micro_batches(len(images)):
                total += self.objective.whole_batch(images[rows], noise[:, rows])
            self.ranks.add_up(total)
        return total / n

    def _gradient(self, *part: Tensor, of_whole: bool) -> tuple[list[Tensor], Tensor]:
        """Return what a micro-batch adds to the gradient and to the two sums."""
        if self._graph is not None and of_whole:
            made: tuple[list[Tensor], Tensor] | None = self._by_graph(self.state.weights, *part)
            if made is not None:
                return made
        loss, sums = self.objective.part(*part)
        return list(torch.autograd.grad(loss, self._parameters)), sums


def pure_gradient(
    objective: Objective, names: list[str]
) -> Callable[..., tuple[list[Tensor], Tensor]]:
    """Return :meth:`Objective.part`'s gradient and sums as a pure function, to be compiled.

    It takes the weights, a list of tensors, and the arguments of :meth:`Objective.part`.
    """
    own = _Part(objective)

    def gradient(weights: list[Tensor], *part: Tensor) -> tuple[list[Tensor], Tensor]:
        def loss(weights: list[Tensor]) -> Any:  # noqa: ANN401
            named = {f"objective.vae.{name}": w for name, w in zip(names, weights, strict=True)}
            return torch.func.functional_call(own, named, part)

        made: tuple[list[Tensor], Tensor] = torch.func.grad(loss, has_aux=True)(weights)
        return made

    return gradient


class _Part(torch.nn.Module):
    """:meth:`Objective.part` as a module: a functional call calls no other method."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *part: Tensor) -> tuple[Tensor, Tensor]:
        return self.objective.part(*part)
