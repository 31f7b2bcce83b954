"""The amortised coder: near the exact codes, far above its untrained self, and a plain module."""

import numpy as np
import pytest

from vaesc.sparse import orthogonal_matching_pursuit

torch = pytest.importorskip("torch")


def data(n, *, seed=0):
    """Samples of three atoms each."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((48, 24)).astype(np.float32)
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, 48), np.float32)
    for row in codes:
        row[rng.choice(48, 3, replace=False)] = rng.choice((-1, 1), 3) * (1 + rng.random(3))
    return codes @ dictionary, dictionary


def fvu(X, codes, dictionary):
    return float(np.square(X - codes @ dictionary).sum() / np.square(X).sum())


def test_distilled_codes_come_near_the_exact_ones():
    from vaesc.sparse import AmortisedCoder, distil

    X, dictionary = data(4000)
    fresh, _ = data(500, seed=1)
    untrained = fvu(fresh, AmortisedCoder(dictionary, 3).encode(fresh), dictionary)

    coder = distil(X, dictionary, 3, seed=0, max_epochs=15)

    codes = coder.encode(fresh)
    exact = fvu(
        fresh, orthogonal_matching_pursuit(fresh, dictionary, 3, selection="ols"), dictionary
    )
    assert codes.has_canonical_format
    assert np.diff(codes.indptr).max() == 3
    assert fvu(fresh, codes, dictionary) < 0.3 * untrained
    assert fvu(fresh, codes, dictionary) < exact + 0.05


def test_a_saved_coder_is_the_same_coder(tmp_path):
    from safetensors.torch import load_file, save_file

    from vaesc.sparse import AmortisedCoder, distil

    X, dictionary = data(300)
    coder = distil(X, dictionary, 3, seed=0, max_epochs=1)
    save_file(coder.state_dict(), tmp_path / "coder.safetensors")

    other = AmortisedCoder(dictionary, 3)
    other.load_state_dict(load_file(tmp_path / "coder.safetensors"))

    np.testing.assert_array_equal(other.encode(X).toarray(), coder.encode(X).toarray())


def test_zero_samples_have_empty_codes_and_wrong_use_is_told():
    from vaesc.sparse import AmortisedCoder

    _, dictionary = data(1)
    assert AmortisedCoder(dictionary, 3).encode(np.zeros((4, 24), np.float32)).nnz == 0
    with pytest.raises(ValueError, match="n_layers must be 0 or more"):
        AmortisedCoder(dictionary, 3, n_layers=-1)
    with pytest.raises(ValueError, match="same number of columns"):
        AmortisedCoder(dictionary, 3).encode(np.zeros((4, 23), np.float32))


def test_samples_that_are_no_numbers_are_refused():
    from vaesc.sparse import AmortisedCoder

    X, dictionary = data(6)
    X[2, 3], X[4, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"finite, got NaN or infinity in rows \[2, 4\]"):
        AmortisedCoder(dictionary, 3).encode(X)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_codes_scale_with_the_samples(scale):
    from vaesc.sparse import distil

    X, dictionary = data(500)
    coder = distil(X, dictionary, 3, seed=0, max_epochs=3)
    plain = coder.encode(X).toarray()
    scaled = coder.encode(X * np.float32(scale)).toarray()
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-3, atol=1e-5)


def test_wrong_settings_and_weights_get_a_sentence():
    from vaesc.sparse import distil
    from vaesc.sparse.amortised import from_weights

    X, dictionary = data(50)
    for settings in ({"batch_size": 0}, {"max_epochs": -1}):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            distil(X, dictionary, 3, seed=0, **settings)
    with pytest.raises(ValueError, match="at least one sample"):
        distil(X[:0], dictionary, 3, seed=0)
    good = distil(X, dictionary, 3, seed=0, max_epochs=0).weights()
    for name, wrong in (
        ("read", good["read"] * np.nan), ("read", good["read"][:1]), ("thresholds", np.float32(1)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="no weights of an amortised coder"):
            from_weights(dictionary, 3, {**good, name: wrong})
    with pytest.raises(ValueError, match="read must be of shape"):  # and not a matrix of 10^12
        from_weights(np.ones((10**6, 1), np.float32), 3, good)
