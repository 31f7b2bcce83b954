"""Greedy codes: truth in closed form, optimality on the support, and other implementations."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.linear_model import orthogonal_mp_gram

from vaesc.sparse import orthogonal_matching_pursuit, pursuit_path, reconstruct
from vaesc.sparse._blocks import BlockRunner

RULES = ("omp", "ols")


def problem(n, d, n_atoms, *, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((n_atoms, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return rng.standard_normal((n, d)).astype(dtype), dictionary.astype(dtype)


def slow_greedy(x, dictionary, k, selection):
    """Textbook pursuit: least squares from scratch for each candidate or residual."""
    support = []
    for _ in range(k):
        residual = x.copy()
        if support:
            atoms = dictionary[support].T
            residual = x - atoms @ np.linalg.lstsq(atoms, x, rcond=None)[0]
        gains = np.full(len(dictionary), -1.0)
        for j in set(range(len(dictionary))) - set(support):
            if selection == "omp":
                gains[j] = abs(dictionary[j] @ residual)
            else:
                atoms = dictionary[[*support, j]].T
                left = x - atoms @ np.linalg.lstsq(atoms, x, rcond=None)[0]
                gains[j] = residual @ residual - left @ left
        support.append(int(gains.argmax()))
    code = np.zeros(len(dictionary))
    code[support] = np.linalg.lstsq(dictionary[support].T, x, rcond=None)[0]
    return code


def assert_sound(codes, n, n_atoms, k):
    assert isinstance(codes, csr_array)
    assert codes.shape == (n, n_atoms)
    assert np.isfinite(codes.data).all()
    assert np.diff(codes.indptr).max(initial=0) <= k
    codes.check_format(full_check=True)
    assert codes.has_canonical_format


@pytest.mark.parametrize("selection", RULES)
@given(
    d=st.integers(2, 12),
    n_atoms=st.integers(2, 24),
    k=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_codes_are_the_textbook_pursuit(selection, d, n_atoms, k, seed):
    k = min(k, d - 1, n_atoms)  # at k = d any atom finishes the job: a tie
    X, dictionary = problem(3, d, n_atoms, seed=seed)

    codes = orthogonal_matching_pursuit(X, dictionary, k, selection=selection)

    expected = np.array([slow_greedy(x, dictionary, k, selection) for x in X])
    np.testing.assert_allclose(codes.toarray(), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_omp_agrees_with_scikit_learn(dtype):
    X, dictionary = problem(400, 32, 128, dtype=dtype)

    codes = orthogonal_matching_pursuit(X, dictionary, 8)

    wide = dictionary.astype(np.float64)
    expected = orthogonal_mp_gram(
        wide @ wide.T, wide @ X.T.astype(np.float64), n_nonzero_coefs=8
    ).T
    assert codes.dtype == dtype
    same = [np.array_equal(codes[[i]].indices, np.flatnonzero(expected[i])) for i in range(400)]
    assert np.mean(same) >= 0.999
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(codes.toarray()[same], expected[same], atol=tolerance)


@pytest.mark.parametrize("selection", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coefficients_are_least_squares_on_their_support(selection, dtype):
    X, dictionary = problem(200, 20, 60, dtype=dtype)

    codes = orthogonal_matching_pursuit(X, dictionary, 7, selection=selection)

    residual = X - reconstruct(codes, dictionary)
    on_support = (residual @ dictionary.T)[codes.toarray() != 0]
    assert np.abs(on_support).max() < (1e-12 if dtype == np.float64 else 1e-4)


def test_ols_is_never_worse_than_omp_on_average():
    X, dictionary = problem(500, 24, 96)

    for k in (1, 2, 4, 8, 16):
        omp, ols = (
            np.square(X - orthogonal_matching_pursuit(X, dictionary, k, selection=s) @ dictionary)
            for s in RULES
        )
        assert ols.mean() <= omp.mean() * (1 + 1e-12)


@pytest.mark.parametrize("selection", RULES)
def test_an_orthogonal_dictionary_keeps_the_largest_coordinates(selection):
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    X = rng.standard_normal((50, 16))

    codes = orthogonal_matching_pursuit(X, basis, 5, selection=selection).toarray()

    exact = X @ basis.T
    smallest_kept = -np.sort(-np.abs(exact), axis=1)[:, 4:5]
    np.testing.assert_allclose(codes, np.where(np.abs(exact) >= smallest_kept, exact, 0))


@pytest.mark.parametrize("selection", RULES)
def test_a_path_is_each_level_on_its_own(selection):
    X, dictionary = problem(150, 20, 64, dtype=np.float32)

    path = pursuit_path(X, dictionary, [8, 1, 3], selection=selection)

    assert list(path) == [8, 1, 3]
    for k, codes in path.items():
        alone = orthogonal_matching_pursuit(X, dictionary, k, selection=selection)
        assert_sound(codes, 150, 64, k)
        np.testing.assert_array_equal(codes.indices, alone.indices)
        np.testing.assert_allclose(codes.data, alone.data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("selection", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_zeros_and_more_atoms_than_rank_do_no_harm(selection, dtype):
    X, dictionary = problem(60, 5, 12, dtype=dtype)
    atoms = np.concatenate([dictionary, dictionary, dictionary * (1 + 1e-7), np.zeros((3, 5))])
    X[::7] = 0

    codes = orthogonal_matching_pursuit(X, atoms.astype(dtype), len(atoms), selection=selection)

    assert_sound(codes, 60, len(atoms), 5)
    assert codes[:, [36, 37, 38]].nnz == 0
    assert codes[::7].nnz == 0
    error = np.abs(X - reconstruct(codes, atoms)).max()
    assert error < (1e-9 if dtype == np.float64 else 1e-3)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1e30, 1e150])
@pytest.mark.parametrize("selection", RULES)
def test_codes_scale_with_the_samples(selection, scale):
    X, dictionary = problem(40, 8, 24)
    plain = orthogonal_matching_pursuit(X, dictionary, 4, selection=selection)

    scaled = orthogonal_matching_pursuit(X * scale, dictionary, 4, selection=selection)

    np.testing.assert_array_equal(scaled.indices, plain.indices)
    np.testing.assert_allclose(scaled.data / scale, plain.data, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-25, 1e25, 3e37])
def test_float32_extremes_give_finite_codes(scale):
    X, dictionary = problem(40, 8, 24, dtype=np.float32)
    small = (X * np.float32(scale)).astype(np.float32)
    small[0] = 0

    codes = orthogonal_matching_pursuit(small, dictionary, 4, selection="ols")

    assert_sound(codes, 40, 24, 4)
    if scale > 1e-40:
        wide = orthogonal_matching_pursuit(
            small.astype(float), dictionary.astype(float), 4, selection="ols"
        )
        np.testing.assert_array_equal(codes.indices, wide.indices)
        np.testing.assert_allclose(codes.data, wide.data, rtol=1e-3)


def test_nearly_dependent_atoms_in_float32_match_float64():
    X, dictionary = problem(300, 16, 40, dtype=np.float32)
    rng = np.random.default_rng(1)
    close = dictionary + np.float32(3e-3) * rng.standard_normal(dictionary.shape)
    atoms = np.concatenate([dictionary, close]).astype(np.float32)

    for selection in RULES:
        codes = orthogonal_matching_pursuit(X, atoms, 10, selection=selection)
        wide = orthogonal_matching_pursuit(
            X.astype(float), atoms.astype(float), 10, selection=selection
        )

        errors = [np.square(X - c @ atoms.astype(float)).sum(axis=1) for c in (codes, wide)]
        assert np.isfinite(codes.data).all()
        assert errors[0].mean() == pytest.approx(errors[1].mean(), rel=1e-4)


def test_the_residual_rule_stops_at_the_first_step_below_it():
    X, dictionary = problem(100, 16, 64)

    codes = orthogonal_matching_pursuit(X, dictionary, None, tol=2.0)

    residual = np.square(X - codes @ dictionary).sum(axis=1)
    assert (residual <= 2.0 + 1e-9).all()
    counts = np.diff(codes.indptr)
    path = pursuit_path(X, dictionary, range(1, 17))
    for i in np.flatnonzero(counts > 1):
        before = X[i] - (path[counts[i] - 1][[i]] @ dictionary)[0]
        assert before @ before > 2.0


def test_threads_and_block_sizes_do_not_change_the_codes():
    X, dictionary = problem(5000, 16, 64, dtype=np.float32)
    one = orthogonal_matching_pursuit(X, dictionary, 5, n_threads=1)

    for options in ({"n_threads": 2}, {"n_threads": 3}):
        other = orthogonal_matching_pursuit(X, dictionary, 5, **options)
        assert other.data.tobytes() == one.data.tobytes()
        assert other.indices.tobytes() == one.indices.tobytes()
    small = orthogonal_matching_pursuit(X, dictionary, 5, block_bytes=1)
    np.testing.assert_allclose(small.toarray(), one.toarray(), atol=1e-4)


def test_images_of_bytes_are_coded_in_float32():
    images = np.random.default_rng(0).integers(0, 256, (30, 12), np.uint8)
    dictionary = problem(1, 12, 24)[1]

    codes = orthogonal_matching_pursuit(images, dictionary, 3)

    assert codes.dtype == np.float32
    np.testing.assert_allclose(
        codes.toarray(),
        orthogonal_matching_pursuit(images.astype(float), dictionary, 3).toarray(),
        atol=1e-3,
    )


def test_no_samples_give_no_codes():
    assert orthogonal_matching_pursuit(np.zeros((0, 4)), np.eye(4), 2).shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_nonzero_coefs": 0}, "n_nonzero_coefs must be a whole number from 1 to"),
        ({"n_nonzero_coefs": 25}, "got 25"),
        ({"selection": "lars"}, "selection must be 'omp' or 'ols', got 'lars'"),
        ({"tol": -1.0}, "tol must not be negative"),
        ({"n_threads": 0}, "n_threads must be at least 1"),
        ({"block_bytes": 0}, "block_bytes must be positive"),
        ({"X": np.ones((3, 7))}, "same number of columns"),
        ({"X": np.full((3, 8), np.nan)}, r"NaN or infinity in rows \[0, 1, 2\]"),
        ({"X": np.full((3, 8), np.inf)}, "X must be finite"),
        ({"X": np.ones(8)}, "X must have shape"),
        ({"X": np.ones((3, 8), complex)}, "real numbers"),
        ({"dictionary": np.full((24, 8), np.inf)}, "dictionary must be finite"),
        ({"dictionary": np.zeros((0, 8))}, "not be empty"),
    ],
)
def test_wrong_use_is_told(change, words):
    X, dictionary = problem(3, 8, 24)
    arguments = {"X": X, "dictionary": dictionary, "n_nonzero_coefs": 2, **change}

    with pytest.raises(ValueError, match=words):
        orthogonal_matching_pursuit(**arguments)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, vaesc.sparse; from vaesc.sparse import orthogonal_matching_pursuit; "
        "print([m for m in ('torch', 'numba', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_place_without_any_cache_directory_still_compiles(monkeypatch, caplog):
    caching = pytest.importorskip("numba.core.caching")
    from vaesc.sparse._jit import compiled

    implementation = getattr(caching, "CacheImpl", None) or caching._CacheImpl
    monkeypatch.setattr(implementation, "_locator_classes", [])

    kernel = compiled(lambda x: x + 1)

    assert kernel(1) == 2
    assert "not cached on disk" in caplog.text


@pytest.mark.parametrize("selection", RULES)
def test_integer_products_give_the_codes_of_floats(selection):
    rng = np.random.default_rng(0)
    images = (255 * rng.random((500, 100)) ** 4).astype(np.uint8)
    images[7] = 0
    dictionary = problem(1, 100, 64)[1].astype(np.float32)
    plain = orthogonal_matching_pursuit(images, dictionary, 6, selection=selection)

    for digits, same, relative in ((2, 0.97, 2e-4), (3, 0.995, 1e-6)):
        codes = orthogonal_matching_pursuit(
            images, dictionary, 6, selection=selection, byte_digits=digits
        )
        rows = (codes.toarray() != 0) == (plain.toarray() != 0)
        errors = [np.square(images - c @ dictionary).mean() for c in (codes, plain)]
        assert rows.all(axis=1).mean() >= same
        assert errors[0] == pytest.approx(errors[1], rel=relative)
        assert codes[[7]].nnz == 0


def test_wrong_byte_digits_are_told():
    with pytest.raises(ValueError, match="byte_digits must be 2 or 3"):
        orthogonal_matching_pursuit(np.ones((40, 8), np.uint8), np.eye(8), 2, byte_digits=4)


@pytest.mark.parametrize("selection", RULES)
def test_atoms_a_hair_apart_are_told_apart_in_float32(selection):
    dictionary = np.array([[1, 0, 0], [1, 5e-4, 0]], np.float32)
    X = np.array([[1, 0.5, 0]], np.float32)

    codes = orthogonal_matching_pursuit(X, dictionary, 2, selection=selection)

    np.testing.assert_allclose(codes.toarray(), [[-999, 1000]], rtol=1e-3)


def test_an_atom_given_twice_is_used_once():
    X, dictionary = problem(60, 12, 20, dtype=np.float32)
    twice = np.concatenate([dictionary, dictionary])

    for selection in RULES:
        once = orthogonal_matching_pursuit(X, dictionary, 6, selection=selection)
        codes = orthogonal_matching_pursuit(X, twice, 6, selection=selection)
        # Which of the two is a matter of the product's last bit, and so of the processor.
        first, second = codes[:, :20], codes[:, 20:]
        assert first.multiply(second).nnz == 0
        assert ((first + second != 0) != (once != 0)).nnz == 0
        np.testing.assert_allclose((first + second).toarray(), once.toarray(), atol=1e-5)


@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_residuals_are_reached_in_both_precisions(tol, dtype):
    X, dictionary = problem(200, 32, 64, dtype=dtype)

    codes = orthogonal_matching_pursuit(X, dictionary, None, tol=tol)

    # Coefficients rounded to float32 move the residual by their last digit.
    slack = 64 * np.square(np.finfo(dtype).eps * np.linalg.norm(X, axis=1) * 8)
    residual = np.square(X - codes.astype(float) @ dictionary.astype(float)).sum(axis=1)
    assert (residual <= 1.01 * tol + slack).all()


def test_codes_beyond_the_range_of_their_type_are_refused():
    X = np.stack([np.ones(3), np.full(3, 1e30)]).astype(np.float32)
    with pytest.raises(ValueError, match=r"codes of rows \[1\] exceed the range of float32"):
        orthogonal_matching_pursuit(X, np.eye(3, dtype=np.float32) * np.float32(1e-12), 2)


def test_bytes_refuse_more_columns_than_32_bits_can_sum():
    X, dictionary = np.zeros((2, 140_000), np.uint8), np.ones((2, 140_000), np.float32)
    with pytest.raises(ValueError, match="enough for 132104 columns, got 140000"):
        orthogonal_matching_pursuit(X, dictionary, 1, byte_digits=2)


def test_an_interruption_begins_no_further_block():
    done, begun = [], threading.Event()

    def work(start, stop):
        done.append(start)
        begun.set()
        time.sleep(0.02)

    def interrupt():
        if begun.wait(60):  # not before an interruption is expected: it would end all tests
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), BlockRunner(2) as runner:
        runner.run(work, 1000, 1)
    assert len(done) < 200


def test_of_several_bad_blocks_the_first_is_named():
    def work(start, stop):
        time.sleep(0.002 if start else 0.02)
        raise ValueError(f"block {start}")

    for _ in range(5):
        with pytest.raises(ValueError, match="block 0"), BlockRunner(3) as runner:
            runner.run(work, 30, 1)
