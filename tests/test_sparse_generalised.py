"""Pursuit in other metrics and under constraints: reductions to known cases, and optimality."""

import numpy as np
import pytest
from scipy.optimize import nnls

from vaesc.sparse import (
    group_pursuit,
    metric_pursuit,
    nonnegative_pursuit,
    orthogonal_matching_pursuit,
)


def problem(n, d, n_atoms, *, seed=0):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((n_atoms, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return rng.standard_normal((n, d)), dictionary


@pytest.mark.parametrize("selection", ["omp", "ols"])
def test_the_plain_metric_is_plain_pursuit(selection):
    X, dictionary = problem(40, 10, 25)
    plain = orthogonal_matching_pursuit(X, dictionary, 4, selection=selection).toarray()

    for metric in (np.ones(10), np.ones((40, 10)), np.tile(np.eye(10), (40, 1, 1))):
        codes = metric_pursuit(X, dictionary, 4, metric, selection=selection)
        np.testing.assert_allclose(codes.toarray(), plain, atol=1e-9)


@pytest.mark.parametrize("selection", ["omp", "ols"])
def test_a_metric_is_pursuit_after_a_change_of_coordinates(selection):
    X, dictionary = problem(30, 8, 20)
    factors = np.random.default_rng(1).standard_normal((30, 12, 8))
    metrics = np.einsum("nij,nik->njk", factors, factors)

    codes = metric_pursuit(X, dictionary, 3, metrics, selection=selection).toarray()

    for x, factor, code in zip(X, factors, codes, strict=True):
        atoms = dictionary @ factor.T
        lengths = np.linalg.norm(atoms, axis=1)
        there = orthogonal_matching_pursuit(
            (factor @ x)[None], atoms / lengths[:, None], 3, selection=selection
        )
        np.testing.assert_allclose(code, there.toarray()[0] / lengths, atol=1e-8)


def test_diagonal_matrices_are_weights_per_sample():
    X, dictionary = problem(30, 8, 20)
    weights = np.random.default_rng(1).random((30, 8)) * 10
    matrices = np.einsum("ni,ij->nij", weights, np.eye(8))

    by_weights, by_matrices = (
        metric_pursuit(X, dictionary, 3, metric).toarray() for metric in (weights, matrices)
    )

    np.testing.assert_allclose(by_weights, by_matrices, atol=1e-9)


def test_dimensions_without_weight_do_not_matter():
    X, dictionary = problem(20, 8, 20)
    weights = np.array([1.0] * 5 + [0.0] * 3)
    other = X.copy()
    other[:, 5:] += 100

    one, two = (metric_pursuit(x, dictionary, 5, weights).toarray() for x in (X, other))

    np.testing.assert_allclose(one, two, atol=1e-9)
    np.testing.assert_allclose((one @ dictionary)[:, :5], X[:, :5], atol=1e-6)


def test_the_metric_is_what_gets_smaller():
    X, dictionary = problem(300, 12, 40)
    weights = np.random.default_rng(0).gamma(0.3, size=(300, 12))

    plain = X - orthogonal_matching_pursuit(X, dictionary, 4, selection="ols") @ dictionary
    aware = X - metric_pursuit(X, dictionary, 4, weights) @ dictionary

    assert (weights * aware**2).sum() < 0.7 * (weights * plain**2).sum()


def test_nonnegative_codes_are_nonnegative_least_squares():
    X, dictionary = problem(200, 15, 40)

    codes = nonnegative_pursuit(X, dictionary, 5)

    dense = codes.toarray()
    assert (dense >= 0).all()
    assert (dense > 0).sum(axis=1).max() <= 5
    for x, code in zip(X, dense, strict=True):
        support = np.flatnonzero(code)
        np.testing.assert_allclose(nnls(dictionary[support].T, x)[0], code[support], atol=1e-9)


def test_nonnegative_pursuit_finds_nonnegative_codes():
    _, dictionary = problem(1, 30, 40)
    rng = np.random.default_rng(0)
    truth = np.zeros((100, 40))
    for row in truth:
        row[rng.choice(40, 3, replace=False)] = 1 + rng.random(3)

    codes = nonnegative_pursuit(truth @ dictionary, dictionary, 6)

    assert (np.abs(codes.toarray() - truth).max(axis=1) < 1e-8).mean() > 0.95


def test_without_negative_parts_nonnegative_pursuit_is_omp():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    X = np.abs(rng.standard_normal((30, 12))) @ basis

    np.testing.assert_allclose(
        nonnegative_pursuit(X, basis, 4).toarray(),
        orthogonal_matching_pursuit(X, basis, 4).toarray(),
        atol=1e-10,
    )


def test_groups_of_one_atom_are_omp():
    X, dictionary = problem(50, 10, 30)

    codes = group_pursuit(X, dictionary, np.arange(30), 4)

    plain = orthogonal_matching_pursuit(X, dictionary, 4)
    np.testing.assert_allclose(codes.toarray(), plain.toarray(), atol=1e-9)


def test_groups_are_taken_whole_and_found():
    _, dictionary = problem(1, 40, 60)
    groups = np.repeat(np.arange(20), 3)[np.random.default_rng(0).permutation(60)]
    rng = np.random.default_rng(1)
    truth = np.zeros((50, 60))
    for row in truth:
        used = np.isin(groups, rng.choice(20, 2, replace=False))
        row[used] = rng.standard_normal(used.sum()) + 2

    codes = group_pursuit(truth @ dictionary, dictionary, groups, 2).toarray()

    assert all(np.unique(groups[row != 0]).size <= 2 for row in codes)
    assert (np.abs(codes - truth).max(axis=1) < 1e-8).mean() > 0.9


def test_duplicates_and_zeros_do_no_harm():
    X, dictionary = problem(20, 6, 10)
    X[3] = 0
    atoms = np.concatenate([dictionary, dictionary, np.zeros((2, 6))])
    groups = np.arange(22) % 7

    for codes in (
        metric_pursuit(X, atoms, 22, np.ones(6)),
        nonnegative_pursuit(X, atoms, 22),
        group_pursuit(X, atoms, groups, 7),
    ):
        assert np.isfinite(codes.data).all()
        assert codes[[3]].nnz == 0
        assert codes[:, [20, 21]].nnz == 0


def test_float32_and_threads_are_respected():
    X, dictionary = problem(3000, 8, 20)
    X = X.astype(np.float32)
    weights = np.ones(8)

    one, two = (metric_pursuit(X, dictionary, 3, weights, n_threads=n) for n in (1, 2))

    assert one.dtype == np.float32
    assert one.data.tobytes() == two.data.tobytes()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (np.ones(7), "metric must have shape"),
        (-np.ones(8), "no negative weight"),
        (np.full(8, np.nan), "metric must be finite"),
    ],
)
def test_a_wrong_metric_is_told(metric, words):
    X, dictionary = problem(3, 8, 20)
    with pytest.raises(ValueError, match=words):
        metric_pursuit(X, dictionary, 3, metric)


def test_wrong_groups_are_told():
    X, dictionary = problem(3, 8, 20)
    with pytest.raises(ValueError, match="one label per atom"):
        group_pursuit(X, dictionary, np.arange(19), 2)
    with pytest.raises(ValueError, match="n_groups must be a whole number from 1 to"):
        group_pursuit(X, dictionary, np.arange(20) // 10, 3)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e200])
def test_codes_scale_with_the_dictionary(scale):
    rng = np.random.default_rng(0)
    dictionary, X = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    for code in (
        lambda D: nonnegative_pursuit(X, D, 2),
        lambda D: group_pursuit(X, D, [0, 0, 1, 1, 2, 2], 1),
        lambda D: metric_pursuit(X, D, 2, np.ones(4)),
    ):
        plain, scaled = code(dictionary).toarray(), code(dictionary * scale).toarray()
        np.testing.assert_allclose(scaled * scale, plain, rtol=1e-9)


def test_the_size_of_a_metric_changes_nothing():
    rng = np.random.default_rng(0)
    dictionary, X = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    weights = rng.uniform(0.1, 1, (5, 4))
    plain = metric_pursuit(X, dictionary, 2, weights)
    for size in (1e-310, 1e-200, 1e300):
        codes = metric_pursuit(X, dictionary, 2, weights * size)
        np.testing.assert_allclose(codes.toarray(), plain.toarray(), rtol=1e-6)


def test_what_is_no_metric_is_refused():
    rng = np.random.default_rng(0)
    dictionary, X = rng.standard_normal((6, 4)), rng.standard_normal((3, 4))
    good, bad = np.eye(4), np.diag([1.0, 1, 1, -1])
    for metric in (np.stack([good, good, bad]), np.stack([good, good, np.triu(np.ones((4, 4)))])):
        with pytest.raises(ValueError, match=r"positive semidefinite.*rows \[2\]"):
            metric_pursuit(X, dictionary, 2, metric)
