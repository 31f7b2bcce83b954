import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vaesc.metrics import (
    active_units,
    dead_fraction,
    explained_variance,
    fvu,
    l0,
    mse,
    mutual_coherence,
    psnr_db,
)

pixels = arrays(np.float64, (5, 3, 2), elements=st.floats(0, 1))


@given(pixels, pixels)
def test_mse_is_symmetric_and_zero_only_for_equals(a, b):
    assert mse(a, b) == mse(b, a) == pytest.approx(sum((a - b).ravel() ** 2) / a.size)
    assert mse(a, a) == 0


def test_mse_keeps_digits_that_single_precision_would_lose():
    """Two constant images 0.1 apart, ten million pixels: the float32 sum is off in digit four."""
    a = np.full((1, 10_000_000), 0.1, np.float32)
    assert mse(a, np.zeros_like(a)) == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-9)


def test_bytes_do_not_wrap_around():
    assert mse(np.array([[0]], np.uint8), np.array([[255]], np.uint8)) == 255**2


def test_psnr_of_a_tenth_is_twenty_decibels():
    assert psnr_db(np.full((2, 3), 0.6), np.full((2, 3), 0.5)) == pytest.approx(20)
    assert psnr_db(np.ones((2, 3)), np.ones((2, 3))) == np.inf


def test_fvu_is_one_for_the_mean_and_zero_for_the_truth():
    z = np.random.default_rng(0).normal(3.0, 2.0, (100, 4))
    assert fvu(z, z) == 0
    assert fvu(z, np.broadcast_to(z.mean(0), z.shape)) == pytest.approx(1, rel=1e-12)
    assert explained_variance(z, z) == 1


def test_fvu_is_a_ratio_of_sums_not_a_mean_of_ratios():
    """A long row reconstructed exactly and a short one lost: sums 2/202, mean of ratios 1/2."""
    z = np.array([[10.0], [-10.0], [1.0], [-1.0]])
    z_hat = np.array([[10.0], [-10.0], [0.0], [0.0]])
    assert fvu(z, z_hat) == pytest.approx(2 / 202)


@given(shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_fvu_knows_neither_origin_nor_unit(shift, scale):
    rng = np.random.default_rng(1)
    z, z_hat = rng.normal(size=(2, 50, 3))
    moved = fvu(shift + scale * z, shift + scale * z_hat)
    assert moved == pytest.approx(fvu(z, z_hat), rel=1e-6)


def test_fvu_agrees_with_scikit_learns_variance_weighted_r2():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(2)
    z = rng.normal(size=(200, 6)) * np.arange(1, 7)
    z_hat = z + rng.normal(size=z.shape)
    expected = r2_score(z, z_hat, multioutput="variance_weighted")
    assert explained_variance(z, z_hat) == pytest.approx(expected, rel=1e-12)


@given(arrays(np.float32, (6, 8), elements=st.sampled_from([0.0, 1.0, -2.0])))
def test_sparse_and_dense_codes_score_alike(codes):
    csr = scipy.sparse.csr_array(codes)
    assert l0(csr) == l0(codes) == pytest.approx(np.mean(np.sum(codes != 0, axis=1)))
    assert dead_fraction(csr) == dead_fraction(codes) == np.mean(~np.any(codes, axis=0))


def test_a_stored_zero_is_no_use_of_an_atom():
    codes = scipy.sparse.csr_array(
        (np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 4)
    )
    assert l0(codes) == 1
    assert dead_fraction(codes) == 0.75


@pytest.mark.parametrize("n_atoms", [3, 5, 9])
def test_coherence_of_regular_polygons(n_atoms):
    """Lines at equal angles in the plane: neighbours are pi / K apart."""
    angles = np.arange(n_atoms) * np.pi / n_atoms
    polygon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert mutual_coherence(polygon) == pytest.approx(np.cos(np.pi / n_atoms), rel=1e-12)


def test_coherence_of_the_simplex_meets_the_welch_bound():
    """d + 1 equiangular unit vectors in d dimensions attain sqrt((K-d) / (d (K-1))) = 1/d."""
    for d in (2, 5, 20):
        centred = np.eye(d + 1) - 1 / (d + 1)
        simplex = centred @ np.linalg.svd(centred)[2][:d].T
        assert mutual_coherence(simplex) == pytest.approx(1 / d, rel=1e-9)


@given(st.integers(2, 6), st.integers(7, 20), st.integers(0, 2**32 - 1))
def test_no_dictionary_goes_below_the_welch_bound(d, k, seed):
    atoms = np.random.default_rng(seed).normal(size=(k, d))
    assert np.sqrt((k - d) / (d * (k - 1))) <= mutual_coherence(atoms) <= 1


def test_coherence_ignores_length_and_sign():
    atoms = np.random.default_rng(3).normal(size=(7, 4))
    changed = atoms * np.array([1, -2, 0.5, 1e-3, -1e3, 7, 1])[:, None]
    assert mutual_coherence(changed) == pytest.approx(mutual_coherence(atoms), rel=1e-12)
    assert mutual_coherence(np.eye(4)) == 0


def test_active_units_are_those_that_vary_by_more_than_a_hundredth():
    base = np.array([-1.0, 1.0] * 50)
    z = 5 + base[:, None] * np.array([1.0, 0.11, 0.1 - 1e-9, 0.0])
    assert active_units(z) == 2


@pytest.mark.parametrize(
    ("score", "arguments"),
    [
        (mse, (np.ones((2, 3)), np.ones((3, 2)))),
        (psnr_db, (np.empty((0, 3)), np.empty((0, 3)))),
        (fvu, (np.ones((4, 2)), np.zeros((4, 2)))),
        (l0, (np.empty((0, 5)),)),
        (dead_fraction, (np.ones(5),)),
        (mutual_coherence, (np.ones((1, 3)),)),
        (mutual_coherence, (np.array([[1.0, 0], [0, 0]]),)),
        (active_units, (np.empty((0, 3)),)),
    ],
)
def test_undefined_scores_are_refused_by_name(score, arguments):
    name = "mse" if score is psnr_db else score.__name__
    with pytest.raises(ValueError, match=f"{name} .*got"):
        score(*arguments)
