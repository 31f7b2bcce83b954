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
