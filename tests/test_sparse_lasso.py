"""Lasso codes: optimality, closed forms, scikit-learn's homotopy, and hard cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import ElasticNet

from vaesc.sparse import duality_gap, lasso, lasso_path
from vaesc.sparse._lasso_coder import LassoCoder


def problem(n, d, n_atoms, *, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((n_atoms, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return rng.standard_normal((n, d)).astype(dtype), dictionary.astype(dtype)


@given(
    d=st.integers(1, 12),
    n_atoms=st.integers(1, 30),
    alpha=st.floats(0.01, 2),
    ridge=st.sampled_from([0.0, 0.1, 3.0]),
    positive=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_codes_are_optimal(d, n_atoms, alpha, ridge, positive, seed):
    X, dictionary = problem(4, d, n_atoms, seed=seed)

    codes = lasso(X, dictionary, alpha, ridge=ridge, positive=positive)

    objective, gap = duality_gap(X, dictionary, codes, alpha, ridge=ridge, positive=positive)
    assert (gap <= 1e-6 * objective).all()
    assert codes.has_canonical_format
    if positive:
        assert (codes.data >= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
def test_objectives_are_scikit_learns_homotopys(dtype, alpha):
    X, dictionary = problem(150, 20, 50, dtype=dtype)
    wide = X.astype(float), dictionary.astype(float)

    codes = lasso(X, dictionary, alpha)

    theirs = sparse_encode(*wide, algorithm="lasso_lars", alpha=alpha, max_iter=5000)
    ours, least = (duality_gap(*wide, c, alpha)[0] for c in (codes, csr_array(theirs)))
    assert codes.dtype == dtype
    assert (ours <= least * (1 + 1e-6)).all()


def test_the_elastic_net_is_scikit_learns():
    X, dictionary = problem(5, 15, 30)
    alpha, ridge = 0.2, 0.5

    codes = lasso(X, dictionary, alpha, ridge=ridge).toarray()

    for x, code in zip(X, codes, strict=True):
        model = ElasticNet(
            alpha=(alpha + ridge) / 15,
            l1_ratio=alpha / (alpha + ridge),
            fit_intercept=False,
            tol=1e-12,
            max_iter=100_000,
        )
        np.testing.assert_allclose(code, model.fit(dictionary.T, x).coef_, atol=1e-6)


def test_an_orthogonal_dictionary_is_soft_thresholding():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    X = rng.standard_normal((30, 12))

    exact = X @ basis.T
    shrunk = np.sign(exact) * np.maximum(np.abs(exact) - 0.4, 0)
    np.testing.assert_allclose(lasso(X, basis, 0.4).toarray(), shrunk, atol=1e-12)
    np.testing.assert_allclose(
        lasso(X, basis, 0.4, positive=True).toarray(), np.maximum(exact - 0.4, 0), atol=1e-12
    )


@pytest.mark.parametrize("positive", [False, True])
def test_a_path_is_each_weight_on_its_own(positive):
    X, dictionary = problem(60, 10, 30)
    alphas = [0.1, 5.0, 0.7, 0.3]

    path = lasso_path(X, dictionary, alphas, positive=positive)

    assert list(path) == alphas
    for alpha, codes in path.items():
        alone = lasso(X, dictionary, alpha, positive=positive)
        np.testing.assert_allclose(codes.toarray(), alone.toarray(), atol=1e-9)


def test_no_code_above_the_largest_correlation():
    X, dictionary = problem(20, 6, 12)
    top = np.abs(X @ dictionary.T).max()

    assert lasso(X, dictionary, top * 1.001).nnz == 0
    assert lasso(X, dictionary, top * 0.999).nnz == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_duplicates_zeros_and_flat_data_are_still_optimal(dtype, positive):
    X, dictionary = problem(50, 8, 12, dtype=dtype)
    X[:, 3:] *= dtype(1e-3)  # nearly singular: the data lives in three dimensions
    X[::9] = 0
    atoms = np.concatenate([dictionary, dictionary, -dictionary, np.zeros((2, 8))]).astype(dtype)

    codes = lasso(X, atoms, 0.01, positive=positive)

    wide = X.astype(float), atoms.astype(float)
    best = lasso(*wide, 0.01, positive=positive)
    objective, _ = duality_gap(*wide, codes, 0.01, positive=positive)
    least, gap = duality_gap(*wide, best, 0.01, positive=positive)
    assert np.isfinite(codes.data).all()
    assert codes[::9].nnz == 0
    assert (gap <= 1e-8 * least).all()
    assert (objective <= least * (1 + 1e-6)).all()


def test_ties_of_an_integer_lattice_do_not_stop_the_homotopy():
    rng = np.random.default_rng(0)
    X = rng.integers(-2, 3, (200, 6)).astype(float)
    atoms = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T.repeat(2, axis=1)

    codes = lasso(X, atoms.astype(float), 0.5)

    objective, gap = duality_gap(X, atoms, codes, 0.5)
    assert (gap <= 1e-6 * np.maximum(objective, 1e-12)).all()


def test_coordinate_descent_agrees_with_the_homotopy():
    X, dictionary = problem(10, 8, 20)
    alphas = np.array([0.8, 0.2])
    coder = LassoCoder(dictionary, alphas, 0.0, False)

    for x, code in zip(X, lasso(X, dictionary, 0.2).toarray(), strict=True):
        atoms, values, counts = coder._descend(x[None], alphas, 20)
        other = np.zeros(20)
        other[atoms[0, 1, : counts[0, 1]]] = values[0, 1, : counts[0, 1]]
        np.testing.assert_allclose(other, code, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e100])
def test_codes_scale_with_samples_and_weight(scale):
    X, dictionary = problem(20, 8, 24)
    plain = lasso(X, dictionary, 0.3)

    scaled = lasso(X * scale, dictionary, 0.3 * scale)

    np.testing.assert_array_equal(scaled.indices, plain.indices)
    np.testing.assert_allclose(scaled.data / scale, plain.data, rtol=1e-8)


def test_threads_do_not_change_the_codes():
    X, dictionary = problem(3000, 16, 64, dtype=np.float32)

    one, two = (lasso(X, dictionary, 0.2, n_threads=n) for n in (1, 2))

    assert one.data.tobytes() == two.data.tobytes()
    assert one.indices.tobytes() == two.indices.tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": np.nan}, "alpha must be positive"),
        ({"ridge": -1.0}, "ridge must be 0 or positive"),
        ({"X": np.full((3, 8), np.nan)}, "X must be finite"),
        ({"X": np.ones((3, 9))}, "same number of columns"),
    ],
)
def test_wrong_use_is_told(change, words):
    X, dictionary = problem(3, 8, 24)
    arguments = {"X": X, "dictionary": dictionary, "alpha": 0.1, **change}

    with pytest.raises(ValueError, match=words):
        lasso(**arguments)


def test_the_homotopy_needs_no_help_far_down_the_path():
    """Atoms that left come back at the other bound; once that was missed, and descent hid it."""
    for seed in range(30):
        X, dictionary = problem(20, 6, 9, seed=seed)
        coder = LassoCoder(dictionary, [1e-4], 0.0, False)

        _, status = coder._run(X, np.array([1e-4]), 9)

        assert not status.any()


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e200])
@pytest.mark.parametrize("positive", [False, True])
def test_codes_scale_with_the_dictionary(scale, positive):
    rng = np.random.default_rng(0)
    dictionary, X = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    plain = lasso(X, dictionary, 0.1, positive=positive)

    codes = lasso(X, dictionary * scale, 0.1 * scale, positive=positive)

    np.testing.assert_allclose(codes.toarray() * scale, plain.toarray(), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(6))
def test_nearly_equal_atoms_reach_scikit_learns_objective(seed):
    rng = np.random.default_rng(seed)
    dictionary, eps = rng.standard_normal((59, 10)), 10.0 ** rng.uniform(-7, -4)
    dictionary[29:58] = dictionary[:29] + eps * rng.standard_normal((29, 10))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    X = rng.standard_normal((15, 10))
    theirs = sparse_encode(X, dictionary, algorithm="lasso_lars", alpha=0.01, max_iter=10_000)

    mine, best = (
        duality_gap(X, dictionary, csr_array(codes), 0.01)[0]
        for codes in (lasso(X, dictionary, 0.01), theirs)
    )

    assert (mine <= best * (1 + 1e-6)).all()


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1])
def test_float32_codes_are_optimal_down_to_small_weights(alpha):
    rng = np.random.default_rng(0)
    dictionary, X = rng.standard_normal((128, 32)), rng.standard_normal((1000, 32))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    small = X.astype(np.float32), dictionary.astype(np.float32)
    wide = tuple(part.astype(float) for part in small)

    mine, best = (duality_gap(*wide, lasso(*given, alpha), alpha)[0] for given in (small, wide))

    assert (mine <= best * (1 + 1e-6)).all()
