r"""The log-likelihood of binary images, where there are published numbers.

Grey images have no likelihood under Bernoulli pixels that others could be held against: their
grey values are probabilities only by convention. Published bounds are of *binarised* MNIST, each
pixel drawn with its grey value as the probability of white. So the article's network is trained
once more, on images that are drawn anew in every epoch, and the importance-weighted bound of
test images that were drawn once is reported (:mod:`vaesc.models.iwae`).

Two ways of binarising are in use. Here, as in Burda et al., training images are drawn anew each
time; others train on one fixed draw (Larochelle and Murray's), so that the two
are not the same measurement.
Either way the draw of the test images is one of many.

References:
    Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016.
    https://arxiv.org/abs/1509.00519
    Salakhutdinov and Murray, "On the Quantitative Analysis of Deep Belief Networks", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaesc.applications.groups import floats_of, some_rows
from vaesc.config import GenerationConfig, TrainingConfig, VAEConfig, derive_seed
from vaesc.models import VAE, mean_elbo
from vaesc.models.elbo import GROUP, group_images
from vaesc.models.iwae import image_bounds
from vaesc.progress import Listener
from vaesc.training.checkpoints import Checkpoints
from vaesc.training.determinism import deterministic, stream
from vaesc.training.engine import Engine
from vaesc.training.loop import Loop
from vaesc.training.objective import Objective
from vaesc.training.order import Order
from vaesc.training.resident import ResidentBatches, to_unit
from vaesc.training.run import Run, score_of
from vaesc.training.state import State
from vaesc.training.streamed import StreamedBatches, open_batches

if TYPE_CHECKING:
    from vaesc.applications.subject import Subject

FEW, MANY = 50, 5000
"""Latent samples per image of the two bounds."""
_MOST_BYTES = 2**28
"""Test images in memory at once: all 10,000 of MNIST are an eighth of it."""


@dataclass(frozen=True, kw_only=True)
class BinaryBounds:
    """Bounds on the negative log-likelihood of binarised test images, in nats per image."""

    few: float
    """With :data:`FEW` samples, mean over `n_few` images."""
    n_few: int
    many: float
    """With :data:`MANY` samples, estimated for the same images, see :func:`carried_over`."""
    n_many: int
    """Images, drawn from those of `few`, that `many` was computed for."""
    error: float
    """Standard error of `many`, as an estimate of the mean over the images of `few`."""
    negative_elbo: float
    """The plain bound, of the images of `few`."""
    epochs: int
    best_epoch: int


def binary_bounds(config: GenerationConfig, subject: Subject) -> BinaryBounds:
    """Train a VAE on binarised images and return its bounds.

    Args:
        config: `binary_epochs` and `binary_images`.
        subject: Its article's VAE gives the architecture, with a Bernoulli likelihood.

    Raises:
        TrainingError: Training failed, however often it went back.
    """
    dataset = subject.dataset
    vae, run = _trained(config, subject)
    most = max(1, _MOST_BYTES // (4 * math.prod(dataset.shape)))
    tested = some_rows(dataset.n("test"), most, subject.rng("generation/binary/test-rows"))
    unit, n = floats_of(dataset, "test", tested, subject.block_size), len(tested)
    drawn = binarised(unit, subject.seed, "test")
    few = _bounds(vae, drawn, FEW, subject)
    # Any images, not the first: those of MNIST are easier than the rest.
    rows = some_rows(n, config.binary_images, subject.rng("generation/binary/images"))
    many, error = carried_over(few, rows, _bounds(vae, drawn[rows], MANY, subject))
    elbo = mean_elbo(
        vae, torch.split(torch.from_numpy(drawn), GROUP), n_samples=8, seed=subject.seed,
        stream="generation/binary/elbo",
    )  # fmt: skip
    return BinaryBounds(
        few=float(few.mean()), n_few=n, many=many, n_many=len(rows), error=error,
        negative_elbo=elbo["negative_elbo"], epochs=len(run.history), best_epoch=run.best.epoch,
    )  # fmt: skip


def carried_over(
    cheap: NDArray[np.float64], rows: NDArray[np.int64], dear: NDArray[np.float64]
) -> tuple[float, float]:
    r"""Estimate the mean of what is dear to compute from what is cheap and goes with it.

    .. math:: \frac1n \sum_{i=1}^n c_i + \frac1m \sum_{i \in S} (d_i - c_i)

    is unbiased for the mean of d over all n images, S being m of them drawn at random. Images
    differ by tens of nats, the two bounds of one image by a few: 200 images leave a standard error
    of well over a nat in the plain mean, and a small part of that here.

    Args:
        cheap: Of every image, shape (n,).
        rows: The images that were drawn, shape (m,).
        dear: Of those, shape (m,).

    Returns:
        The estimate, and its standard error.

    References:
        Cochran, "Sampling Techniques", 1977, chapter 7 (difference estimators).
    """
    n, m = len(cheap), len(rows)
    gain = dear - cheap[rows]
    spread = float(gain.std(ddof=1)) if m > 1 else 0.0
    error = spread * math.sqrt((1 - m / n) / m)
    return float(cheap.mean() + gain.mean()), error


def binarised(unit: NDArray[np.float32], seed: int, name: str) -> NDArray[np.float32]:
    """Return images of black and white, each pixel white with its grey value's probability.

    Args:
        unit: In [0, 1], shape (n, *shape).
        seed: The run's seed.
        name: Of the draw.
    """
    rng = np.random.default_rng(derive_seed(seed, f"generation/binary/{name}"))
    return np.asarray(rng.random(unit.shape, np.float32) < unit, np.float32)


@dataclass(frozen=True)
class BinarisedBatches:
    """Training batches that are drawn anew in every epoch: a function of seed, epoch and batch."""

    grey: ResidentBatches | StreamedBatches
    seed: int

    @property
    def order(self) -> Order:
        """Which image comes when."""
        return self.grey.order

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch, 0 or 1 each pixel, from one of them on."""
        for i, images in enumerate(self.grey.epoch(epoch, first_batch), first_batch):
            generator = stream(self.seed, f"generation/binary/{epoch}/{i}")
            noise = torch.rand(images.shape, generator=generator).to(images.device)
            yield (noise < to_unit(images)).float()


class _Progress(Listener):
    """Passes on how far it is, and no epochs: those would be taken for the run's own VAE."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def progress(self, done: float, total: float, **figures: float) -> None:
        self._listener.progress(done, total, **figures)


def _trained(config: GenerationConfig, subject: Subject) -> tuple[VAE, Run]:
    """Return the VAE with the weights of its best epoch, and the run that gave it."""
    seed = derive_seed(subject.seed, "generation/binary")
    article = subject.article.vae
    settings = _bernoulli(article.config)
    vae = VAE(settings, article.shape, generator=stream(seed, "init")).to(article.device)
    validation = _validation(subject)
    with deterministic():
        untrained = mean_elbo(vae, [next(iter(validation()))], seed=seed, stream="untrained")
        loop = _loop(vae, _schedule(config.binary_epochs), subject, seed)
        score = score_of(untrained, loop.config, settings.beta)
        run = Run(loop, validation, Checkpoints(None, ""), score)
        run.fit()
    run.state.flat["weights"].copy_(run.best.weights)
    return vae, run


def _schedule(epochs: int) -> TrainingConfig:
    """Return the schedule of the preset mnist, which was chosen on validation data."""
    return TrainingConfig(
        epochs=epochs, learning_rate=3e-3, warmup_epochs=1.0, weight_average=0.999,
        beta_schedule="warm-up", beta_epochs=min(6.0, epochs / 2),
    )  # fmt: skip


def _loop(vae: VAE, training: TrainingConfig, subject: Subject, seed: int) -> Loop:
    """Return the loop over training images that are binarised anew in every epoch."""
    grey = open_batches(
        subject.dataset, vae.device, batch_size=training.batch_size, seed=seed,
        block_size=subject.block_size, window_bytes=subject.window_bytes,
    )  # fmt: skip
    batches = BinarisedBatches(grey, seed)
    state = State(vae, averaged=training.weight_average > 0)
    engine = Engine(
        Objective(vae, training), state, compiled=False, batch_size=training.batch_size
    )
    listener = _Progress(subject.listener)
    return Loop(engine, cast("ResidentBatches", batches), seed=seed, listener=listener)


def _bernoulli(config: VAEConfig) -> VAEConfig:
    return replace(config, likelihood="bernoulli", beta=1.0)


def _validation(subject: Subject) -> Any:  # noqa: ANN401 - a function of no arguments
    """Return what gives the validation images, drawn once, in groups."""
    dataset, seed = subject.dataset, subject.seed

    def groups() -> Iterable[Tensor]:
        rows = slice(0, dataset.n("validation"))
        for i, x in enumerate(group_images(dataset, "validation", rows, subject.block_size)):
            yield torch.from_numpy(binarised(x.numpy(), seed, f"validation/{i}"))

    return groups


def _bounds(
    vae: VAE, drawn: NDArray[np.float32], n_samples: int, subject: Subject
) -> NDArray[np.float64]:
    """Return -L_k of each image, shape (n,)."""
    seed, parts = derive_seed(subject.seed, "generation/binary"), []
    for i, x in enumerate(torch.split(torch.from_numpy(drawn), GROUP)):
        stream = f"iwae/{n_samples}/{i}"
        parts.append(image_bounds(vae, x.to(vae.device), n_samples, seed=seed, stream=stream))
    return torch.cat(parts).cpu().double().numpy()
