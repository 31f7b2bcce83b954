"""Checks of what callers pass: sentences that name the argument, the rule and the value."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Selection = Literal["omp", "ols"]
"""How a greedy pursuit chooses: the largest correlation, or the largest drop of the residual."""
Rule = Literal["omp", "ols", "lasso"]
"""How the atoms of a code are chosen: greedily, or by the lasso's path cut at k atoms."""


def check_selection(selection: str) -> None:
    """Refuse an unknown selection rule.

    Raises:
        ValueError: `selection` is neither ``"omp"`` nor ``"ols"``.
    """
    if selection not in get_args(Selection):
        raise ValueError(f"selection must be 'omp' or 'ols', got {selection!r}")


def check_rule(rule: str) -> None:
    """Refuse an unknown rule.

    Raises:
        ValueError: `rule` is none of ``"omp"``, ``"ols"`` and ``"lasso"``.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"selection must be 'omp', 'ols' or 'lasso', got {rule!r}")


def check_level(name: str, level: int | None, n_atoms: int) -> int:
    """Return a sparsity level as an int; None means no limit but the number of atoms.

    Raises:
        ValueError: `level` is not a whole number from 1 to `n_atoms`.
    """
    if level is None:
        return n_atoms
    is_whole = isinstance(level, (int, np.integer)) and not isinstance(level, bool)
    if not is_whole or not 1 <= level <= n_atoms:
        raise ValueError(
            f"{name} must be a whole number from 1 to the number of atoms, {n_atoms}, got "
            f"{level!r}; lower it or use a larger dictionary"
        )
    return int(level)


def power_of_two(peak: float) -> float:
    """Return what brings a largest entry near 1: a power of two, and 1 if it is not needed.

    Scaling by it is exact, and keeps squared norms representable.
    """
    return 2.0 ** -int(np.frexp(peak)[1]) if peak and not 2**-20 < peak < 2**20 else 1.0


def as_samples(X: Any, n_features: int | None = None) -> Any:  # noqa: ANN401
    """Return `X` as a 2-d array that can be sliced by rows, without loading a lazy one.

    Anything with a shape, a dtype and row slices is kept as it is (numpy, memory maps, Zarr,
    HDF5) and read block by block.

    Raises:
        ValueError: `X` is not 2-d, not real, or has not `n_features` columns.
    """
    if not (hasattr(X, "shape") and hasattr(X, "dtype") and hasattr(X, "__getitem__")):
        X = np.asarray(X)
    if len(X.shape) != 2:
        raise ValueError(f"X must have shape (n_samples, n_features), got shape {tuple(X.shape)}")
    if np.dtype(X.dtype).kind not in "fiub":
        raise ValueError(f"X must hold real numbers, got dtype {X.dtype}; convert it to float32")
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(
            f"X and dictionary must have the same number of columns, got {X.shape[1]} in X and "
            f"{n_features} in dictionary"
        )
    return X


def working_dtype(X: Any) -> np.dtype[Any]:  # noqa: ANN401
    """float64 for float64 and wide integers, float32 for anything that float32 holds exactly."""
    dtype = np.result_type(X.dtype, np.float32)
    return np.dtype(np.float64) if dtype.itemsize > 4 else np.dtype(np.float32)


def as_dictionary(dictionary: Any, dtype: Any = None) -> NDArray[Any]:  # noqa: ANN401
    """Return `dictionary` as a C-contiguous (n_atoms, d) array of finite floats.

    Raises:
        ValueError: `dictionary` is not 2-d, is empty, or holds a NaN or an infinity.
    """
    if np.asarray(dictionary).dtype.kind not in "fiub":
        raise ValueError(
            f"dictionary must hold real numbers, got dtype {np.asarray(dictionary).dtype}"
        )
    atoms = np.ascontiguousarray(dictionary, dtype=dtype)
    if atoms.ndim != 2 or 0 in atoms.shape:
        raise ValueError(
            f"dictionary must have shape (n_atoms, n_features) and not be empty, got shape "
            f"{atoms.shape}"
        )
    finite = np.isfinite(atoms).all(axis=1)
    if not finite.all():
        rows = np.flatnonzero(~finite)[:5].tolist()
        raise ValueError(f"dictionary must be finite, got NaN or infinity in atoms {rows}")
    return atoms


def check_representable(values: NDArray[Any], indptr: NDArray[Any], first_row: int = 0) -> None:
    """Refuse packed coefficients, of rows from `first_row` on, beyond the range of their type.

    Raises:
        ValueError: A row has such a coefficient.
    """
    finite = np.isfinite(values)
    if not finite.all():
        places = np.flatnonzero(~finite)
        rows = np.unique(np.searchsorted(indptr, places, side="right") - 1)[:5] + first_row
        raise ValueError(
            f"codes of rows {rows.tolist()} exceed the range of {values.dtype}; pass float64 "
            "samples, or atoms of norm 1"
        )


def check_finite_rows(rows: NDArray[Any], numbers: NDArray[Any]) -> None:
    """Refuse samples that are not finite; `numbers` are their row numbers in X.

    Raises:
        ValueError: A row holds a NaN or an infinity.
    """
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = numbers[~finite][:5].tolist()
        raise ValueError(f"X must be finite, got NaN or infinity in rows {bad}; drop or fill them")
