r"""Learning a dictionary that codes well at a fixed sparsity level.

.. math::
    \min_{D, A} \sum_i \|x_i - D^\top a_i\|^2
    \quad \text{with} \quad \|d_j\| = 1, \; \|a_i\|_0 \le k .

The codes during learning are those the dictionary will be judged by: least-squares ones with at
most k coefficients, on a support chosen greedily or by the lasso's path. Small batches and a short
memory come much further per second than passes over all samples (K-SVD, MOD).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaesc import windows
from vaesc.sparse._batches import Batches, batch_size_for
from vaesc.sparse._blocks import DEFAULT_BLOCK_BYTES, BlockRunner
from vaesc.sparse._online import OnlineState
from vaesc.sparse._progress import Progress, fingerprint
from vaesc.sparse._start import start_dictionary
from vaesc.sparse._truncated_coder import coder_for
from vaesc.sparse._validation import Rule, as_samples, check_level, check_rule

OnEpoch = Callable[[int, dict[str, float]], None]
"""Called after each pass with its number, from 1, and its row of the history."""


@dataclass(frozen=True, kw_only=True)
class LearnedDictionary:
    """A dictionary and how learning it went."""

    dictionary: NDArray[np.float32]
    """Atoms, shape (n_atoms, d), unit rows, C-contiguous."""
    history: tuple[dict[str, float], ...]
    """One row a pass: ``train_mse`` (each batch's error just before the dictionary learns from
    it), ``validation_mse`` if validation samples were given, ``n_revived`` so far. Errors are
    squared errors per element, in squared units of X."""
    n_revived: int
    """Atoms replaced because hardly any sample used them."""
    best_epoch: int
    """Pass after which `dictionary` was taken: the one of lowest validation error, or the last."""


def learn_dictionary(
    X: ArrayLike,
    *,
    n_atoms: int,
    n_nonzero_coefs: int,
    seed: int,
    selection: Rule = "ols",
    batch_size: int = 512,
    max_epochs: int = 10,
    X_validation: ArrayLike | None = None,
    patience: int = 0,
    tol: float = 0.0,
    init: ArrayLike | None = None,
    memory: float = 2.0,
    memory_growth: float = 0.03,
    dead_below: float = 0.02,
    max_coherence: float | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: str | Path | None = None,
    n_threads: int | None = None,
) -> LearnedDictionary:
    """Learn a dictionary online, from small batches with a short memory.

    Args:
        X: Samples, shape (n, d), any n >= 1. May be lazy (Zarr, or anything that gives slices of
            rows): then no more than a window is held at once (:mod:`vaesc.windows`), samples are
            shuffled within it, and those of a single window as an array's would be. Learning
            works in float32.
        n_atoms: Number of atoms K, at least 1; above d the dictionary is overcomplete.
        n_nonzero_coefs: Sparsity level k of the codes, from 1 to K; above d it acts as d.
        seed: Fixes every random choice. The same seed gives the same bytes on the same machine,
            in any process and on any number of threads.
        selection: How codes are chosen while learning: ``"ols"``, ``"omp"``, or ``"lasso"`` for
            those of :func:`~vaesc.sparse.l1.lasso_pursuit`.
        batch_size: Samples per update; smaller ones are used when there are few samples.
        max_epochs: Passes over the samples.
        X_validation: Samples, shape (m, d), to measure every pass and to choose the best.
        patience: Stop after this many passes without a lower validation error; 0 never stops.
        tol: Stop after a pass whose training error is not lower than the last one's by more than
            this fraction of it; 0 never stops.
        init: Atoms to start from, shape (K, d), of any norm but zero; None starts from samples.
        memory: Batches the dictionary remembers at first, at least 1.
        memory_growth: Part of all batches so far that it remembers later, in [0, 1]: 0 keeps the
            memory short for ever, 1 never forgets (Mairal et al.'s first algorithm).
        dead_below: An atom used less than this fraction of the mean use gives way to a badly
            reconstructed sample, from 0 to 1.
        max_coherence: Of two atoms with a larger absolute cosine, the less used one gives way as
            well, from 0 to 1; 1 allows any. None means 0.98 where that many directions are easily
            kept apart in d dimensions, else 1.
        on_epoch: Called after each pass, also for those that a checkpoint remembers.
        checkpoint: File to write after each pass, and to go on from if it exists: an interrupted
            run that is started again gives the bytes of one that was not. `max_epochs`,
            `patience` and `tol` may differ between the two. A damaged file, or a disk that
            refuses one, costs its passes only, and is logged. None keeps no file.
        n_threads: Threads; None uses all cores.

    Returns:
        The dictionary, its history, and what happened to dead atoms.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, or a setting is out of range.

    References:
        Mairal, Bach, Ponce, Sapiro, "Online dictionary learning for sparse coding", 2009.
        https://doi.org/10.1145/1553374.1553463
    """
    samples = as_samples(X)
    if samples.shape[0] == 0:
        raise ValueError("X must hold at least one sample, got none")
    if n_atoms < 1:
        raise ValueError(f"n_atoms must be at least 1, got {n_atoms}")
    _check_settings(selection, batch_size, max_epochs, patience, tol, memory)
    for name, value in (("memory_growth", memory_growth), ("dead_below", dead_below)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}")
    level = min(check_level("n_nonzero_coefs", n_nonzero_coefs, n_atoms), samples.shape[1])
    held_out = None if X_validation is None else as_samples(X_validation, samples.shape[1])

    rng = np.random.default_rng(seed)
    with BlockRunner(n_threads) as runner:
        batches = Batches(samples, batch_size_for(samples.shape[0], batch_size), rng)
        state = OnlineState(
            dictionary=start_dictionary(batches.pool(n_atoms), n_atoms, rng, init),
            n_nonzero_coefs=level,
            selection=selection,
            memory=memory,
            memory_growth=memory_growth,
            dead_below=dead_below,
            max_coherence=_coherence_limit(max_coherence, n_atoms, samples.shape[1]),
        )
        progress = Progress(state=state, rng=rng)
        settings = {
            "seed": seed,
            "batch_size": batches.batch_size,
            "validated": held_out is not None,
            "window": None if batches.in_memory else windows.rows_per_window(samples),
            **{name: getattr(state, name) for name in _SETTINGS},
        }
        file = None if checkpoint is None else Path(checkpoint)
        digest = fingerprint(samples, settings) if file else ""
        if file:
            progress.load(file, digest)
        if on_epoch is not None:
            for epoch, row in enumerate(progress.history, start=1):
                on_epoch(epoch, dict(row))
        stop = max_epochs, patience, tol
        for row in _passes(progress, batches, held_out, stop, runner):
            if file:
                progress.save(file, digest)
            if on_epoch is not None:
                on_epoch(len(progress.history), dict(row))
    best = state.dictionary if progress.best is None else progress.best
    return LearnedDictionary(
        dictionary=best,
        history=tuple(progress.history),
        n_revived=state.n_revived,
        best_epoch=progress.best_epoch,
    )


_SETTINGS = (
    "n_nonzero_coefs",
    "selection",
    "memory",
    "memory_growth",
    "dead_below",
    "max_coherence",
)
"""Fields of the state that a checkpoint must agree on."""


def _passes(
    progress: Progress,
    batches: Batches,
    held_out: Any,  # noqa: ANN401 - an array that can be sliced
    stop: tuple[int, int, float],
    runner: BlockRunner,
) -> Iterator[dict[str, float]]:
    """Do one pass after the other, until it is time to stop; yield each one's history row."""
    max_epochs, patience, tol = stop
    state, history = progress.state, progress.history
    unit = batches.unit
    while len(history) < max_epochs and not _finished(progress, patience, tol):
        errors = [(state.step(batch, runner), len(batch)) for batch in batches.epoch()]
        seen = sum(size for _, size in errors)
        row = {
            "train_mse": sum(e * size for e, size in errors) / seen * unit * unit,
            "n_revived": float(state.n_revived),
        }
        error = -float(len(history) + 1)
        if held_out is not None:
            error = row["validation_mse"] = _coding_error(state, held_out, runner)
        progress.note(row, error)
        yield row


def _finished(progress: Progress, patience: int, tol: float) -> bool:
    """Whether the last passes brought too little."""
    history = progress.history
    if patience and len(history) - progress.best_epoch >= patience:
        return True
    flat = len(history) > 1 and (history[-1]["train_mse"] >= (1 - tol) * history[-2]["train_mse"])
    return bool(tol) and flat


def _coding_error(state: OnlineState, X: Any, runner: BlockRunner) -> float:  # noqa: ANN401
    """Mean squared error per element of the samples' codes."""
    coder = coder_for(state.dictionary, state.n_nonzero_coefs, state.selection)
    total = 0.0
    for block in windows.blocks(X):
        total += float(coder.code(block, runner, DEFAULT_BLOCK_BYTES).residual.sum())
    return total / int(X.shape[0]) / int(X.shape[1])


def _coherence_limit(max_coherence: float | None, n_atoms: int, d: int) -> float:
    """The limit asked for, or 0.98 unless random directions would often be closer than that."""
    from scipy.special import betainc

    if max_coherence is not None:
        if not 0 <= max_coherence <= 1:
            raise ValueError(f"max_coherence must be from 0 to 1, got {max_coherence}")
        return max_coherence
    limit = 0.98
    # Chance that a random line is closer to a given one, from the area of a spherical cap.
    chance = float(betainc((d - 1) / 2, 0.5, 1 - limit**2)) if d > 1 else 1.0
    return limit if n_atoms * chance < 0.1 else 1.0


def _check_settings(
    selection: str,
    batch_size: int,
    max_epochs: int,
    patience: int,
    tol: float,
    memory: float,
) -> None:
    check_rule(selection)
    if not 0 <= tol < 1:
        raise ValueError(f"tol must be at least 0 and below 1, got {tol}")
    least = (("batch_size", batch_size), ("max_epochs", max_epochs), ("memory", memory))
    for name, value in least:
        if not value >= 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if patience < 0:
        raise ValueError(f"patience must be 0 (never stop early) or more, got {patience}")
