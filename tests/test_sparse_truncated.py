"""Codes by the lasso's path cut at k atoms, and dictionaries learned with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import lars_path

from vaesc.sparse import lasso_pursuit, learn_dictionary


def problem(n, d, n_atoms, *, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((n_atoms, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return rng.standard_normal((n, d)).astype(dtype), dictionary.astype(dtype)


def their_support(x, dictionary, k):
    """Atoms active in scikit-learn's lasso path just before there would be more than k."""
    knots = lars_path(dictionary.T, x, method="lasso")[2]
    # At a knot itself an atom that joins or leaves is zero; between knots all active ones show.
    between = (knots[:, 1:] + knots[:, :-1]) / 2 != 0
    more = np.flatnonzero(between.sum(axis=0) > k)
    last = more[0] - 1 if more.size else between.shape[1] - 1
    return np.flatnonzero(between[:, last])


@pytest.mark.parametrize("k", [1, 3, 7])
def test_supports_are_those_of_scikit_learns_path(k):
    X, dictionary = problem(60, 16, 40)

    codes = lasso_pursuit(X, dictionary, [k])[k]

    for i in range(60):
        assert codes[[i]].indices.tolist() == their_support(X[i], dictionary, k).tolist()


@given(
    n_atoms=st.integers(1, 25), d=st.integers(1, 12), k=st.integers(1, 25),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_coefficients_are_least_squares(n_atoms, d, k, seed):
    X, dictionary = problem(5, d, n_atoms, seed=seed)
    k = min(k, n_atoms)

    codes = lasso_pursuit(X, dictionary, [k])[k]

    assert codes.has_canonical_format
    assert np.diff(codes.indptr).max() <= min(k, d)
    for x, code in zip(X, codes.toarray(), strict=True):
        used = np.flatnonzero(code)
        fit = np.linalg.lstsq(dictionary[used].T, x, rcond=None)[0] @ dictionary[used]
        np.testing.assert_allclose(code @ dictionary, fit, atol=1e-6)


def test_one_run_gives_every_level_and_threads_change_nothing():
    X, dictionary = problem(300, 12, 30, dtype=np.float32)

    path = lasso_pursuit(X, dictionary, [5, 1, 12], n_threads=2, block_bytes=1 << 14)

    assert list(path) == [5, 1, 12]
    for k, codes in path.items():
        assert codes.dtype == np.float32
        assert (codes != lasso_pursuit(X, dictionary, [k], n_threads=1)[k]).nnz == 0
    np.testing.assert_allclose(path[12] @ dictionary, X, atol=1e-4)


def test_hard_cases_give_finite_codes():
    X, dictionary = problem(6, 8, 12)
    dictionary[1], dictionary[2] = dictionary[0], 0.0
    dictionary[3] = -dictionary[0] + 1e-9 * dictionary[4]
    X[0], X[1], X[2], X[3] = 0.0, 1e300 * X[1], 1e-300 * X[2], dictionary[0]

    codes = lasso_pursuit(X, dictionary, [12])[12]

    assert np.isfinite(codes.data).all()
    assert codes[[0]].nnz == 0
    scale = np.abs(X).max(axis=1, keepdims=True) + (np.arange(6) == 0)[:, None]
    np.testing.assert_allclose((codes @ dictionary) / scale, X / scale, atol=1e-5)
    with pytest.raises(ValueError, match=r"NaN or infinity in rows \[1\]"):
        lasso_pursuit(np.array([[0.0] * 8, [np.nan] * 8]), dictionary, [2])


def test_levels_are_checked():
    X, dictionary = problem(2, 4, 6)
    for bad in ([], [2, 2], [7]):
        with pytest.raises(ValueError, match="sparsity_levels"):
            lasso_pursuit(X, dictionary, bad)


def test_a_planted_dictionary_is_learned_with_lasso_codes():
    rng = np.random.default_rng(1)
    atoms = problem(1, 16, 24, seed=3)[1]
    codes = np.zeros((4000, 24))
    for row in codes:
        row[rng.choice(24, 2, replace=False)] = rng.standard_normal(2) + np.sign(rng.normal()) * 2
    X = (codes @ atoms).astype(np.float32)

    one, two = (
        learn_dictionary(
            X, n_atoms=24, n_nonzero_coefs=2, seed=0, selection="lasso", max_epochs=15,
            n_threads=threads,
        )
        for threads in (1, 2)
    )  # fmt: skip

    np.testing.assert_array_equal(one.dictionary, two.dictionary)
    closest = np.abs(atoms @ one.dictionary.T).max(axis=1)
    assert (closest > 0.97).mean() >= 0.8
    assert one.history[-1]["train_mse"] < 0.1 * X.var()
    with pytest.raises(ValueError, match="'omp', 'ols' or 'lasso'"):
        learn_dictionary(X, n_atoms=4, n_nonzero_coefs=2, seed=0, selection="lars")
