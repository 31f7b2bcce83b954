r"""Training through the sparse code, for one sparsity level.

.. math::
    \underbrace{\|x - g(D^\top a)\|^2}_{\text{through the code}}
    + w \big( \|x - g(\mu + \sigma \epsilon)\|^2 + \beta' KL \big)

in squared pixels per image, summed. Outputs beyond [0, 1] are clipped, as they will be, and pay a
tenth of the square of what was cut off, so that they still have a gradient.

How an image gets its code is one of two things (:class:`Coding`):

- for k > 1 the pursuit chooses atoms for the latent; the coded latent is its projection on them,
  differentiated exactly (:mod:`vaesc.refinement.projection`), so encoder, atoms and decoder learn
  together;
- for k = 1 the atom and its amount are those whose decoded picture is nearest
  (:class:`vaesc.decoder_coding.Codebook`), as in the assignment step of k-means, and the decoder
  bends each atom's line into a curve. Encoder and atoms learn from plain reconstruction alone:
  with one atom, a gradient through the choice says nothing of the atoms that might have served
  (measured on MNIST: the error rises by a quarter within two epochs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaesc.config import RefineConfig, derive_seed
from vaesc.errors import TrainingError
from vaesc.models import VAE
from vaesc.models.vae import kl_divergence
from vaesc.refinement.network import BETA, OBSERVATION_STD, both_paths, corrections

GROUP = 1024
"""Images per pass outside training."""
_OVERSHOOT = 0.1
_KL = 2 * BETA * OBSERVATION_STD**2
_PLAIN_SHARE = 8
"""One image in so many of a batch is also reconstructed from a latent sample."""
_LINEAR_STEP, _BIAS_STEP = 0.03, 0.3
"""Step sizes of the linear path over that of the branches: it starts at a good place, where Adam's
steps of one size would throw it out."""
_WARM_UP = 100
"""Gradient steps until the learning rate is whole."""


class Coding(Protocol):
    """How images get their coded latents while they are learned from."""

    rate: ClassVar[float]

    def parameters(self) -> list[tuple[list[Tensor], float]]:
        """Return what it learns, with step sizes relative to the branches'."""

    def coded(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the coded latents of images `x` with latents `z`, shape (n, d)."""

    def after_step(self, i: int, x: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Hear that the gradient step `i` of an epoch, on `x`, was taken."""

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what it has learned."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` returned."""


@dataclass
class Refinement:
    """One level's VAE and the coding of its latents while they are trained."""

    vae: VAE
    coding: Coding
    k: int
    config: RefineConfig
    seed: int

    def run(
        self,
        images: Callable[[NDArray[np.int64]], Tensor],
        n: int,
        validate: Callable[[], float],
        on_epoch: Callable[[int, dict[str, float]], None],
    ) -> dict[str, Any]:
        """Train, keep the best epoch's weights, and return what came of it.

        Args:
            images: Rows of the training split -> flat images in [0, 1].
            n: Training images.
            validate: Returns the validation error of decoder(D a), mean squared error a pixel.
            on_epoch: Hears each epoch's number (0: the start) and errors.

        Raises:
            TrainingError: The loss is not finite.
        """
        steps = max(1, n // self.config.batch_size)
        optimiser, schedule = self._optimiser(steps * self.config.epochs)
        best, best_epoch, kept = validate(), 0, self._state()
        on_epoch(0, {"validation": best})
        start = best
        for epoch in range(1, self.config.epochs + 1):
            losses = []
            for i, rows in enumerate(self._batches(n, epoch)):
                x = images(rows)
                losses.append(self._step(x, optimiser, (epoch, i)))
                schedule.step()
                self.coding.after_step(i, x, optimiser)
            train, error = float(np.mean(losses)), validate()
            if not np.isfinite(train):
                raise TrainingError(
                    f"refinement at k = {self.k} lost its way in epoch {epoch}: the loss is "
                    f"{train}; lower refine.learning_rate={self.config.learning_rate}"
                )
            on_epoch(epoch, {"train": train, "validation": error})
            if error < best:
                best, best_epoch, kept = error, epoch, self._state()
        self._restore(kept)
        return {"best_epoch": best_epoch, "start": start, "error": best}

    def _step(self, x: Tensor, optimiser: torch.optim.Optimizer, at: tuple[int, int]) -> float:
        """Take one gradient step; returns the batch's error a pixel."""
        n, vae = len(x), self.vae
        with fast(x.device):
            z, log_var = vae.encode(x.reshape(n, *vae.shape))
        coded = self.coding.coded(x, z)
        few = max(1, n // _PLAIN_SHARE)
        noise = torch.randn((few, z.shape[1]), generator=self._stream("noise", *at)).to(x.device)
        plain = z[:few] + noise * (log_var[:few] / 2).exp()
        with fast(x.device):
            y = vae.decode_logits(torch.cat([coded, plain])).flatten(1)
        error = _error(y[:n], x)
        rest = _error(y[n:], x[:few]).mean() + _KL * kl_divergence(z[:few], log_var[:few]).mean()
        loss = error.mean() + self.config.plain_weight * rest
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(error.detach().mean()) / x.shape[1]

    def _optimiser(
        self, n_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        into, out = both_paths(self.vae.encoder), both_paths(self.vae.decoder)
        branches = [*into.branch.parameters(), *out.branch.parameters()]
        straight: list[Tensor] = [into.straight.weight, into.straight.bias, out.straight.weight]  # type: ignore[list-item]
        groups: list[tuple[list[Tensor], float]] = [
            ([*branches, *corrections(self.vae.decoder)], 1.0),
            (straight, _LINEAR_STEP),
            ([out.straight.bias], _BIAS_STEP),  # type: ignore[list-item]
            *self.coding.parameters(),
        ]
        rate = self.coding.rate * self.config.learning_rate
        optimiser = torch.optim.Adam(
            [{"params": parts, "lr": rate * step} for parts, step in groups], betas=(0.9, 0.99)
        )

        def share(i: int) -> float:
            fall = (1 + np.cos(np.pi * min(i / n_steps, 1.0))) / 2
            return float(fall * min(1.0, (i + 1) / _WARM_UP))

        return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, share)

    def _batches(self, n: int, epoch: int) -> Iterator[NDArray[np.int64]]:
        order = torch.randperm(n, generator=self._stream("order", epoch)).numpy()
        size = min(self.config.batch_size, n)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]

    def _stream(self, *names: Any) -> torch.Generator:  # noqa: ANN401
        name = "/".join(map(str, ("refine", self.k, *names)))
        return torch.Generator().manual_seed(derive_seed(self.seed, name))

    def _state(self) -> dict[str, dict[str, Tensor]]:
        weights = {name: value.clone() for name, value in self.vae.state_dict().items()}
        return {"vae": weights, "coding": self.coding.state()}

    def _restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.vae.load_state_dict(state["vae"])
        self.coding.restore(state["coding"])


def fast(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where the processor has it: twice as fast, and the same bits."""
    if device.type == "cpu":
        able = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    else:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def _error(y: Tensor, x: Tensor) -> Tensor:
    """Squared error of each clipped image, and a tenth of the square of what was clipped."""
    clipped = y.clamp(0, 1)
    return (clipped - x).square().sum(1) + _OVERSHOOT * (y - clipped).square().sum(1)
