"""One epoch of training: gather, noise, loss, gradient, Adam; nothing waits for a number.

The terms of each batch stay on the device until somebody looks, about twice a second. An epoch is
a function of the weights, the optimiser's state, the seed and the epoch's number: order of the
images and noise come from streams named after them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from vaesc.config import TrainingConfig
from vaesc.errors import TrainingError
from vaesc.models import VAE
from vaesc.progress import Listener
from vaesc.training.determinism import stream
from vaesc.training.resident import to_unit

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.5


class Loop:
    """What stays the same from epoch to epoch.

    Args:
        vae: The model to fit, on its device.
        images: Training images as stored, on the same device.
        config: Batch size, learning rate, schedule.
        seed: The run's seed.
        listener: Hears of progress.
    """

    def __init__(
        self, vae: VAE, images: Tensor, config: TrainingConfig, *, seed: int, listener: Listener
    ) -> None:
        self.vae = vae
        self.images = images
        self.config = config
        self.seed = seed
        self.listener = listener
        self.optimizer = _adam(vae, config.learning_rate)
        self.n_batches = math.ceil(len(images) / config.batch_size)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Pass once over the training images.

        Args:
            epoch: Its number, from 1.

        Returns:
            Means over the epoch's batches as they were met, in nats per image, under
            ``train/negative_elbo``, ``train/distortion``, ``train/kl``; and
            ``train/learning_rate``, that of the last batch.

        Raises:
            TrainingError: The loss is not finite.
        """
        sums = torch.zeros(self.n_batches, 2, device=self.images.device)
        clock = _Clock()
        for batch, rows in enumerate(self._order(epoch)):
            x = to_unit(self.images[rows])
            noise = self._noise(epoch, batch, len(x))
            sums[batch] = self._step(x, noise, self._set_learning_rate(epoch, batch))
            if clock.is_due():
                self._report(epoch, sums, batch + 1, clock)
        metrics = self._means(epoch, sums, self.n_batches)
        self._report(epoch, sums, self.n_batches, clock)
        return {**metrics, "train/learning_rate": self._set_learning_rate(epoch, batch)}

    def _step(self, x: Tensor, noise: Tensor, learning_rate: float) -> Tensor:
        """Descend once; return the batch's sums of distortion and kl, shape (2,)."""
        terms = self.vae.negative_elbo(x, noise)
        self.optimizer.zero_grad(set_to_none=True)
        terms.negative_elbo(self.vae.config.beta).mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return torch.stack([term.detach().sum() for term in terms])

    def _order(self, epoch: int) -> Iterator[Tensor]:
        """Yield each batch's rows: a permutation of the epoch's own, cut into batches."""
        order = torch.randperm(
            len(self.images), generator=stream(self.seed, f"train/order/{epoch}")
        )
        return iter(torch.split(order.to(self.images.device), self.config.batch_size))

    def _noise(self, epoch: int, batch: int, n: int) -> Tensor:
        generator = stream(self.seed, f"train/noise/{epoch}/{batch}")
        noise = torch.randn(n, self.vae.latent_dim, generator=generator)
        return noise.to(self.images.device)

    def _set_learning_rate(self, epoch: int, batch: int) -> float:
        step = (epoch - 1) * self.n_batches + batch
        rate = learning_rate(self.config, step, self.config.epochs * self.n_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _means(self, epoch: int, sums: Tensor, n_batches: int) -> dict[str, float]:
        """Return the means per image over the first `n_batches` batches, checked."""
        n_images = min(n_batches * self.config.batch_size, len(self.images))
        # Summed in double precision on the CPU: not every device has it.
        distortion, kl = (sums[:n_batches].cpu().double().sum(0) / n_images).tolist()
        means = {
            "train/negative_elbo": distortion + self.vae.config.beta * kl,
            "train/distortion": distortion,
            "train/kl": kl,
        }
        check_finite(means, epoch, self.config)
        return means

    def _report(self, epoch: int, sums: Tensor, n_batches: int, clock: _Clock) -> None:
        n_images = min(n_batches * self.config.batch_size, len(self.images))
        means = self._means(epoch, sums, n_batches)
        self.listener.progress(
            (epoch - 1) * len(self.images) + n_images,
            self.config.epochs * len(self.images),
            negative_elbo=means["train/negative_elbo"],
            images_per_second=clock.rate(n_images),
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


def learning_rate(config: TrainingConfig, step: int, n_steps: int) -> float:
    """Return Adam's step size for one gradient step.

    Args:
        config: `learning_rate` and `schedule`.
        step: Number of the gradient step, from 0.
        n_steps: Number of gradient steps of the whole run, early stopping left aside.
    """
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * (1 + math.cos(math.pi * step / n_steps)) / 2


def check_finite(metrics: dict[str, float], epoch: int, config: TrainingConfig) -> None:
    """Refuse to go on with a loss that is no number.

    Raises:
        TrainingError: A metric is NaN or infinite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is not finite ({name} = {value}) in epoch {epoch} at "
                f"training.learning_rate={config.learning_rate:g}; nothing was saved: "
                "lower training.learning_rate, and check that the images are finite"
            )


def _adam(vae: VAE, rate: float) -> torch.optim.Adam:
    """Return Adam, in one kernel where the device has it."""
    try:
        return torch.optim.Adam(vae.parameters(), lr=rate, fused=True)
    except RuntimeError as error:
        logger.info("Adam runs unfused on %s: %s", vae.device, error)
        return torch.optim.Adam(vae.parameters(), lr=rate)
