r"""Greedy codes in other metrics and with other constraints.

:func:`metric_pursuit` measures the residual of each sample by
:math:`\|r\|_M^2 = r^\top M r`: with weights per dimension, with the precision of an encoder's
posterior, or with the pull-back :math:`M = J^\top J` of a decoder, in which a small residual means
a small error of the decoded image. :func:`nonnegative_pursuit` and :func:`group_pursuit` restrict
the code instead. All of them compute in float64.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from vaesc.sparse._blocks import BlockRunner, block_rows
from vaesc.sparse._coder import to_csr
from vaesc.sparse._validation import (
    Selection,
    as_dictionary,
    as_samples,
    check_finite_rows,
    check_level,
    check_selection,
    power_of_two,
    working_dtype,
)
from vaesc.sparse._workspace import greedy_workspace

_BLOCK_BYTES = 1 << 20
_DEPENDENT = 1e-12


def metric_pursuit(
    X: ArrayLike,
    dictionary: ArrayLike,
    n_nonzero_coefs: int,
    metric: ArrayLike,
    *,
    selection: Selection = "ols",
    n_threads: int | None = None,
) -> csr_array:
    r"""Code each sample greedily, measuring its residual in a metric.

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d).
        n_nonzero_coefs: Sparsity level, from 1 to K.
        metric: Nonnegative weights per dimension, shape (d,) for all samples or (n, d) for each;
            or a symmetric positive semidefinite matrix for each, shape (n, d, d).
        selection: ``"omp"`` or ``"ols"``; OMP compares atoms scaled to length one in the metric.
        n_threads: Threads; None uses all cores.

    Returns:
        Codes, shape (n, K), in the precision of X. Coefficients minimise
        :math:`(x - D^\top a)^\top M (x - D^\top a)` on their support. Atoms of length zero in the
        metric are not used.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, a weight is negative, or a matrix
            is not symmetric positive semidefinite.
    """
    check_selection(selection)
    atoms = as_dictionary(dictionary, np.float64)
    level = check_level("n_nonzero_coefs", n_nonzero_coefs, len(atoms))
    samples = as_samples(X, atoms.shape[1])
    weights, full = _as_metric(metric, samples.shape)
    scale = power_of_two(float(np.abs(atoms).max()))
    columns = np.ascontiguousarray(atoms.T * scale)

    def code(block: NDArray[np.float64], rows: slice, out: "_Out") -> None:
        from vaesc.sparse._metric import metric_block

        d = block.shape[1]
        part = _normalised(weights[rows], rows.start)
        metric_block(
            block,
            columns,
            np.empty((0, d)) if full else part,
            part if full else np.empty((0, d, d)),
            full,
            selection == "ols",
            _DEPENDENT,
            np.array([level]),
            greedy_workspace(len(atoms), level, np.float64),
            out.atoms[rows],
            out.values[rows],
            out.counts[rows][:, None],
        )

    return _run(samples, len(atoms), level, code, n_threads, scale)


def nonnegative_pursuit(
    X: ArrayLike,
    dictionary: ArrayLike,
    n_nonzero_coefs: int,
    *,
    n_threads: int | None = None,
) -> csr_array:
    """Code each sample by OMP with nonnegative coefficients.

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d).
        n_nonzero_coefs: Sparsity level, from 1 to K.
        n_threads: Threads; None uses all cores.

    Returns:
        Codes, shape (n, K), in the precision of X: nonnegative least-squares coefficients on
        their support. A row ends early when no atom correlates positively with its residual.

    Raises:
        ValueError: As :func:`~vaesc.sparse.pursuit.orthogonal_matching_pursuit`.

    References:
        Bruckstein, Elad, Zibulevsky, "On the uniqueness of nonnegative sparse solutions to
        underdetermined systems of equations", 2008. https://doi.org/10.1109/TIT.2008.929920
    """
    atoms = as_dictionary(dictionary, np.float64)
    level = check_level("n_nonzero_coefs", n_nonzero_coefs, len(atoms))
    each = np.arange(len(atoms) + 1)
    return _grouped(X, atoms, each, each[:-1], level, min(level, atoms.shape[1]), True, n_threads)


def group_pursuit(
    X: ArrayLike,
    dictionary: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    n_threads: int | None = None,
) -> csr_array:
    """Code each sample with few groups of atoms: all atoms of a group are taken together.

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d).
        groups: Label of each atom's group, whole numbers, shape (K,).
        n_groups: Groups a code may use, at least 1.
        n_threads: Threads; None uses all cores.

    Returns:
        Codes, shape (n, K), in the precision of X, least squares on their support. Atoms that
        depend on others of the code are left out.

    Raises:
        ValueError: There is not one label per atom, `n_groups` is out of range, or as
            :func:`~vaesc.sparse.pursuit.orthogonal_matching_pursuit`.

    References:
        Swirszcz, Abe, Lozano, "Grouped Orthogonal Matching Pursuit for Variable Selection and
        Prediction", 2009.
    """
    atoms = as_dictionary(dictionary, np.float64)
    labels = np.asarray(groups)
    if labels.shape != (len(atoms),):
        raise ValueError(
            f"groups must hold one label per atom, shape ({len(atoms)},), got {labels.shape}"
        )
    _, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    level = check_level("n_groups", n_groups, len(sizes))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    members = np.argsort(numbers, kind="stable")
    cap = min(int(np.sort(sizes)[-level:].sum()), *atoms.shape)
    return _grouped(X, atoms, starts, members, level, cap, False, n_threads)


def _grouped(
    X: ArrayLike,
    atoms: NDArray[np.float64],
    starts: NDArray[np.int64],
    members: NDArray[np.int64],
    level: int,
    cap: int,
    positive: bool,
    n_threads: int | None,
) -> csr_array:
    scale = power_of_two(float(np.abs(atoms).max()))
    atoms = atoms * scale
    gram = atoms @ atoms.T

    def code(block: NDArray[np.float64], rows: slice, out: "_Out") -> None:
        from vaesc.sparse._support import support_block

        support_block(
            block @ atoms.T,
            gram,
            starts,
            members,
            level,
            positive,
            _DEPENDENT,
            out.atoms[rows],
            out.values[rows],
            out.counts[rows],
        )

    return _run(as_samples(X, atoms.shape[1]), len(atoms), cap, code, n_threads, scale)


class _Out:
    """Slots for the codes."""

    def __init__(self, n: int, cap: int) -> None:
        self.atoms = np.zeros((n, cap), np.int32)
        self.values = np.zeros((n, cap))
        self.counts = np.zeros(n, np.int32)


def _run(
    X: Any,  # noqa: ANN401
    n_atoms: int,
    cap: int,
    code: Any,  # noqa: ANN401
    n_threads: int | None,
    scale: float,
) -> csr_array:
    """Apply `code` to blocks of scaled rows and pack what it wrote, times `scale`."""
    out = _Out(X.shape[0], cap)

    def work(start: int, stop: int) -> None:
        block = np.asarray(X[start:stop], np.float64)
        check_finite_rows(block, np.arange(start, stop))
        shift = np.frexp(np.abs(block).max(axis=1, initial=0.0))[1]
        code(np.ldexp(block, -shift[:, None]), slice(start, stop), out)
        with np.errstate(over="ignore"):  # to_csr looks for what does not fit
            out.values[start:stop] = np.ldexp(out.values[start:stop] * scale, shift[:, None])

    with BlockRunner(n_threads) as runner:
        runner.run(work, X.shape[0], block_rows(8 * n_atoms, _BLOCK_BYTES))
    with np.errstate(over="ignore"):
        values = out.values.astype(working_dtype(X))
    return to_csr(out.atoms, values, out.counts, n_atoms)


def _as_metric(metric: ArrayLike, shape: tuple[int, int]) -> tuple[NDArray[Any], bool]:
    """Metric as (n, d) weights or (n, d, d) matrices, and which of the two it is."""
    n, d = shape
    array = np.asarray(metric)
    if array.shape not in ((d,), (n, d), (n, d, d)):
        raise ValueError(
            f"metric must have shape {(d,)}, {(n, d)} or {(n, d, d)}, got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError("metric must be finite, got NaN or infinity")
    if array.ndim < 3 and (array < 0).any():
        raise ValueError(f"metric must hold no negative weight, got {array.min()}")
    if array.ndim == 1:
        array = np.broadcast_to(array, (n, d))
    return array, array.ndim == 3


def _normalised(metric: NDArray[Any], first_row: int) -> NDArray[np.float64]:
    """Metrics of a block, each with a largest entry near 1, which changes no code.

    Raises:
        ValueError: A matrix is not symmetric positive semidefinite.
    """
    part = np.ascontiguousarray(metric, np.float64)
    others = tuple(range(1, part.ndim))
    shift = np.frexp(np.abs(part).max(axis=others, initial=0.0))[1]
    part = np.asarray(np.ldexp(part, -shift.reshape(-1, *(1 for _ in others))), np.float64)
    if part.ndim == 3:
        even = np.abs(part - part.transpose(0, 2, 1)).max(axis=(1, 2)) <= 1e-6
        least = np.linalg.eigvalsh(part)[:, 0]
        bad = np.flatnonzero(~even | (least < -1e-6 * part.shape[1]))
        if bad.size:
            raise ValueError(
                "metric must hold symmetric positive semidefinite matrices, got others for rows "
                f"{(bad[:5] + first_row).tolist()}"
            )
    return part
