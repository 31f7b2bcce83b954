r"""Groups of images that no label has named, found once and told of new images by their codes.

Two steps, of which a model keeps the outcome of the second:

1. The training latents are laid out by UMAP in a few dimensions, where images that are joined by
   chains of neighbours come to lie together, and a Gaussian mixture divides what it sees there.
2. Of every anchor (:mod:`.coordinates`) it is counted how much of the local codes of each cluster
   it carries, :math:`M_{jc} \propto \sum_{i \in c} \max(a_{ij}, 0)`. A new image belongs to the
   cluster of the largest :math:`\sum_j \max(a_j, 0) M_{jc}`: a linear rule on its local code.

References:
    McInnes, Healy, Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension
    Reduction", 2018. https://arxiv.org/abs/1802.03426
    McConville, Santos-Rodríguez, Piechocki, Craddock, "N2D: (Not Too) Deep Clustering via
    Clustering the Local Manifold of an Autoencoded Embedding", 2019 (step 1 on an autoencoder's
    latents). https://arxiv.org/abs/1908.05968
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from vaesc.applications.neighbours import nearest
from vaesc.progress import SILENT, Listener

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

N_NEIGHBOURS = 20
N_DIMENSIONS = 10
"""As in N2D, which takes one dimension for each class of ten."""
_LEADING = 32
LEAST = 50
"""Images below which there is no layout to speak of."""


def layout(points: Floats, *, seed: int, listener: Listener = SILENT) -> Floats:
    """Return UMAP's layout of points, shape (n, D), in :data:`N_DIMENSIONS`.

    Args:
        points: At least :data:`LEAST`.
        seed: Of the layout, below 2**32.
        listener: Hears of the search for neighbours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow, which is not needed, and of threads
        from umap import UMAP

        n = min(N_NEIGHBOURS, len(points) - 1)
        indices, distances = nearest(points, points, n - 1, own=True, listener=listener)
        own = np.arange(len(points))[:, None]
        known = (
            np.hstack([own, indices]),
            np.hstack([np.zeros((len(points), 1), np.float32), distances]),
        )
        umap = UMAP(
            n_neighbors=n, n_components=N_DIMENSIONS, min_dist=0.0,
            random_state=seed, precomputed_knn=known,
        )  # fmt: skip
        return np.asarray(umap.fit_transform(points), np.float32)


def mixture(
    points: NDArray[Any], n_clusters: int, *, seed: int, others: NDArray[Any] | None = None
) -> Ints:
    """Return the component of a Gaussian mixture of `points` that each belongs to, shape (n,).

    Args:
        points: Shape (n, D).
        n_clusters: Components, each with a covariance of its own.
        seed: Of the three starts, of which the likeliest end is taken.
        others: Points to be told the components of, shape (m, D), instead of the same.
    """
    from sklearn.mixture import GaussianMixture

    wide = np.asarray(points, np.float64)
    fitted = GaussianMixture(
        n_clusters, n_init=3, max_iter=200, random_state=seed,
        reg_covar=1e-6 * float(wide.var()) + np.finfo(np.float64).tiny,
    )  # fmt: skip
    with _unwarned():
        fitted.fit(wide)
    asked = wide if others is None else np.asarray(others, np.float64)
    return np.asarray(fitted.predict(asked), np.int64)


def leading(points: Floats) -> Floats:
    """Return the axes of largest variance, at most 32: covariances grow with the square.

    Args:
        points: From :meth:`.coordinates.LocalCoder.points`, whose axes increase in variance.
    """
    return points[:, -_LEADING:]


def means(points: NDArray[Any], n_clusters: int, *, seed: int) -> Any:  # noqa: ANN401
    """Return scikit-learn's k-means, the best of five starts."""
    from sklearn.cluster import KMeans

    with _unwarned():
        return KMeans(n_clusters, n_init=5, random_state=seed).fit(np.asarray(points, np.float32))


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence scikit-learn on points that are alike and ends that were not reached quite."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def memberships(codes: csr_array, clusters: Ints, n_clusters: int) -> Floats:
    """Return of each anchor which clusters' images it codes, shape (K, C), rows summing to 1.

    Args:
        codes: Training codes, shape (n, K).
        clusters: The cluster of each, shape (n,).
        n_clusters: C.
    """
    n = len(clusters)
    belongs = csr_array((np.ones(n), clusters, np.arange(n + 1)), shape=(n, n_clusters))
    carried = (_positive(codes).T @ belongs).toarray()
    total = carried.sum(axis=1, keepdims=True)
    # An anchor that carries nothing has no say.
    return np.asarray(carried / np.where(total > 0, total, 1), np.float32)


def assigned(codes: csr_array, membership: Floats) -> Ints:
    """Return the cluster that each code, shape (n, K), belongs to, shape (n,)."""
    votes = np.asarray(_positive(codes) @ membership)
    return np.asarray(votes.argmax(axis=1), np.int64)


def _positive(codes: csr_array) -> csr_array:
    positive = codes.copy()
    positive.data = np.maximum(positive.data, 0)
    return positive


def agreement(clusters: Ints, classes: Ints) -> dict[str, float]:
    """Return how well clusters agree with classes, both counted from 0.

    Returns:
        ``accuracy``: share of images whose cluster is that of their class, each cluster standing
        for the class that makes the sum largest (Hungarian matching), in [0, 1]; ``nmi``:
        mutual information over the mean entropy, in [0, 1]; ``ari``: adjusted Rand index, 0 for
        chance, at most 1.

    References:
        Kuhn, "The Hungarian method for the assignment problem", 1955. Hubert and Arabie,
        "Comparing partitions", 1985.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = np.zeros((int(clusters.max()) + 1, int(classes.max()) + 1), np.int64)
    np.add.at(table, (clusters, classes), 1)
    matched = linear_sum_assignment(table, maximize=True)
    return {
        "accuracy": float(table[matched].sum() / len(classes)),
        "nmi": float(normalized_mutual_info_score(classes, clusters)),
        "ari": float(adjusted_rand_score(classes, clusters)),
    }


def placed(codes: csr_array, laid: Floats, others: csr_array) -> Floats:
    """Return where codes lie in a layout of other images: among the anchors they are made of.

    Args:
        codes: Of the images that were laid out, shape (n, K).
        laid: Their places, shape (n, D).
        others: Codes to be placed, shape (m, K).

    Returns:
        Shape (m, D).
    """

    def mean(weights: csr_array, places: NDArray[Any]) -> NDArray[Any]:
        total = np.asarray(weights.sum(axis=1), np.float64).reshape(-1, 1)
        averaged: NDArray[Any] = (weights @ places) / np.where(total > 0, total, 1)
        return averaged

    anchors = mean(csr_array(_positive(codes).T), laid)
    return np.asarray(mean(_positive(others), anchors), np.float32)


def flattened(places: Floats, *, seed: int) -> Floats:
    """Return points of a layout in the plane, for a picture alone, by t-SNE, shape (n, 2).

    References:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008.
    """
    from sklearn.manifold import TSNE

    if len(places) < LEAST:
        return places[:, :2]
    plane = TSNE(init="pca", perplexity=min(30, len(places) // 4), random_state=seed)
    return np.asarray(plane.fit_transform(places), np.float32)
