"""Dense codes by scikit-learn's names, for the estimators."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.sparse.l1 import lasso
from vaesc.sparse.pursuit import orthogonal_matching_pursuit

GREEDY = ("omp", "ols")
EXACT_L1 = ("lasso_lars", "lasso_cd")


def encode(
    X: NDArray[Any],
    dictionary: NDArray[Any],
    *,
    algorithm: str,
    n_nonzero_coefs: int | None,
    alpha: float | None,
    max_iter: int,
    n_jobs: int | None,
    positive: bool,
) -> NDArray[Any]:
    """Code samples as ``sklearn.decomposition.sparse_encode`` does, with the same defaults.

    Greedy and lasso codes are ours; for ``"lars"`` and ``"threshold"``, and a lasso without
    penalty, scikit-learn's function is called.

    Raises:
        ValueError: The algorithm cannot give nonnegative codes, but `positive` asks for them.
    """
    if positive and algorithm in ("omp", "ols", "lars"):
        raise ValueError(f"Positive constraint not supported for '{algorithm}' coding method.")
    if algorithm in GREEDY:
        n_atoms, d = dictionary.shape
        wanted = max(d / 10, 1) if n_nonzero_coefs is None else n_nonzero_coefs
        level = int(min(wanted, n_atoms))
        codes = orthogonal_matching_pursuit(
            X, dictionary, level, selection=_rule(algorithm), n_threads=threads_for(n_jobs)
        )
        return np.asarray(codes.toarray())
    weight = 1.0 if alpha is None else float(alpha)
    if algorithm in EXACT_L1 and weight > 0:
        threads = threads_for(n_jobs)
        codes = lasso(X, dictionary, weight, positive=positive, n_threads=threads)
        return np.asarray(codes.toarray())
    from sklearn.decomposition import sparse_encode

    return np.asarray(
        sparse_encode(
            X,
            dictionary,
            algorithm=algorithm,
            n_nonzero_coefs=n_nonzero_coefs,
            alpha=alpha,
            max_iter=max_iter,
            n_jobs=n_jobs,
            positive=positive,
        )
    )


def threads_for(n_jobs: int | None) -> int:
    """scikit-learn's ``n_jobs`` as a number of threads: None is 1, -1 all, -2 all but one."""
    if n_jobs is None:
        return 1
    return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)


def _rule(algorithm: str) -> Any:  # noqa: ANN401 - a Selection, checked by the pursuit
    return algorithm
