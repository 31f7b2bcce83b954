"""scikit-learn's sparse coding estimators, with this package's codes and dictionary learning.

Constructor arguments, attributes and meaning are scikit-learn's; ``transform_algorithm`` and
``fit_algorithm`` accept ``"ols"`` and ``"omp"`` as well. Lasso codes are exact, so
``transform_max_iter`` has no effect on them.
"""

# scikit-learn has no types: its classes and decorators, and what users may pass, are Any.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False
# ruff: noqa: ANN401

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn import decomposition
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import validate_data

from vaesc.sparse._alternate import alternate, update_atoms
from vaesc.sparse._blocks import BlockRunner
from vaesc.sparse._encode import GREEDY, encode, threads_for
from vaesc.sparse._online import OnlineState
from vaesc.sparse._start import start_dictionary
from vaesc.sparse.dictionary import learn_dictionary
from vaesc.sparse.pursuit import orthogonal_matching_pursuit

_CODERS = StrOptions({"lasso_lars", "lasso_cd", "lars", "omp", "ols", "threshold"})
_LEARNERS = StrOptions({"lars", "cd", "omp", "ols"})


class _FastCodes:
    """Codes samples with this package; scikit-learn's classes call it through `transform`."""

    components_: Any
    error_: list[float]

    def _transform(self: Any, X: Any, dictionary: NDArray[Any]) -> NDArray[Any]:
        X = validate_data(self, X, reset=False)
        alpha = self.transform_alpha
        if alpha is None:
            alpha = getattr(self, "alpha", None)
        codes = encode(
            X,
            np.asarray(dictionary),
            algorithm=self.transform_algorithm,
            n_nonzero_coefs=self.transform_n_nonzero_coefs,
            alpha=alpha,
            max_iter=self.transform_max_iter,
            n_jobs=self.n_jobs,
            positive=self.positive_code,
        )
        if self.split_sign:
            codes = np.concatenate([np.maximum(codes, 0), np.maximum(-codes, 0)], axis=1)
        return codes


def _settings(model: Any, d: int) -> dict[str, Any]:
    """What an estimator's parameters say to greedy learning; the sparsity level as in coding."""
    n_atoms = d if model.n_components is None else model.n_components
    wanted = model.transform_n_nonzero_coefs
    level = max(d // 10, 1) if wanted is None else wanted
    return {
        "n_atoms": n_atoms,
        "n_nonzero_coefs": min(level, n_atoms, d),
        "selection": model.fit_algorithm,
    }


def _learn_greedily(model: Any, X: Any, max_epochs: int, batch_size: int = 512) -> None:
    """Fit by :func:`learn_dictionary`; an error that falls by less than 0.1 % a pass ends it."""
    if model.positive_code or model.positive_dict:
        raise ValueError(
            f"positive_code and positive_dict need fit_algorithm='lars' or 'cd', got "
            f"fit_algorithm={model.fit_algorithm!r}"
        )
    X = validate_data(model, X, dtype=[np.float64, np.float32])
    learned = learn_dictionary(
        X,
        seed=check_random_state(model.random_state).randint(np.iinfo(np.int32).max),
        batch_size=batch_size,
        max_epochs=max(max_epochs, 1),
        tol=max(model.tol, 1e-3),
        init=model.dict_init,
        n_threads=threads_for(model.n_jobs),
        **_settings(model, X.shape[1]),
    )
    model.components_ = learned.dictionary.astype(X.dtype)
    vars(model).pop("_state", None)
    model.error_ = [row["train_mse"] for row in learned.history]


def _greedy_codes(model: Any, X: NDArray[Any]) -> NDArray[Any]:
    """Codes of the training samples as they were learned with."""
    chosen = _settings(model, X.shape[1])
    codes = orthogonal_matching_pursuit(
        X,
        model.components_,
        chosen["n_nonzero_coefs"],
        selection=chosen["selection"],
        n_threads=threads_for(model.n_jobs),
    )
    return np.asarray(codes.toarray())


def _first_state(model: Any, X: NDArray[Any], atoms: NDArray[Any] | None) -> OnlineState:
    """State of online learning before the first batch: from `atoms`, or from that batch."""
    chosen = _settings(model, X.shape[1])
    rng = np.random.default_rng(
        check_random_state(model.random_state).randint(np.iinfo(np.int32).max)
    )
    pool = np.ascontiguousarray(X, np.float32)
    return OnlineState(
        dictionary=start_dictionary(
            pool, chosen["n_atoms"], rng, model.dict_init if atoms is None else atoms
        ),
        n_nonzero_coefs=chosen["n_nonzero_coefs"],
        selection=chosen["selection"],
    )


class SparseCoder(_FastCodes, decomposition.SparseCoder):
    """Code samples in a given dictionary; see :class:`sklearn.decomposition.SparseCoder`."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **decomposition.SparseCoder._parameter_constraints,
        "transform_algorithm": [_CODERS],
    }

    def transform(self, X: Any, y: None = None) -> NDArray[Any]:
        """Code the samples.

        Args:
            X: Samples, shape (n, d).
            y: Ignored.

        Returns:
            Codes, dense, shape (n, K), or (n, 2 K) with `split_sign`.
        """
        return self._transform(X, self.dictionary)


class DictionaryLearning(_FastCodes, decomposition.DictionaryLearning):
    """Learn a dictionary; see :class:`sklearn.decomposition.DictionaryLearning`.

    With `fit_algorithm` ``"lars"`` or ``"cd"`` it alternates exact lasso codes and one update of
    every atom, as scikit-learn does. With ``"omp"`` or ``"ols"`` it is
    :func:`~vaesc.sparse.dictionary.learn_dictionary` at `transform_n_nonzero_coefs`, `max_iter`
    passes at most.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **decomposition.DictionaryLearning._parameter_constraints,
        "transform_algorithm": [_CODERS],
        "fit_algorithm": [_LEARNERS],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: None = None) -> NDArray[Any]:
        """Learn from the samples and code them.

        Args:
            X: Samples, shape (n, d).
            y: Ignored.

        Returns:
            Codes as learned, shape (n, K): lasso or greedy ones by `fit_algorithm`.
        """
        if self.fit_algorithm in GREEDY:
            _learn_greedily(self, X, self.max_iter)
            self.n_iter_ = len(self.error_)
            return _greedy_codes(self, validate_data(self, X, reset=False))
        if self.positive_code and self.fit_algorithm == "lars":
            raise ValueError("Positive constraint not supported for 'lars' coding method.")
        X = validate_data(self, X)
        X = X if X.dtype == np.float32 else np.asarray(X, np.float64)
        codes, dictionary, errors = alternate(self, X, check_random_state(self.random_state))
        self.components_, self.error_, self.n_iter_ = dictionary, errors, len(errors)
        return codes


class MiniBatchDictionaryLearning(_FastCodes, decomposition.MiniBatchDictionaryLearning):
    """Learn from batches; see :class:`sklearn.decomposition.MiniBatchDictionaryLearning`.

    With `fit_algorithm` ``"omp"`` or ``"ols"`` it is
    :func:`~vaesc.sparse.dictionary.learn_dictionary`, and `partial_fit` one of its steps.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **decomposition.MiniBatchDictionaryLearning._parameter_constraints,
        "transform_algorithm": [_CODERS],
        "fit_algorithm": [_LEARNERS],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: None = None) -> "MiniBatchDictionaryLearning":
        """Learn from the samples.

        Args:
            X: Samples, shape (n, d).
            y: Ignored.

        Returns:
            The estimator.
        """
        if self.fit_algorithm not in GREEDY:
            return super().fit(X)  # type: ignore[no-any-return]
        _learn_greedily(self, X, self.max_iter, batch_size=self.batch_size)
        self.n_iter_ = len(self.error_)
        self.n_steps_ = self.n_iter_ * -(-len(np.asarray(X)) // self.batch_size)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: None = None) -> "MiniBatchDictionaryLearning":
        """Learn from one batch.

        Args:
            X: Samples, shape (n, d).
            y: Ignored.

        Returns:
            The estimator.
        """
        if self.fit_algorithm not in GREEDY:
            return super().partial_fit(X)  # type: ignore[no-any-return]
        first = not hasattr(self, "components_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=first)
        if not hasattr(self, "_state"):
            self._state = _first_state(self, X, None if first else self.components_)
            self.n_steps_ = getattr(self, "n_steps_", 0)
        with BlockRunner(threads_for(self.n_jobs)) as runner:
            self._state.step(np.ascontiguousarray(X, np.float32), runner)
        self.components_ = self._state.dictionary.astype(X.dtype)
        self.n_steps_ += 1
        return self

    def _minibatch_step(
        self,
        X: NDArray[Any],
        dictionary: NDArray[Any],
        random_state: np.random.RandomState,
        step: int,
    ) -> float:
        """One step of scikit-learn's loop, which calls it by this name."""
        if self.positive_code and self.fit_algorithm == "lars":
            raise ValueError("Positive constraint not supported for 'lars' coding method.")
        codes = encode(
            X,
            dictionary,
            algorithm="lasso_lars",
            n_nonzero_coefs=None,
            alpha=self.alpha,
            max_iter=self.transform_max_iter,
            n_jobs=self.n_jobs,
            positive=self.positive_code,
        )
        misfit = 0.5 * np.square(X - codes @ dictionary).sum()
        cost = (misfit + self.alpha * np.abs(codes).sum()) / len(X)
        self._update_inner_stats(X, codes, len(X), step)
        atoms = np.ascontiguousarray(dictionary)
        update_atoms(atoms, self._A, self._B.T, X, random_state, self.positive_dict)
        dictionary[:] = atoms
        return float(cost)
