r"""Training through the sparse code, for one sparsity level.

.. math::
    \underbrace{\|x - y(P_S \mu)\|^2}_{\text{through the code}}
    + w \big( \|x - y(\mu + \sigma \epsilon)\|^2 + \beta' KL \big)

in squared pixels per image, summed. Outputs beyond [0, 1] are clipped, as they will be, and pay a
tenth of the square of what was cut off, so that they still have a gradient.

At k = 1 the encoder and the atoms rest. One atom's coefficient says nothing about the other atoms
that might have served, so training both sides of that choice lets them run away from each other
(measured on MNIST: the error rises by a quarter within two epochs); the decoder alone is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaesc.config import RefineConfig, derive_seed
from vaesc.errors import TrainingError
from vaesc.refinement.network import LinearPathVAE
from vaesc.refinement.projection import project, supports

GROUP = 1024
"""Images per pass outside training."""
_OVERSHOOT = 0.1
_KL = 1e-4
"""Weight of the KL term beside the plain error, in squared pixels a nat."""
_PLAIN_SHARE = 8
"""One image in so many of a batch is also reconstructed from a latent sample."""
_LINEAR_STEP, _ATOM_STEP, _VARIANCE_STEP = 0.03, 0.3, 10.0
"""Step sizes of the linear path, the atoms and the log-variances over that of the perceptrons:
the first two start at a good place, where Adam's steps of one size would throw them out."""
_WARM_UP = 100
"""Gradient steps until the learning rate is whole."""
_LOOK_EVERY, _DEAD_BELOW, _FORGET = 50, 0.02, 0.99
"""Every 50 steps atoms used less than 2 % of the mean give way to badly coded latents."""


@dataclass
class Refinement:
    """One level's network and atoms while they are trained."""

    network: LinearPathVAE
    atoms: Tensor
    """In latent coordinates, unit rows, shape (K, d)."""
    k: int
    selection: str
    config: RefineConfig
    seed: int
    use: Tensor = field(init=False)
    """Running number of images a batch that use each atom."""

    def __post_init__(self) -> None:
        self.atoms = torch.nn.Parameter(self.atoms / self.atoms.norm(dim=1, keepdim=True))
        share = self.config.batch_size * self.k / len(self.atoms)
        self.use = torch.full((len(self.atoms),), share)

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
        history = [best]
        for epoch in range(1, self.config.epochs + 1):
            last = epoch == self.config.epochs
            losses = []
            for i, rows in enumerate(self._batches(n, epoch)):
                losses.append(self._step(images(rows), optimiser, (epoch, i)))
                schedule.step()
                if i % _LOOK_EVERY == _LOOK_EVERY - 1 and not last and self.k > 1:
                    self._revive(images(rows), optimiser)
            train, error = float(np.mean(losses)), validate()
            if not np.isfinite(train):
                raise TrainingError(
                    f"refinement at k = {self.k} lost its way in epoch {epoch}: the loss is "
                    f"{train}; lower refine.learning_rate={self.config.learning_rate}"
                )
            history.append(error)
            on_epoch(epoch, {"train": train, "validation": error})
            if error < best:
                best, best_epoch, kept = error, epoch, self._state()
        self._restore(kept)
        return {"best_epoch": best_epoch, "start": history[0], "error": best}

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents and coded latents of flat images, shape (n, d) each; no gradient."""
        with torch.no_grad():
            z = self.network.encode(x)
            return z, project(z, self.atoms, *supports(z, self.atoms, self.k, self.selection))

    def _step(self, x: Tensor, optimiser: torch.optim.Optimizer, at: tuple[int, int]) -> float:
        """Take one gradient step; returns the batch's error a pixel."""
        n, network = len(x), self.network
        with _fast():
            z = network.encode(x)
        z = z.float()
        index, counts = supports(z, self.atoms, self.k, self.selection)
        coded = project(z, self.atoms, index, counts)
        plain = z[: max(1, n // _PLAIN_SHARE)]
        noise = torch.randn(plain.shape, generator=self._stream("noise", *at))
        with _fast():
            y = network.decode(torch.cat([coded, plain + noise * (network.log_var / 2).exp()]))
        y = y.float()
        error = _error(y[:n], x)
        kl = (plain.square() + torch.expm1(network.log_var) - network.log_var).sum(1) / 2
        rest = _error(y[n:], x[: len(plain)]).mean() + _KL * kl.mean()
        loss = error.mean() + self.config.plain_weight * rest
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        self._after_step(index, counts)
        return float(loss.detach()) / x.shape[1]

    @torch.no_grad()
    def _after_step(self, index: Tensor, counts: Tensor) -> None:
        self.atoms /= self.atoms.norm(dim=1, keepdim=True)
        used = torch.bincount(index.flatten(), counts.flatten(), minlength=len(self.atoms))
        self.use = _FORGET * self.use + (1 - _FORGET) * used.float()

    @torch.no_grad()
    def _revive(self, x: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Give atoms that hardly anybody uses the residuals of badly reconstructed images."""
        dead = torch.nonzero(self.use < _DEAD_BELOW * self.use.mean()).flatten()[: len(x) // 8]
        if not len(dead):
            return
        z, coded = self.code(x)
        worst = _error(self.network.decode(coded), x).topk(len(dead)).indices
        residuals = (z - coded)[worst]
        self.atoms[dead] = residuals / residuals.norm(dim=1, keepdim=True).clamp_min(1e-6)
        self.use[dead] = self.use.mean()
        optimiser.state[self.atoms]["exp_avg"][dead] = 0

    def _optimiser(
        self, n_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        network, rate = self.network, self.config.learning_rate
        groups: list[tuple[list[Tensor], float]] = [
            (list(network.decoder.parameters()), 1.0),
            ([network.out], _LINEAR_STEP),
            ([network.bias], _ATOM_STEP),
            ([network.log_var], _VARIANCE_STEP),
        ]
        both = self.k > 1
        for part in (*network.encoder.parameters(), network.into, self.atoms):
            part.requires_grad_(both)
        if both:
            groups += [
                (list(network.encoder.parameters()), 1.0),
                ([network.into], _LINEAR_STEP),
                ([self.atoms], _ATOM_STEP),
            ]
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

    def _state(self) -> dict[str, Tensor]:
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        return {**weights, "atoms": self.atoms.detach().clone()}

    @torch.no_grad()
    def _restore(self, state: dict[str, Tensor]) -> None:
        self.atoms.copy_(state["atoms"])
        self.network.load_state_dict({k: v for k, v in state.items() if k != "atoms"})


def _error(y: Tensor, x: Tensor) -> Tensor:
    """Squared error of each clipped image, and a tenth of the square of what was clipped."""
    clipped = y.clamp(0, 1)
    return (clipped - x).square().sum(1) + _OVERSHOOT * (y - clipped).square().sum(1)


def _fast() -> torch.autocast:
    """Matrix products in bfloat16 where the processor has it: twice as fast, and the same bits."""
    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(able))
