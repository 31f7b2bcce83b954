"""Nearest neighbours: the truth by another library, ties, duplicates, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array
from sklearn.neighbors import NearestNeighbors

from vaesc.applications.neighbours import knn_graph, nearest, vote


def samples(n, d, seed, offset=0.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_distances_are_those_of_scikit_learn(offset):
    x, q = samples(1100, 12, 0, offset), samples(600, 12, 1, offset)
    truth = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(x.astype(np.float64))
    expected, indices = truth.kneighbors(q.astype(np.float64))
    found, distances = nearest(q, x, 7)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    assert (found == indices).mean() > 0.99  # float32 may swap two that are as far


def test_sparse_features_have_the_neighbours_of_dense_ones():
    codes = csr_array(random_array((700, 60), density=0.1, rng=2, dtype=np.float32))
    found, distances = nearest(codes[:300], codes, 5)
    dense, expected = nearest(codes[:300].toarray(), codes.toarray(), 5)
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    assert (found == dense).mean() > 0.99


@given(st.integers(2, 13), st.integers(1, 3), st.integers(0, 99))
def test_ties_go_to_the_earlier_sample(n, d, seed):
    x = np.random.default_rng(seed).integers(0, 2, (n, d)).astype(np.float32)
    k = min(4, n - 1)
    found, _ = nearest(x, x, k, own=True)
    squared = np.square(x[:, None] - x[None]).sum(axis=2) + np.diag(np.full(n, np.inf))
    np.testing.assert_array_equal(found, np.argsort(squared, axis=1, kind="stable")[:, :k])


def test_of_equal_samples_the_first_are_taken():
    x = np.repeat(samples(3, 4, 5), 100, axis=0)
    found, distances = nearest(x[[0, 150, 299]], x, 5)
    np.testing.assert_array_equal(found, np.arange(5) + np.array([[0], [100], [200]]))
    assert not distances.any()


def test_the_graph_has_as_many_neighbours_a_row_and_no_loops():
    x = samples(600, 3, 3)
    x[5] = x[500]
    graph = knn_graph(x, 4)
    assert (np.diff(graph.indptr) == 4).all()
    assert graph.has_sorted_indices
    rows = np.repeat(np.arange(600), 4)
    assert (rows != graph.indices).all()
    assert 500 in graph.indices[rows == 5]
    assert graph[5, 500] == 0


@pytest.mark.parametrize("k", [0, 5])
def test_a_number_of_neighbours_that_there_are_not_is_refused(k):
    with pytest.raises(ValueError, match="between 1 and 4"):
        knn_graph(samples(5, 2, 0), k)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30])
def test_features_that_are_not_finite_or_have_no_square_are_refused(value):
    x = samples(5, 2, 0)
    x[1, 1] = value
    with pytest.raises(ValueError, match="finite"):
        knn_graph(x, 2)


def test_most_votes_win_and_the_nearest_decides_between_equals():
    labels = np.array([[0, 1, 1, 2], [2, 0, 0, 2], [1, 0, 0, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(vote(labels, 3), [1, 2, 1, 0])
    np.testing.assert_array_equal(vote(np.array([[2, 1, 2, 1]]), 3), [2])
