"""The space in which samples are compared with images: features of a small classifier.

Trained here, on the run's own labels, in seconds: no network is downloaded, and whoever reads the
distances is told how well it classifies. Pictures get convolutions of stride 2 until no side is
above 7, anything else two dense layers; the features are the last hidden layer's. Without labels
the features are the leading principal coordinates of the pixels, which see less.

Features are centred and divided by one number, so that training images have a mean variance of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vaesc.applications.groups import groups, rows_within, some_rows
from vaesc.config import derive_seed
from vaesc.models.elbo import GROUP

if TYPE_CHECKING:
    from vaesc.applications.subject import Subject

Floats = NDArray[np.float32]

N_FEATURES = 64
_EPOCHS, _BATCH, _RATE = 2, 128, 2e-3
_MOST_BYTES = 2**28
"""Training images in memory at once: all 54,000 of MNIST are a sixth of it."""
_N_SCALED = 10_000
_SMALLEST_SIDE, _SMALL_SIDE = 6, 7
_PIXEL_WEIGHTS = 90_000
"""Weights that the dense layer on pixels may have."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """A map from images to features, with what it was made of."""

    function: Callable[[Tensor], Tensor]
    """Images in [0, 1], shape (n, *shape) -> features, not scaled yet."""
    centre: Floats = field(default_factory=lambda: np.zeros(1, np.float32))
    scale: float = 1.0
    classify: Callable[[Tensor], Tensor] | None = None
    """Images -> logits over :attr:`labels`; None without labels."""
    labels: tuple[int, ...] = ()
    n_weights: int = 0
    accuracy: float | None = None
    """Of the classifier on the test split; None without labels."""

    def of(self, unit: Floats) -> Floats:
        """Return the features of images in [0, 1], shape (n, *shape): float32, shape (n, f)."""
        raw = _grouped(self.function, unit)
        return np.asarray((raw - self.centre) / self.scale, np.float32)

    def classes_of(self, unit: Floats) -> NDArray[np.int64]:
        """Return the label that the classifier gives to each image, shape (n,)."""
        assert self.classify is not None
        known = np.asarray(self.labels, np.int64)
        found: NDArray[np.int64] = known[_grouped(self.classify, unit).argmax(axis=1)]
        return found


def fit_features(subject: Subject) -> Features:
    """Return features of the subject's images: a classifier's if there are labels."""
    rows = _training_rows(subject)
    images = _read(subject, rows)
    labels = subject.dataset.labels("train")
    known = () if labels is None else tuple(int(c) for c in np.unique(labels[rows]))
    if labels is None or len(known) < 2:
        some = _some(images, subject)
        return _scaled(Features(function=_principal(some)), some)
    targets = torch.from_numpy(np.searchsorted(known, labels[rows]))
    seed = derive_seed(subject.seed, "generation/features")
    network = _fitted(images, targets, len(known), seed)
    features = Features(
        function=network[:-1], classify=network, labels=known,
        n_weights=sum(p.numel() for p in network.parameters()),
    )  # fmt: skip
    return _scaled(
        replace(features, accuracy=_accuracy(features, subject)), _some(images, subject)
    )


def _training_rows(subject: Subject) -> NDArray[np.int64]:
    """Return the training images that are looked at: all, unless they are too large."""
    dataset = subject.dataset
    n, size = dataset.n("train"), dataset.images("train", slice(0, 1)).nbytes
    most = max(1, min(n, _MOST_BYTES // size))
    return some_rows(n, most, subject.rng("generation/features/rows"))


def _some(images: Tensor, subject: Subject) -> Tensor:
    """Return images to scale by, whose directions are cheap to find: a sample of all of them."""
    rows = some_rows(len(images), _N_SCALED, subject.rng("generation/features/some"))
    return images[torch.from_numpy(rows)]


def _read(subject: Subject, rows: NDArray[np.int64]) -> Tensor:
    """Return training images as stored."""
    parts = []
    for block in subject.dataset.blocks("train", subject.block_size):
        parts.append(subject.dataset.images("train", block)[rows_within(rows, block)])
    return torch.from_numpy(np.concatenate(parts))


def _fitted(images: Tensor, targets: Tensor, n_classes: int, seed: int) -> nn.Sequential:
    """Return a trained classifier; small sets are passed over more often."""
    from vaesc.training.resident import to_unit

    generator = torch.Generator().manual_seed(seed)
    network = _network(tuple(images.shape[1:]), n_classes, generator)
    n_batches = math.ceil(len(images) / _BATCH)
    n_steps = max(_EPOCHS * n_batches, min(300, 30 * n_batches))
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for rows in _batches(len(images), n_steps, generator):
        optimiser.zero_grad()
        functional.cross_entropy(network(to_unit(images[rows])), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def _batches(n: int, n_steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    done = 0
    while done < n_steps:
        for rows in torch.split(torch.randperm(n, generator=generator), _BATCH):
            if done < n_steps:
                yield rows
            done += 1


def _network(shape: tuple[int, ...], n_classes: int, generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    size = math.prod(shape)
    if len(shape) in (2, 3) and min(shape[-2:]) >= _SMALLEST_SIDE:
        side, channels = shape[-2:], shape[0] if len(shape) == 3 else 1
        layers += [nn.Unflatten(1, (1, shape[0]))] if len(shape) == 2 else []
        while True:
            wider = 16 if not any(isinstance(m, nn.Conv2d) for m in layers) else 32
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.ReLU()]
            side, channels = tuple(-(-s // 2) for s in side), wider
            if max(side) <= _SMALL_SIDE:
                break
        size = channels * math.prod(side)
    width = max(2, min(N_FEATURES, _PIXEL_WEIGHTS // size))
    layers += [nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, n_classes)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 0
            bound = math.sqrt(3 / fan) if fan else 0.0
            parameter.uniform_(-bound, bound, generator=generator)
    return network


def _accuracy(features: Features, subject: Subject) -> float | None:
    """Return the share of test images that get their own label."""
    labels = subject.dataset.labels("test")
    if labels is None or not len(labels):
        return None
    right = 0
    for block, images in groups(subject.dataset, "test", subject.block_size):
        found = features.classes_of(images)
        right += int((found == labels[block]).sum())
    return right / len(labels)


def _principal(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the projection on the leading principal directions of the pixels."""
    from sklearn.decomposition import PCA

    from vaesc.training.resident import to_unit

    flat = to_unit(images).flatten(1).numpy()
    n = min(N_FEATURES, *flat.shape)
    fitted = PCA(n, svd_solver="randomized", random_state=0).fit(flat)
    directions = torch.from_numpy(np.asarray(fitted.components_.T, np.float32))
    return lambda x: x.flatten(1) @ directions


def _scaled(features: Features, images: Tensor) -> Features:
    """Return the same features, centred and scaled on training images."""
    from vaesc.training.resident import to_unit

    raw = features.of(to_unit(images).numpy())
    centre = raw.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(np.square(raw - centre).mean())) or 1.0
    return replace(features, centre=np.asarray(centre, np.float32), scale=scale)


def _grouped(function: Callable[[Tensor], Tensor], unit: Any) -> Floats:  # noqa: ANN401
    with torch.inference_mode():
        parts = [function(part) for part in torch.split(torch.from_numpy(unit), GROUP)]
        return np.asarray(torch.cat(parts).numpy(), np.float32)
