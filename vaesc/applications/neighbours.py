r"""Nearest neighbours by exact search: every distance is computed, none is guessed.

Of a block of queries all products with the reference are one matrix product, and

.. math:: \tfrac12 \|q - r\|^2 = \tfrac12\|q\|^2 + \big(\tfrac12\|r\|^2 - q^\top r\big)

is read by a kernel that keeps the smallest. In float32 the difference loses digits where two
samples all but coincide; a few more candidates than asked for are kept therefore, and ordered by
distances computed anew. Of samples that are as far the earlier one is nearer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from vaesc.progress import SILENT, Listener
from vaesc.sparse._jit import compiled_without_memory
from vaesc.untrusted import MOST, is_moderate

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_QUERIES = 512
"""Queries of a block: fixed, since the last bits of a product depend on its size."""
_SPARE = 8
"""Candidates beyond those asked for."""


def knn_graph(
    features: NDArray[Any] | csr_array, n_neighbours: int, *, listener: Listener = SILENT
) -> csr_array:
    """Return the graph that joins each sample to its nearest others.

    Args:
        features: Shape (n, D), dense or CSR.
        n_neighbours: Neighbours of each sample, from 1 to n - 1; none is its own.
        listener: Hears of samples done.

    Returns:
        Shape (n, n), float32: Euclidean distances, `n_neighbours` stored entries a row with
        increasing columns; duplicates are stored zeros. It is directed: make it symmetric as the
        purpose needs, such as ``graph.maximum(graph.T)``.

    Raises:
        ValueError: The samples are too few, or not finite.
    """
    indices, distances = nearest(features, features, n_neighbours, own=True, listener=listener)
    order = np.argsort(indices, axis=1)
    n = len(indices)
    return csr_array(
        (
            np.take_along_axis(distances, order, 1).ravel(),
            np.take_along_axis(indices, order, 1).ravel(),
            np.arange(n + 1, dtype=np.int64) * n_neighbours,
        ),
        shape=(n, n),
    )


def nearest(
    queries: NDArray[Any] | csr_array,
    reference: NDArray[Any] | csr_array,
    n_neighbours: int,
    *,
    own: bool = False,
    listener: Listener = SILENT,
) -> tuple[Ints, Floats]:
    """Return the samples of `reference` that are nearest to each query, the nearest first.

    Args:
        queries: Shape (m, D), dense or CSR.
        reference: Shape (n, D), of the same kind.
        n_neighbours: From 1 to n, or to n - 1 if `own`.
        own: Queries and reference are the same samples, and none is its own neighbour.
        listener: Hears of queries done.

    Returns:
        Indices into `reference` and Euclidean distances, both of shape (m, n_neighbours).

    Raises:
        ValueError: The samples are too few, not of the same width, or not finite, or so large
            that float32 holds no squares of them.
    """
    there = reference.shape[0] - own
    if not 1 <= n_neighbours <= there:
        raise ValueError(f"n_neighbours must be between 1 and {there}, got {n_neighbours}")
    if queries.shape[1] != reference.shape[1]:
        raise ValueError(
            f"queries and reference must be as wide, got {queries.shape} and {reference.shape}"
        )
    queries, reference = _checked(queries), _checked(reference)
    near, around = _centred(queries, reference)
    half_norms = _squared_norms(around) / np.float32(2)
    found = np.empty((queries.shape[0], n_neighbours), np.int64)
    distances = np.empty(found.shape, np.float32)
    for rows in _blocks(len(found)):
        candidates = _candidates(
            _products(near[rows], around), half_norms, min(n_neighbours + _SPARE, there),
            rows.start if own else -1,
        )  # fmt: skip
        exact = _distances(queries[rows], reference, candidates)
        order = np.lexsort((candidates, exact), axis=1)[:, :n_neighbours]
        found[rows] = np.take_along_axis(candidates, order, 1)
        distances[rows] = np.take_along_axis(exact, order, 1)
        listener.progress(rows.stop, len(found))
    return found, distances


def vote(labels: Ints, n_classes: int) -> Ints:
    """Return the class that most neighbours have; of several, the nearest one's.

    Args:
        labels: Classes of each sample's neighbours, the nearest first, shape (n, k).
        n_classes: Number of classes.

    Returns:
        Shape (n,).
    """
    n, k = labels.shape
    # All that is added to the votes is less than one vote, and more than all that follows it.
    weights = 1 + 0.5 ** np.arange(1, k + 1)
    votes = np.zeros((n, n_classes))
    np.add.at(votes, (np.arange(n)[:, None], labels), weights)
    return np.asarray(votes.argmax(axis=1), np.int64)


def _checked(samples: Any) -> Any:  # noqa: ANN401
    sparse = hasattr(samples, "indptr")
    # Distances that are not finite are in no order, and the kernel would keep none.
    if not is_moderate(samples.data if sparse else np.asarray(samples)):
        raise ValueError(f"features must be finite and at most {MOST:g}, got others")
    return csr_array(samples, dtype=np.float32) if sparse else np.asarray(samples, np.float32)


def _centred(queries: Any, reference: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return dense samples about the mean of the reference: small norms keep more digits."""
    if hasattr(reference, "indptr"):
        return queries, reference
    mean = reference.mean(axis=0, dtype=np.float64).astype(np.float32)
    return queries - mean, reference - mean


def _squared_norms(samples: Any) -> Floats:  # noqa: ANN401
    if hasattr(samples, "indptr"):
        return np.asarray(samples.power(2).sum(axis=1), np.float32).ravel()
    return np.asarray(np.einsum("nd,nd->n", samples, samples), np.float32)


def _products(block: Any, reference: Any) -> Floats:  # noqa: ANN401
    products = block @ reference.T
    return np.ascontiguousarray(
        products.toarray() if hasattr(products, "indptr") else products, np.float32
    )


def _candidates(products: Floats, half_norms: Floats, n: int, first_own: int) -> Ints:
    indices = np.empty((len(products), n), np.int64)
    _keep_smallest(products, half_norms, first_own, indices, np.empty(indices.shape, np.float32))
    return indices


@compiled_without_memory
def _keep_smallest(
    products: Floats, half_norms: Floats, first_own: int, indices: Ints, scores: Floats
) -> None:
    """Keep the columns of smallest ``half_norms - products`` of each row, in increasing order.

    Args:
        products: Shape (m, n).
        half_norms: Shape (n,).
        first_own: Column that row 0 skips, row 1 the one after it, ...; negative: none.
        indices: Gets the columns, shape (m, k).
        scores: Room, shape (m, k).
    """
    last = indices.shape[1] - 1
    for i in range(products.shape[0]):
        scores[i, :] = np.inf
        skipped = first_own + i if first_own >= 0 else -1
        for j in range(products.shape[1]):
            score = half_norms[j] - products[i, j]
            if score < scores[i, last] and j != skipped:
                at = last
                while at > 0 and scores[i, at - 1] > score:
                    scores[i, at] = scores[i, at - 1]
                    indices[i, at] = indices[i, at - 1]
                    at -= 1
                scores[i, at] = score
                indices[i, at] = j


def _distances(block: Any, reference: Any, candidates: Ints) -> Floats:  # noqa: ANN401
    """Return the distance of each query to each of its candidates, from their differences."""
    if not hasattr(reference, "indptr"):
        exact = np.empty(candidates.shape, np.float32)
        for row, (query, of) in enumerate(zip(block, candidates, strict=True)):
            difference = reference[of] - query
            exact[row] = np.sqrt(np.einsum("kd,kd->k", difference, difference))
        return exact
    exact = np.empty(candidates.shape, np.float32)
    for column, of in enumerate(candidates.T):
        difference = block - reference[of]
        exact[:, column] = np.sqrt(_squared_norms(difference))
    return exact


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _QUERIES, n)) for start in range(0, n, _QUERIES))
