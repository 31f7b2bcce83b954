r"""Sparse coding and dictionary learning on the CPU, and the same maths in torch.

Notation follows the sparse coding literature: a sample :math:`x \in \mathbb{R}^d` is written
:math:`x \approx D^\top a`, with :math:`D \in \mathbb{R}^{K \times d}` the dictionary, whose rows
are the atoms, and :math:`a \in \mathbb{R}^K` the code. In shapes, ``n`` counts samples, ``K``
atoms, ``d`` dimensions and ``k`` the nonzero coefficients allowed per sample.

Importing this package imports nothing heavy: each name is loaded from its module when it is first
asked for, and numba, scikit-learn and torch only where they are used.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "AmortisedCoder": "amortised",
    "DictionaryLearning": "estimators",
    "MiniBatchDictionaryLearning": "estimators",
    "SparseCoder": "estimators",
    "LearnedDictionary": "dictionary",
    "batched_pursuit": "batched",
    "distil": "amortised",
    "duality_gap": "l1",
    "fista": "batched",
    "group_pursuit": "generalised",
    "lasso": "l1",
    "lasso_path": "l1",
    "lasso_pursuit": "l1",
    "learn_dictionary": "dictionary",
    "learn_dictionary_full": "full_batch",
    "metric_pursuit": "generalised",
    "nonnegative_pursuit": "generalised",
    "orthogonal_matching_pursuit": "pursuit",
    "pursuit_path": "pursuit",
    "reconstruct": "pursuit",
    "rows_coded_together": "_truncated_coder",
}
"""Public name -> module of this package that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module defines
    """Load a public name from its module at first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
