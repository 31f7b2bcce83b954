"""One epoch of training: batches, noise, steps; nothing waits for a number.

The terms of each batch stay on the device until somebody looks, about twice a second. An epoch is
a function of the state, the seed and the epoch's number: order of the images and noise come from
streams named after them, so an epoch can begin in its middle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vaesc.progress import Listener
from vaesc.training.determinism import stream
from vaesc.training.engine import Engine
from vaesc.training.health import check_finite
from vaesc.training.objective import knobs_at
from vaesc.training.resident import ResidentBatches
from vaesc.training.schedules import learning_rate
from vaesc.training.streamed import StreamedBatches

_REPORT_SECONDS = 0.5


class Loop:
    """What stays the same from epoch to epoch.

    Args:
        engine: Takes the steps.
        batches: Training images.
        seed: The run's seed.
        listener: Hears of progress.
    """

    def __init__(
        self,
        engine: Engine,
        batches: ResidentBatches | StreamedBatches,
        *,
        seed: int,
        listener: Listener,
    ) -> None:
        self.engine, self.batches, self.seed, self.listener = engine, batches, seed, listener
        self.vae, self.config = engine.objective.vae, engine.objective.config
        self.ranks = engine.ranks
        self.n, self.n_batches = batches.order.n, batches.order.n_batches
        self.batch_size = min(self.config.batch_size, self.n)
        self.rate_share = 1.0
        """What rollbacks have left of the learning rate."""
        self.sums = torch.zeros(self.n_batches, 2, device=self.vae.device)
        """Of distortion and kl over each batch of the epoch."""

    def run_epoch(
        self, epoch: int, first_batch: int = 0, *, on_batch: Callable[[int], None] | None = None
    ) -> dict[str, float]:
        """Pass once over the training images, or over what an interrupted epoch left.

        Args:
            epoch: Its number, from 1.
            first_batch: Batches done before; their sums are in :attr:`sums`.
            on_batch: Hears after each batch how many are done.

        Returns:
            Means over the epoch's batches as they were met, in nats per image, under
            ``train/negative_elbo``, ``train/distortion``, ``train/kl``; and
            ``train/learning_rate``, that of the last batch.

        Raises:
            DivergedError: The loss is not finite.
        """
        clock = _Clock()
        for batch, images in enumerate(self.batches.epoch(epoch, first_batch), first_batch):
            self.sums[batch] = self._step(epoch, batch, images)
            if on_batch:
                on_batch(batch + 1)
            if clock.is_due():
                self._report(epoch, first_batch, batch + 1, clock)
        self._report(epoch, first_batch, self.n_batches, clock)
        last_rate = self._rate((epoch * self.n_batches) - 1)
        return {**self.means(epoch, self.n_batches), "train/learning_rate": last_rate}

    def _step(self, epoch: int, batch: int, images: Tensor) -> Tensor:
        step = (epoch - 1) * self.n_batches + batch
        n = min(self.config.batch_size, self.n - batch * self.config.batch_size)
        noise = self._noise(epoch, batch, n)  # of all ranks' images
        knobs = knobs_at(self.config, self.vae.config.beta, step, self.n_batches)
        return self.engine.step(images, noise, self._rate(step), knobs)

    def _noise(self, epoch: int, batch: int, n: int) -> Tensor:
        generator = stream(self.seed, f"train/noise/{epoch}/{batch}")
        shape = (self.config.importance_samples, n, self.vae.latent_dim)
        return torch.randn(shape, generator=generator).to(self.vae.device)

    def _rate(self, step: int) -> float:
        rate = learning_rate(self.config, step, self.n_batches, self.batch_size)
        return self.rate_share * rate

    def means(self, epoch: int, n_batches: int) -> dict[str, float]:
        """Return the means per image over the first `n_batches` batches, checked.

        Raises:
            DivergedError: One of them is not finite.
        """
        means = self._means(n_batches)
        check_finite(means, epoch, self.config, self.rate_share)
        return means

    def sound_means(self, epoch: int, n_batches: int) -> dict[str, float] | None:
        """Return the means in an epoch's middle; None if they are no numbers and it must end.

        Ranks look at moments of their own, and must not go back one without the others: they
        wait for the end of the epoch, where all see the same.

        Raises:
            DivergedError: One of them is not finite, and there are no other ranks.
        """
        if self.ranks.n == 1:
            return self.means(epoch, n_batches)
        means = self._means(n_batches)
        return means if all(map(math.isfinite, means.values())) else None

    def _means(self, n_batches: int) -> dict[str, float]:
        n_images = min(n_batches * self.config.batch_size, self.n)
        # Summed in double precision on the CPU: not every device has it.
        distortion, kl = (self.sums[:n_batches].cpu().double().sum(0) / n_images).tolist()
        return {
            "train/negative_elbo": distortion + self.vae.config.beta * kl,
            "train/distortion": distortion,
            "train/kl": kl,
        }

    def _report(self, epoch: int, first_batch: int, n_batches: int, clock: _Clock) -> None:
        n_images = min(n_batches * self.config.batch_size, self.n)
        means = self.sound_means(epoch, n_batches)
        if means is None:
            return
        self.listener.progress(
            (epoch - 1) * self.n + n_images,
            self.config.epochs * self.n,
            negative_elbo=means["train/negative_elbo"],
            kl=means["train/kl"],
            images_per_second=clock.rate(n_images - first_batch * self.config.batch_size),
        )


class _Clock:
    """Says when to report, and how fast the epoch runs. Never part of a result."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def is_due(self) -> bool:
        now = time.perf_counter()
        due = now - self._last >= _REPORT_SECONDS
        self._last = now if due else self._last
        return due

    def rate(self, n: int) -> float:
        return n / max(time.perf_counter() - self._start, 1e-9)
