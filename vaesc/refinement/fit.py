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

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from vaesc.config import RefineConfig, derive_seed
from vaesc.errors import TrainingError
from vaesc.models import VAE
from vaesc.models.vae import kl_divergence
from vaesc.refinement.network import BETA, OBSERVATION_STD, both_paths, corrections
from vaesc.refinement.standing import (
    MOST_ROLLBACKS,
    Standing,
    load,
    restore,
    save,
    snapshot,
    take,
    weights_of,
)
from vaesc.training.checkpoints import Checkpoints
from vaesc.training.health import DivergedError
from vaesc.training.resident import to_unit

logger = logging.getLogger(__name__)

_OVERSHOOT = 0.1
_KL = 2 * BETA * OBSERVATION_STD**2
_PLAIN_SHARE = 8
"""One image in so many of a batch is also reconstructed from a latent sample."""
_LINEAR_STEP, _BIAS_STEP = 0.03, 0.3
"""Step sizes of the linear path over that of the branches: it starts at a good place, where Adam's
steps of one size would throw it out."""
_WARM_UP = 100
"""Gradient steps until the learning rate is whole."""


class Epochs(Protocol):
    """Where images come from: :class:`vaesc.training.resident.ResidentBatches`, or streamed."""

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """Yield the batches of an epoch, images as stored; only the last may be short."""


class Coding(Protocol):
    """How images get their coded latents while they are learned from."""

    rate: ClassVar[float]

    def parameters(self) -> list[tuple[list[Tensor], float]]:
        """Return what it learns, with step sizes relative to the branches'."""

    def coded(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the coded latents of images `x` with latents `z`, shape (n, d)."""

    def begin(self) -> None:
        """Hear that an epoch begins: all that it depends on from now is in :meth:`state`."""

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
        batches: Epochs,
        n: int,
        validate: Callable[[], float],
        on_epoch: Callable[[int, dict[str, float]], None],
        checkpoints: Checkpoints | None = None,
    ) -> dict[str, Any]:
        """Train, keep the best epoch's weights, and return what came of it.

        Args:
            batches: Of the training images, `config.batch_size` each; a short one is left out.
            n: Training images.
            validate: Returns the validation error of decoder(D a), mean squared error a pixel.
            on_epoch: Hears each epoch's number (0: the start) and errors, also of epochs that a
                checkpoint remembers.
            checkpoints: Where it is kept after each epoch: a killed run's successor goes on from
                there, to the same bytes.

        Raises:
            TrainingError: The loss is no number, however often training went back.
        """
        steps = max(1, n // self.config.batch_size)
        optimiser = self._optimiser()
        now = load(checkpoints, self, optimiser)
        if now is None:
            now = Standing(validate(), weights_of(self))
        for epoch, errors in enumerate(now.errors):
            on_epoch(epoch, errors)
        while now.epoch < self.config.epochs:
            before = snapshot(self, optimiser)
            try:
                errors = self._epoch(now, optimiser, batches, n, steps, validate)
            except DivergedError as error:
                self._roll_back(now, error)
                restore(self, optimiser, before)
                continue
            now.note(errors, lambda: weights_of(self))
            on_epoch(now.epoch, errors)
            save(checkpoints, self, optimiser, now)
        take(self, now.kept)
        return now.outcome()

    def _epoch(
        self,
        now: Standing,
        optimiser: torch.optim.Optimizer,
        batches: Epochs,
        n: int,
        steps: int,
        validate: Callable[[], float],
    ) -> dict[str, float]:
        """Pass once over the training images; returns the errors of both splits."""
        epoch, losses = now.epoch + 1, []
        self.coding.begin()
        size = min(self.config.batch_size, n)
        for i, images in enumerate(batches.epoch(epoch)):
            if len(images) < size:
                continue
            x = to_unit(images).flatten(1)
            share = _share((epoch - 1) * steps + i, steps * self.config.epochs)
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * share * now.rate_share
            losses.append(self._step(x, optimiser, (epoch, i)))
            self.coding.after_step(i, x, optimiser)
        if not all(bool(torch.isfinite(w).all()) for w in self.vae.parameters()):
            raise DivergedError(f"the weights are not finite after epoch {epoch}")
        errors = {"train": float(np.mean(losses)), "validation": validate()}
        if not all(map(np.isfinite, errors.values())):
            raise DivergedError(f"errors are not finite after epoch {epoch}")
        return errors

    def _roll_back(self, now: Standing, error: DivergedError) -> None:
        """Lower the learning rate.

        Raises:
            TrainingError: That was done often enough.
        """
        where = f"refinement at k = {self.k} lost its way, {error}"
        rate = self.config.learning_rate * now.rate_share
        if now.rollbacks >= MOST_ROLLBACKS:
            raise TrainingError(
                f"{where}, at refine.learning_rate={self.config.learning_rate:g} (lowered to "
                f"{rate:g}); lower it further, and check that the images are finite"
            ) from error
        now.go_back(f"{where} at the learning rate {rate:g}; went back, and lowered it")
        logger.warning("%s", now.troubles[-1])

    def _step(self, x: Tensor, optimiser: torch.optim.Optimizer, at: tuple[int, int]) -> float:
        """Take one gradient step; returns the batch's error a pixel."""
        n, vae = len(x), self.vae
        with fast(x.device):
            z, log_var = vae.encode(x.reshape(n, *vae.shape))
        _require_finite(z, "latents", at)
        coded = self.coding.coded(x, z)
        few = max(1, n // _PLAIN_SHARE)
        noise = torch.randn((few, z.shape[1]), generator=self._stream("noise", *at)).to(x.device)
        plain = z[:few] + noise * (log_var[:few] / 2).exp()
        with fast(x.device):
            y = vae.decode_logits(torch.cat([coded, plain])).flatten(1)
        error = _error(y[:n], x)
        _require_finite(error, "errors", at)
        rest = _error(y[n:], x[:few]).mean() + _KL * kl_divergence(z[:few], log_var[:few]).mean()
        loss = error.mean() + self.config.plain_weight * rest
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(error.detach().mean()) / x.shape[1]

    def _optimiser(self) -> torch.optim.Optimizer:
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
        return torch.optim.Adam(
            [{"params": parts, "initial_lr": rate * step} for parts, step in groups],
            betas=(0.9, 0.99),
        )

    def _stream(self, *names: Any) -> torch.Generator:  # noqa: ANN401
        name = "/".join(map(str, ("refine", self.k, *names)))
        return torch.Generator().manual_seed(derive_seed(self.seed, name))


def _share(step: int, n_steps: int) -> float:
    """Return the share of the learning rate at a gradient step: a warm-up, then a cosine."""
    fall = (1 + np.cos(np.pi * min(step / n_steps, 1.0))) / 2
    return float(fall * min(1.0, (step + 1) / _WARM_UP))


def _require_finite(values: Tensor, what: str, at: tuple[int, int]) -> None:
    if not bool(torch.isfinite(values).all()):
        raise DivergedError(f"{what} are not finite at gradient step {at[1] + 1} of epoch {at[0]}")


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
