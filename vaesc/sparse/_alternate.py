"""Lasso dictionary learning by alternation, as scikit-learn's DictionaryLearning does it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.sparse._descend import descend
from vaesc.sparse._encode import encode


def alternate(
    model: Any,  # noqa: ANN401 - the estimator, whose parameters are read
    X: NDArray[Any],
    random_state: np.random.RandomState,
) -> tuple[NDArray[Any], NDArray[Any], list[float]]:
    """Code, update every atom, and again, until the objective falls by less than `tol` of it.

    Returns:
        Codes (n, K), dictionary (K, d), and the objective after each round.
    """
    n_atoms = X.shape[1] if model.n_components is None else model.n_components
    codes, dictionary = _start(X, n_atoms, model.dict_init, model.code_init)
    errors: list[float] = []
    for round_ in range(model.max_iter):
        codes = encode(
            X,
            dictionary,
            algorithm="lasso_lars",
            n_nonzero_coefs=None,
            alpha=model.alpha,
            max_iter=model.transform_max_iter,
            n_jobs=model.n_jobs,
            positive=model.positive_code,
        )
        update_atoms(
            dictionary, codes.T @ codes, codes.T @ X, X, random_state, model.positive_dict, codes
        )
        misfit = 0.5 * np.square(X - codes @ dictionary).sum()
        errors.append(float(misfit + model.alpha * np.abs(codes).sum()))
        if round_ > 0 and errors[-2] - errors[-1] < model.tol * errors[-1]:
            break
        if round_ % 5 == 0 and model.callback is not None:
            model.callback(locals())
    return codes, dictionary, errors


def _start(
    X: NDArray[Any],
    n_atoms: int,
    dict_init: Any,  # noqa: ANN401
    code_init: Any,  # noqa: ANN401
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Given start, or the leading singular vectors, as many atoms as asked, zeros if too few."""
    from scipy import linalg
    from sklearn.utils.extmath import svd_flip

    if code_init is not None and dict_init is not None:
        codes, dictionary = np.array(code_init), np.array(dict_init)
    else:
        left, sizes, right = linalg.svd(X, full_matrices=False)
        codes, right = svd_flip(left, right)
        dictionary = sizes[:, None] * right
    missing = max(0, n_atoms - len(dictionary))
    codes = np.pad(codes[:, :n_atoms], ((0, 0), (0, missing)))
    dictionary = np.pad(dictionary[:n_atoms], ((0, missing), (0, 0)))
    return codes, np.ascontiguousarray(dictionary, X.dtype)


def update_atoms(
    dictionary: NDArray[Any],
    gram: NDArray[Any],
    products: NDArray[Any],
    X: NDArray[Any],
    random_state: np.random.RandomState,
    positive: bool,
    codes: NDArray[Any] | None = None,
) -> None:
    """Move every atom once, inside the unit ball; atoms nobody uses become noisy samples.

    Args:
        dictionary: Shape (K, d), C-contiguous, updated in place.
        gram: Z^T Z, shape (K, K).
        products: Z^T X, shape (K, d).
        X: Samples to take new atoms from.
        random_state: Source of randomness.
        positive: Atoms have no negative entry.
        codes: Codes whose columns of replaced atoms are set to zero.
    """
    unused = np.flatnonzero(np.diag(gram) <= 1e-6)
    for atom in unused:
        sample = X[random_state.choice(len(X))]
        noise = random_state.normal(0, 0.01 * (sample.std() or 1), size=len(sample))
        fresh = np.maximum(sample + noise, 0) if positive else sample + noise
        dictionary[atom] = fresh / max(np.linalg.norm(fresh), 1)
        if codes is not None:
            codes[:, atom] = 0
    gram = np.array(gram, dictionary.dtype, order="C")
    gram[unused], gram[:, unused] = 0, 0
    descend(
        dictionary,
        gram,
        np.ascontiguousarray(products, dictionary.dtype),
        in_ball=True,
        positive=positive,
    )
