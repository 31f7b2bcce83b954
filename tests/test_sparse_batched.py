"""The torch codes: those of the kernels, on the CPU here and on a GPU where there is one."""

import numpy as np
import pytest

from vaesc.sparse import duality_gap, lasso, orthogonal_matching_pursuit

torch = pytest.importorskip("torch")

PRESENT = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
# Only what is there is collected: a skipped test would look like one that should have run.
DEVICES = [
    "cpu",
    *(pytest.param(name, marks=pytest.mark.gpu) for name, there in PRESENT.items() if there),
]


def problem(n, d, n_atoms, *, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((n_atoms, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return rng.standard_normal((n, d)).astype(dtype), dictionary.astype(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("selection", ["omp", "ols"])
def test_codes_are_the_kernels(device, selection):
    from vaesc.sparse import batched_pursuit

    X, dictionary = problem(500, 24, 96)

    codes = batched_pursuit(
        torch.tensor(X, device=device), torch.tensor(dictionary), 6, selection=selection,
        block_bytes=1 << 18,
    )  # fmt: skip

    plain = orthogonal_matching_pursuit(X, dictionary, 6, selection=selection)
    same = (codes.toarray() != 0) == (plain.toarray() != 0)
    rows = same.all(axis=1)
    assert rows.mean() >= 0.99
    assert codes.dtype == np.float32
    assert codes.has_canonical_format
    np.testing.assert_allclose(codes.toarray()[rows], plain.toarray()[rows], atol=1e-4)


@pytest.mark.parametrize("selection", ["omp", "ols"])
def test_float64_codes_are_equal_and_hard_rows_are_handed_over(selection):
    from vaesc.sparse import batched_pursuit

    X, dictionary = problem(60, 6, 20, dtype=np.float64)
    X[0], X[1], X[2] = 0, X[1] * 1e-200, dictionary[3]
    atoms = np.concatenate([dictionary, dictionary, np.zeros((1, 6))])

    codes = batched_pursuit(torch.tensor(X), torch.tensor(atoms), 41, selection=selection)

    plain = orthogonal_matching_pursuit(X, atoms, 41, selection=selection)
    assert codes[[0]].nnz == 0
    assert codes[[2]].nnz == 1
    np.testing.assert_allclose(codes @ atoms, plain @ atoms, atol=1e-9)


def test_wrong_use_is_told():
    from vaesc.sparse import batched_pursuit

    X, dictionary = (torch.tensor(a) for a in problem(3, 8, 20))
    with pytest.raises(ValueError, match="X must have shape"):
        batched_pursuit(X[:, :7], dictionary, 2)
    with pytest.raises(ValueError, match="float32 or float64"):
        batched_pursuit(X.half(), dictionary, 2)
    with pytest.raises(ValueError, match="X must be finite"):
        batched_pursuit(X * torch.nan, dictionary, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("ridge", "positive"), [(0.0, False), (0.0, True), (0.5, False)])
def test_fista_reaches_the_homotopys_objective(device, ridge, positive):
    from vaesc.sparse import fista

    X, dictionary = problem(50, 16, 32)

    codes, gap = fista(
        torch.tensor(X, device=device), torch.tensor(dictionary), 0.3, ridge=ridge,
        positive=positive, max_iter=3000,
    )  # fmt: skip

    from scipy.sparse import csr_array

    best = lasso(X, dictionary, 0.3, ridge=ridge, positive=positive)
    objectives = [
        duality_gap(X, dictionary, c, 0.3, ridge=ridge, positive=positive)[0]
        for c in (csr_array(codes.cpu().numpy()), best)
    ]
    assert float(gap.max()) <= 1e-5
    np.testing.assert_allclose(objectives[0], objectives[1], rtol=2e-5)
