r"""The classifier: a small convolutional network of pixels; of vectors, a perceptron.

It is trained on guessed classes, of which some are wrong. The generalised cross-entropy

.. math:: \ell_q(p) = (1 - p^q) / q

of the probability p given to the guessed class lies between cross-entropy (q to 0), which insists
most on the images it finds least likely, hence on the wrong guesses, and 1 - p (q = 1), which
lets go of them but learns slowly.

References:
    Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vaesc.applications.semi_supervised.views import MILD, view
from vaesc.progress import SILENT, Listener
from vaesc.shapes import n_channels

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Read = Callable[[Ints], Floats]
"""Gives images in [0, 1] by their rows, shape (n, *shape)."""

BATCH, LABELLED = 224, 32
"""Images of a step with guessed classes, and with labels."""
FEWEST_STEPS = 300
"""Steps of a training, however few the images."""
N_VIEWS = 3
_WIDTHS = (16, 32, 64)
_RATE, _DECAY, _WARM_UP, _Q = 4e-3, 1e-2, 0.15, 0.7


def build(shape: tuple[int, ...], n_classes: int) -> nn.Sequential:
    """Return a network of images of `shape`: (h, w), (c, h, w) or anything flat."""
    channels, *size = _planes(shape)
    layers: list[nn.Module] = []
    if size:
        height, width = size
        for number, after in enumerate(_WIDTHS):
            side = 5 if number == 0 and min(size) >= 16 else 3
            # The first halves the sides of large images only; all others do.
            stride = 1 if number == 0 and min(size) < 16 else 2
            layers += [
                nn.Conv2d(channels, after, side, stride, side // 2, bias=False),
                nn.BatchNorm2d(after), nn.ReLU(),
            ]  # fmt: skip
            channels = after
            height, width = (math.ceil(s / stride) for s in (height, width))
        if height * width > 16:
            layers.append(nn.AdaptiveAvgPool2d(4))
            height = width = 4
        layers += [nn.Flatten(), nn.Linear(channels * height * width, n_classes)]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)
    for after in (256, 128):
        layers += [nn.Linear(channels, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        channels = after
    return nn.Sequential(*layers, nn.Linear(channels, n_classes))


def train(
    read: Read,
    shape: tuple[int, ...],
    n_classes: int,
    *,
    labelled: tuple[Ints, Ints],
    guessed: tuple[Ints, Ints] | None,
    n_steps: int,
    seed: int,
    listener: Listener = SILENT,
) -> nn.Sequential:
    """Train a network on labelled images, and on images whose classes were guessed.

    Args:
        read: Gives the images of some rows.
        shape: Shape of one image.
        n_classes: C.
        labelled: Rows, and their classes.
        guessed: The same of guesses; None: there are none.
        n_steps: Gradient steps; see :func:`steps_of`.
        seed: Of weights, order and views.
        listener: Hears of steps done.

    Returns:
        The network, ready to predict.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
        network = build(shape, n_classes)
    _initialise(network, generator)
    rows, classes = guessed or labelled
    batch = min(BATCH, len(rows))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    network.train()
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * _schedule(step / n_steps)
        if step % (len(rows) // batch) == 0:
            order = torch.randperm(len(rows), generator=generator).numpy()
        first = step % (len(rows) // batch) * batch
        at = order[first : first + batch]
        drawn = torch.randint(len(labelled[0]), (LABELLED,), generator=generator).numpy()
        images = _tensor(read(np.concatenate([rows[at], labelled[0][drawn]])), shape)
        logits = network(_last(view(images, generator)))
        loss = _loss(logits[:batch], classes[at], exact=guessed is None)
        loss = loss + _loss(logits[batch:], labelled[1][drawn], exact=True) * (LABELLED / BATCH)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        listener.progress(step + 1, n_steps)
    return network.eval()


def steps_of(n_images: int, epochs: int) -> int:
    """Return the gradient steps of `epochs` passes over so many images, or a few hundred."""
    return max(FEWEST_STEPS, epochs * (n_images // min(BATCH, max(1, n_images))))


def predict(network: nn.Sequential, images: Floats, *, seed: int, n_views: int) -> Floats:
    """Return class probabilities of images, averaged over the image and mild views of it.

    Args:
        network: From :func:`train`.
        images: In [0, 1], shape (n, *shape).
        seed: Of the views.
        n_views: Beside the image itself.

    Returns:
        Rows that sum to 1, shape (n, C).
    """
    given = _tensor(images, images.shape[1:])
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        views = [given, *(view(given, generator, MILD) for _ in range(n_views))]
        found = torch.stack([network(_last(each)).softmax(dim=1) for each in views])
        return np.asarray(found.mean(dim=0).numpy(), np.float32)


def predict_all(
    network: nn.Sequential, read: Read, n: int, *, seed: int, n_views: int = N_VIEWS
) -> Floats:
    """Return :func:`predict` of the rows 0 to n - 1, in groups of fixed size."""
    groups = [np.arange(start, min(start + 1000, n)) for start in range(0, n, 1000)]
    found = [
        predict(network, read(rows), seed=seed + number, n_views=n_views)
        for number, rows in enumerate(groups)
    ]
    return np.concatenate(found)


def _planes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return channels, height and width; or the number of values of what is no picture."""
    if len(shape) in (2, 3) and min(shape[-2:]) >= 8:
        return (n_channels(shape), *shape[-2:])
    return (math.prod(shape),)


def _tensor(images: Floats, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).reshape(len(images), *_planes(shape))


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def _loss(logits: Tensor, classes: Ints, *, exact: bool) -> Tensor:
    wanted = torch.from_numpy(classes)
    if exact:
        return functional.cross_entropy(logits, wanted)
    given = logits.softmax(dim=1).gather(1, wanted[:, None]).clamp_min(1e-6)
    return ((1 - given**_Q) / _Q).mean()


def _schedule(done: float) -> float:
    """Return the share of the learning rate: it rises, then falls to zero along a cosine."""
    if done < _WARM_UP:
        return done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights from the generator."""
    for layer in network.modules():
        weight: Any = getattr(layer, "weight", None)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = math.sqrt(6 / weight[0].numel())
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
