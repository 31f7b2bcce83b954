r"""What distances hide: do samples look real, is everything covered, are they copies.

*Precision* is the share of samples that lie on the manifold of real images, *recall* the share of
real images that lie on the manifold of samples. A set's manifold is estimated as the union of
balls around its points, each reaching to the point's k-th nearest neighbour in the set.

*Memorised* samples are nearer to a training image than all but one in a hundred of the test
images are: a sampler that hands out its training images has perfect precision and recall.

References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
    2019. https://arxiv.org/abs/1904.06991
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.groups import groups

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

Floats = NDArray[np.float32]

N_NEIGHBOURS = 3
"""k of the paper."""
_BLOCK = 1024


def precision_recall(
    real: NDArray[Any], made: NDArray[Any], n_neighbours: int = N_NEIGHBOURS
) -> tuple[float, float]:
    """Return precision and recall of samples, both in [0, 1].

    Args:
        real: Features of real images, shape (n, f).
        made: Features of samples, shape (m, f).
        n_neighbours: Neighbour to which a point's ball reaches, below n and m.

    Raises:
        ValueError: There are too few points.
    """
    if min(len(real), len(made)) <= n_neighbours:
        raise ValueError(
            f"precision and recall with {n_neighbours} neighbours need more points than that, "
            f"got {len(real)} real ones and {len(made)} samples"
        )
    real, made = np.asarray(real, np.float64), np.asarray(made, np.float64)
    return (
        _share_inside(made, real, _radii(real, n_neighbours)),
        _share_inside(real, made, _radii(made, n_neighbours)),
    )


def nearest_training(
    images: Floats, dataset: ImageDataset, *, block_size: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Return each image's distance to the nearest training image, and which one that is.

    Args:
        images: In [0, 1], shape (n, *shape).
        dataset: Its training split is streamed.
        block_size: Training images in memory at once.

    Returns:
        Euclidean distances over the pixels, shape (n,), and rows of the split, shape (n,).
    """
    import torch

    flat = torch.from_numpy(np.ascontiguousarray(images.reshape(len(images), -1)))
    norms = flat.square().sum(1)
    best = torch.full((len(flat),), float("inf"))
    where = torch.zeros(len(flat), dtype=torch.int64)
    for rows, train in groups(dataset, "train", block_size):
        block = torch.from_numpy(train).flatten(1)
        squares = block.square().sum(1)
        for start in range(0, len(flat), _BLOCK):
            at = slice(start, start + _BLOCK)
            found, index = torch.addmm(squares, flat[at], block.T, beta=1, alpha=-2).min(1)
            found = found + norms[at]
            closer = found < best[at]
            best[at] = torch.where(closer, found, best[at])
            where[at] = torch.where(closer, index + rows.start, where[at])
    return best.clamp_min(0).sqrt().numpy(), where.numpy()


def memorised_fraction(made: NDArray[Any], test: NDArray[Any]) -> float:
    """Return the share of samples nearer to training images than 99 % of test images are.

    Args:
        made: Distances of samples to their nearest training images, shape (n,).
        test: The same of test images, shape (m,).

    Returns:
        In [0, 1]; images like the test images give 0.01.
    """
    return float((np.asarray(made) < np.quantile(test, 0.01)).mean())


def _radii(points: NDArray[Any], n_neighbours: int) -> NDArray[np.float64]:
    """Return each point's squared distance to its k-th nearest neighbour, itself left out."""
    found = np.empty(len(points))
    for start, squares in _squares(points, points):
        rows = np.arange(len(squares))
        squares[rows, start + rows] = -1  # itself, whatever rounding says
        kth = np.partition(squares, n_neighbours, axis=1)[:, n_neighbours]
        found[start : start + len(squares)] = kth
    return found


def _share_inside(
    points: NDArray[Any], centres: NDArray[Any], radii: NDArray[np.float64]
) -> float:
    inside = sum(
        int((squares <= radii).any(axis=1).sum()) for _, squares in _squares(points, centres)
    )
    return inside / len(points)


def _squares(x: NDArray[Any], y: NDArray[Any]) -> Any:  # noqa: ANN401 - an iterator of blocks
    """Yield squared distances of blocks of `x` to all of `y`, with where each block starts."""
    norms = np.square(y).sum(axis=1)
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        own = np.square(block).sum(axis=1)[:, None]
        yield start, np.maximum(own + norms - 2 * block @ y.T, 0)
